"""Length collapse: do the vectors of long texts crowd together, and what does attention do to high frequencies?

Paper: arXiv 2410.24200. Specification: methods/tempscale.md, sections 3.2 and 3.3; step numbers are its numbers.
Nothing here claims that sigma falls with length: on real models it mostly rises (section 9). Attention maps are
measured as they are made, text by text and layer by layer, and are never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from ..models.hooks import observed
from .encoders.text import TextEncoder
from .tempscale import scaled

EDGES = (0, 64, 128, 192, 256, 512)
CUTS = (32, 64, 128, 256)

Row = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Collapse:
    """The diagnostic as plain tables.

    Parameters
    ----------
    buckets : list of Row
        Step 2: ``bucket`` ("65-128 tokens"), ``low``, ``high``, ``texts``, ``truncated``, ``pair_similarity`` (mean
        cosine of two texts), ``centroid_norm``.
    cross : list of Row
        Step 2: ``bucket`` and one column per bucket: mean cosine of a text of one and a text of the other.
    layers : list of Row
        Steps 4 and 5: ``layer`` (0 = embeddings), ``bucket``, ``texts`` measured, ``hf_ratio``, ``sigma`` (none for
        layer 0).
    same_text : list of Row
        Step 6: ``tokens`` (texts cut there), ``texts``, ``pair_similarity``, ``centroid_norm``.
    summary : Row
        ``texts``, ``truncated_share``, ``pair_similarity``, ``slope`` (Spearman of length and closeness to the mean
        vector), ``gap`` (longest less shortest bucket), ``temperature``.
    """

    buckets: list[Row]
    cross: list[Row]
    layers: list[Row]
    same_text: list[Row]
    summary: Row


def length_collapse(
    encoder: TextEncoder, texts: Sequence[str], *, buckets: int | Sequence[int] = 5, measured: int = 20,
    cuts: Sequence[int] = CUTS, seed: int = 0,
) -> Collapse:  # fmt: skip
    """Steps 1 to 6 for an encoder, at its temperature.

    Parameters
    ----------
    encoder : TextEncoder
    texts : sequence of str
        At least 4.
    buckets : int or sequence of int
        That many of equal count, or edges in tokens: a text of n tokens is in (low, high].
    measured : int
        Texts per bucket whose layers are measured (drawn at random); 0 leaves ``layers`` empty.
    cuts : sequence of int
        Lengths in tokens of the same-text test: texts longer than the largest usable cut, cut to each.
    seed : int

    Raises
    ------
    UsageError
        If there are too few texts, or the buckets make no sense.
    """
    if len(texts) < 4:
        raise UsageError(f"length collapse needs 4 texts or more, got {len(texts)}.")
    encoded = encoder.encode_texts(texts)
    vectors, lengths = encoded.vectors.astype(np.float64), encoded.tokens
    members = split(lengths, buckets)
    names = [name for name, _, _, _ in members]
    rows = [rows for _, _, _, rows in members]
    table: list[Row] = [
        {"bucket": name, "low": low, "high": high, "texts": len(of), "truncated": int(encoded.truncated[of].sum()),
         **crowding(vectors[of])}
        for name, low, high, of in members
    ]  # fmt: skip
    summary: Row = {
        "texts": len(texts), "truncated_share": float(encoded.truncated.mean()),
        "pair_similarity": pair_similarity(vectors), "slope": slope(lengths, vectors),
        "gap": float(table[-1]["pair_similarity"]) - float(table[0]["pair_similarity"]),
        "temperature": encoder.fingerprint.temperature,
    }  # fmt: skip
    cross: list[Row] = [
        {"bucket": name, **dict(zip(names, line, strict=True))}
        for name, line in zip(names, cross_similarity(vectors, rows), strict=True)
    ]
    generator = np.random.default_rng(seed)
    layers: list[Row] = []
    for name, of in zip(names, rows, strict=True):
        if measured and len(of):
            drawn = generator.permutation(of)[:measured]
            layers += [
                {"layer": i, "bucket": name, "texts": len(drawn), **values}
                for i, values in enumerate(layer_means(encoder, [texts[i] for i in drawn]))
            ]
    return Collapse(table, cross, layers, same_text(encoder, texts, cuts), summary)


def split(lengths: NDArray[np.int64], buckets: int | Sequence[int]) -> list[tuple[str, int, int, NDArray[np.int64]]]:
    """Step 1. Buckets of lengths in tokens: name, low (exclusive), high (inclusive), rows; empty ones are left out.

    Raises
    ------
    UsageError
        For fewer than one bucket or edges that do not rise.
    """
    if isinstance(buckets, int):
        if buckets < 1:
            raise UsageError(f"buckets: {buckets} must be at least 1.")
        # equal counts; texts of one length stay together, so that a bucket is a range of lengths
        cuts = np.quantile(lengths, np.linspace(0, 1, buckets + 1)[1:], method="inverted_cdf")
        edges = [int(lengths.min()) - 1, *np.unique(cuts).astype(int).tolist()]
    else:
        edges = list(buckets)
        if len(edges) < 2 or any(a >= b for a, b in pairwise(edges)):
            raise UsageError(f"buckets: the edges {edges} must be two or more rising numbers.")
    out = []
    for low, high in pairwise(edges):
        rows = np.flatnonzero((lengths > low) & (lengths <= high))
        if len(rows):
            out.append((f"{low + 1}-{high} tokens", low, high, rows))
    if not out:
        raise UsageError(f"buckets: no text is between {edges[0]} and {edges[-1]} tokens.")
    return out


def pair_similarity(vectors: NDArray[np.float64]) -> float:
    """Step 2. Mean cosine over pairs of different rows of unit vectors [m, D]; NaN for one row."""
    m = len(vectors)
    if m < 2:
        return float("nan")
    total = vectors.sum(0)
    return float((total @ total - m) / (m * (m - 1)))


def crowding(vectors: NDArray[np.float64]) -> Row:
    """Step 2. Pair similarity and norm of the mean of unit vectors [m, D]."""
    return {
        "pair_similarity": pair_similarity(vectors),
        "centroid_norm": float(np.linalg.norm(vectors.mean(0))),
    }


def cross_similarity(vectors: NDArray[np.float64], rows: Sequence[NDArray[np.int64]]) -> list[list[float]]:
    """Step 2. Mean cosine between the buckets; on the diagonal, of different texts of one bucket."""
    means = [vectors[of].mean(0) for of in rows]
    return [
        [pair_similarity(vectors[of]) if i == j else float(means[i] @ means[j]) for j in range(len(rows))]
        for i, of in enumerate(rows)
    ]


def slope(lengths: NDArray[np.int64], vectors: NDArray[np.float64]) -> float:
    """Step 3. Spearman correlation of length and cosine to the mean vector; NaN where all lengths are equal."""
    from scipy.stats import spearmanr

    if np.ptp(lengths) == 0:
        return float("nan")
    return float(spearmanr(lengths, vectors @ vectors.mean(0)).statistic)


def hf_ratio(hidden: Tensor) -> float:
    """Step 4. ||HC[X]||_F / ||X||_F of hidden states [n, D] of real tokens; HC subtracts the mean token."""
    return float((hidden - hidden.mean(0)).norm() / hidden.norm())


def sigma_hc(prob: Tensor, *, exact: bool = False, tolerance: float = 1e-9, steps: int = 1000) -> NDArray[np.float64]:
    """Step 5. Largest singular value of HC[A] of each head, for attention probabilities [H, n, n] of real tokens.

    Parameters
    ----------
    prob : Tensor [H, n, n]
        Rows are queries; HC subtracts their mean row.
    exact : bool
        A singular value decomposition, n³, instead of power iteration, 2 n² a step.
    tolerance : float
        The iteration ends when no head changes by more, relatively.
    steps : int
        At most.

    Returns
    -------
    ndarray, shape (H,), float64
    """
    high = (prob - prob.mean(-2, keepdim=True)).double()
    if exact:
        out: NDArray[np.float64] = torch.linalg.matrix_norm(high, 2).cpu().numpy()
        return out
    # not the vector of ones: rows of A sum to 1, so that HC[A] maps it to 0
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(high.shape[-1], 1, dtype=torch.float64, generator=generator).to(high.device)
    v = v.expand(len(high), -1, -1) / v.norm()
    before = high.new_zeros(len(high))
    for _ in range(steps):
        u = high @ v  # [H, n, 1]
        now = u.flatten(1).norm(dim=1)
        v = high.mT @ u
        v = v / v.flatten(1).norm(dim=1)[:, None, None].clamp(min=torch.finfo(torch.float64).tiny)
        if bool(((now - before).abs() <= tolerance * now).all()):
            break
        before = now
    last: NDArray[np.float64] = now.cpu().numpy()
    return last


def layer_means(encoder: TextEncoder, texts: Sequence[str]) -> list[Row]:
    """Steps 4, 5, means over texts: ``hf_ratio`` of layers 0 ... L, ``sigma`` (mean over heads) of layers 1 ... L."""
    ratios: list[list[float]] = []
    sigmas: list[dict[int, float]] = []
    for ids in encoder.tokens(texts).ids:  # one by one: no padding, and one map in memory at a time
        sigma: dict[int, float] = {}

        def keep(layer: int, prob: Tensor, of: dict[int, float] = sigma) -> None:
            of[layer] = float(sigma_hc(prob[0]).mean())

        with observed(encoder.model, keep):
            ratios.append(layer_ratios(encoder, ids))
        sigmas.append(sigma)
    means = np.mean(ratios, axis=0)
    rows: list[Row] = [{"hf_ratio": float(value)} for value in means]
    for layer in sorted(sigmas[0]):
        rows[layer + 1]["sigma"] = float(np.mean([by_layer[layer] for by_layer in sigmas]))
    return rows


def layer_ratios(encoder: TextEncoder, ids: list[int]) -> list[float]:
    """Step 4. High-frequency ratio of layers 0 ... L of one text, given as its tokens."""
    model: Any = encoder.model
    with torch.inference_mode(), scaled(model, encoder.fingerprint.temperature):
        out = model(**encoder.batch([ids]), output_hidden_states=True)
    return [hf_ratio(hidden[0].double()) for hidden in out.hidden_states]


def same_text(encoder: TextEncoder, texts: Sequence[str], cuts: Sequence[int]) -> list[Row]:
    """Step 6. The same long texts cut to several lengths: what length does when the topics stay.

    Texts longer than the largest cut that at least two texts reach; a cut keeps the tokens that close a text.
    """
    counts = encoder.tokens(texts).counts
    usable = [cut for cut in sorted(cuts) if int((counts >= cut).sum()) >= 2]
    if not usable:
        return []
    long = [texts[i] for i in np.flatnonzero(counts >= usable[-1]).tolist()]
    return [
        {"tokens": cut, "texts": len(long), **crowding(encoder.cut(cut).encode_texts(long).vectors.astype(np.float64))}
        for cut in usable
    ]
