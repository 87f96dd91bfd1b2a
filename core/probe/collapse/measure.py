"""What is measured of one encoder at one temperature, and whether an untrained encoder would give the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.sections import Facts, Section, Table, Trust, TrustLine
from ...retrieve.collapse import Collapse, Row, layer_ratios, length_collapse, pair_similarity, split
from ...retrieve.encoders.text import TextEncoder
from ..trust.lines import UNTRAINED, line, weights_line
from ..trust.randomised import randomised
from .passkey import passkey

SAMPLE = 60
"""Texts on which the encoder is compared with untrained ones."""
LOOKED_AT = 3
"""Of them, in each bucket, whose layers are measured."""


@dataclass(frozen=True, slots=True)
class Crowding:
    """Tables of one temperature.

    Parameters
    ----------
    temperature : float
    collapse : Collapse
    passkey : list of Row
        Empty: not tested.
    trust : tuple of TrustLine
    """

    temperature: float
    collapse: Collapse
    passkey: list[Row]
    trust: tuple[TrustLine, ...]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the figure is made of; axis 0 is the temperature.

        Of T temperatures, B buckets, L layers, C cuts, K lengths: ``temperature`` [T]; ``bucket`` [B, 2], tokens (low
        exclusive, high inclusive); ``pair_similarity``, ``centroid_norm`` [T, B]; ``cross_similarity`` [T, B, B];
        ``hf_ratio`` [T, B, L + 1], from the embeddings on; ``sigma`` [T, B, L]; ``cut`` [C] and ``cut_similarity``
        [T, C]; ``passkey_tokens`` [K] and ``found``, ``found_among_all``, ``shorter_won`` [T, K].
        """
        found, buckets = self.collapse, self.collapse.buckets
        names = [str(row["bucket"]) for row in buckets]
        values = {
            "pair_similarity": column(buckets, "pair_similarity"), "centroid_norm": column(buckets, "centroid_norm"),
            "cross_similarity": np.array([[float(row[name]) for name in names] for row in found.cross]),
            "hf_ratio": hf_map(found), "sigma": hf_map(found, "sigma")[:, 1:],
            "cut_similarity": column(found.same_text, "pair_similarity"), "found": column(self.passkey, "found"),
            "found_among_all": column(self.passkey, "found_among_all"),
            "shorter_won": column(self.passkey, "shorter_won"),
        }  # fmt: skip
        return {
            "temperature": np.array([self.temperature]),
            "bucket": np.array([[row["low"], row["high"]] for row in buckets], np.int64),
            "cut": column(found.same_text, "tokens").astype(np.int64),
            "passkey_tokens": column(self.passkey, "tokens").astype(np.int64),
            **{name: value[None] for name, value in values.items()},
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The summary, and the pass key test over all lengths."""
        summary = {name: float(value) for name, value in self.collapse.summary.items()}
        means = {name: float(column(self.passkey, name).mean()) for name in FOUND} if self.passkey else {}
        return summary | means

    def sections(self) -> tuple[Section, ...]:
        """The tables and the trust lines, as a report has them."""
        found = self.collapse
        tables = (
            Table("buckets", found.buckets, title="By length"),
            Table("cross", found.cross, title="Mean cosine between the buckets", detail=True),
            Table("layers", found.layers, title="Layer by layer", detail=True),
            Table("same_text", found.same_text, title="The same texts cut to several lengths"),
            Table("passkey", self.passkey, title="Pass key test"),
        )
        meaning = {"note": "crowding is a property of vectors; it does not say that a search is worse"}
        return (*(table for table in tables if table.content), Trust("trust", self.trust), Facts("reading", meaning))


FOUND = ("found", "found_among_all", "shorter_won")


def column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A column of a table as numbers."""
    return np.array([float(row[name]) for row in rows])


def hf_map(found: Collapse, name: str = "hf_ratio") -> NDArray[np.float64]:
    """A column of the layers' table as [buckets, layers + 1]; NaN where a layer has none."""
    names = [row["bucket"] for row in found.buckets]
    layers = 1 + max((int(row["layer"]) for row in found.layers), default=-1)
    out = np.full((len(names), layers), np.nan)
    for row in found.layers:
        out[names.index(row["bucket"]), int(row["layer"])] = float(row.get(name, np.nan))
    return out


def measure(
    encoder: TextEncoder, texts: Sequence[str], *, buckets: int | Sequence[int], measured: int, lengths: Sequence[int],
    rounds: int, seed: int, step: Callable[[int, int], None] = lambda done, total: None,
) -> Crowding:  # fmt: skip
    """Length collapse, the pass key test, and both against untrained encoders.

    Parameters
    ----------
    encoder : TextEncoder
        At its temperature.
    texts : sequence of str
    buckets, measured, seed
        See ``length_collapse``.
    lengths, rounds
        See ``passkey``; no lengths: no test.
    step : callable
        Progress.

    Raises
    ------
    UsageError
        See ``length_collapse`` and ``passkey``.
    """
    total = 3 + UNTRAINED
    found = length_collapse(encoder, texts, buckets=buckets, measured=measured, seed=seed)
    step(1, total)
    keys = passkey(encoder, texts, lengths, rounds=rounds, seed=seed) if lengths else []
    step(2, total)
    own, twins = character(encoder, texts, buckets, lengths, seed), []
    step(3, total)
    for number in range(UNTRAINED):
        with randomised(encoder.model, seed + 1 + number):
            twins.append(character(encoder, texts, buckets, lengths, seed))
        step(4 + number, total)
    lines = [
        named("layers", weights_line(own.ratios, [twin.ratios for twin in twins])),
        named("similarity by length", weights_line(own.similarity, [twin.similarity for twin in twins])),
    ]
    if lengths:
        lines.append(
            line(
                "pass key", own.found, [twin.found for twin in twins],
                f"share found among documents of one length; {UNTRAINED} untrained encoders find what chance, or "
                "counting words, finds",
            )
        )  # fmt: skip
    return Crowding(encoder.fingerprint.temperature, found, keys, tuple(lines))


@dataclass(frozen=True, slots=True)
class Character:
    """What an encoder is compared with untrained ones by.

    Parameters
    ----------
    ratios : ndarray, shape (buckets, layers + 1)
        High-frequency ratio.
    similarity : ndarray, shape (buckets,)
        Mean cosine of two texts.
    found : float
        Share of pass keys found, mean over the lengths; NaN without the test.
    """

    ratios: NDArray[np.float64]
    similarity: NDArray[np.float64]
    found: float


def character(
    encoder: TextEncoder, texts: Sequence[str], buckets: int | Sequence[int], lengths: Sequence[int], seed: int
) -> Character:
    """Of a small sample, the same for the same seed."""
    drawn = np.random.default_rng(seed).permutation(len(texts))[:SAMPLE]
    some = [texts[i] for i in sorted(drawn.tolist())]
    encoded, tokens = encoder.encode_texts(some), encoder.tokens(some)
    vectors = encoded.vectors.astype(np.float64)
    members = [rows for *_, rows in split(encoded.tokens, buckets)]
    ratios = [[layer_ratios(encoder, tokens.ids[row]) for row in rows[:LOOKED_AT]] for rows in members]
    keys = passkey(encoder, texts, lengths, rounds=1, seed=seed) if lengths else []
    return Character(
        np.array([np.mean(bucket, axis=0) for bucket in ratios]),
        np.array([pair_similarity(vectors[rows]) for rows in members]),
        float(column(keys, "found").mean()) if keys else float("nan"),
    )


def named(what: str, trust: TrustLine) -> TrustLine:
    """The line of one of several maps."""
    return replace(trust, check=f"{trust.check}: {what}")
