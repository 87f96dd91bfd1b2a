"""How exact an operator is, on sampled query rows: never an L x L matrix.

Specification: methods/attention-bench.md, sections 3 (oracle columns) and 4 (measures).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attention.contract import Selection
from ..attention.equations import repeat_kv

CHUNK = 32  # rows of scores in memory at a time
SINKS = 4  # first keys that the window column keeps


def sample_rows(len_q: int, count: int, seed: int) -> Tensor:
    """A quarter last rows, a quarter log-spaced, the rest random: int64 [R], ascending, without repeats."""
    if count >= len_q:
        return torch.arange(len_q)
    quarter = max(1, count // 4)
    last = torch.arange(len_q - quarter, len_q)
    spaced = torch.logspace(0, torch.tensor(len_q).log10().item(), quarter).long().clamp(1, len_q) - 1
    fixed: Tensor = torch.unique(torch.cat([last, spaced]))  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(seed)
    rest = torch.randperm(len_q, generator=generator)
    rest = rest[~torch.isin(rest, fixed)][: count - len(fixed)]
    return torch.cat([fixed, rest]).sort().values


def probabilities(
    q: Tensor, k: Tensor, rows: Tensor, *, causal: bool, scale: float
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Dense softmax of some query rows in float64, ``CHUNK`` at a time.

    The specification allows float32 beyond 8192 keys; but a truth made of the same float32 products as the baseline
    shares its rounding, and the baseline looked four times as exact as it is.

    Yields
    ------
    part : slice
        Which of ``rows``.
    prob : Tensor [B, Hq, R', Lk]
    visible : Tensor, int64 [R']
        Keys that each row may see.
    """
    len_q, len_k = q.shape[2], k.shape[2]
    keys = repeat_kv(k, q.shape[1]).double().mT
    at = torch.arange(len_k, device=q.device)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        chosen = rows[part]
        scores = (q[:, :, chosen].double() @ keys) * scale
        seen = chosen + len_k - len_q + 1 if causal else torch.full_like(chosen, len_k)
        if causal:
            scores.masked_fill_(at >= seen[:, None], -torch.inf)
        yield part, scores.softmax(-1), seen


@dataclass
class Recall:
    """Attention mass per sampled row, [B, Hq, R'] a chunk: kept by the method, and by three others at its budget."""

    method: list[Tensor] = field(default_factory=list)
    oracle: list[Tensor] = field(default_factory=list)
    random: list[Tensor] = field(default_factory=list)
    window: list[Tensor] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)
    shared: list[Tensor] = field(default_factory=list)

    def add(self, prob: Tensor, visible: Tensor, mask: Tensor, searched: float) -> None:
        """One chunk: ``prob`` [B, Hq, R', Lk], ``mask`` bool of the same shape, ``searched`` keys per query."""
        keys = mask.sum(-1)  # [B, Hq, R']
        budget = (keys + round(searched)).minimum(visible).clamp(min=1)
        best = prob.sort(-1, descending=True).values
        ordered = best.cumsum(-1)
        by_place = torch.nn.functional.pad(prob.cumsum(-1), (1, 0))  # [..., n] is the mass of the first n keys
        sinks = budget.clamp(max=SINKS)
        first = torch.maximum(visible - (budget - sinks), sinks)  # the window starts here, never inside the sinks
        self.method.append((prob * mask).sum(-1))
        self.oracle.append(ordered.gather(-1, budget[..., None] - 1)[..., 0])
        self.random.append(budget / visible)
        in_window = by_place.gather(-1, visible.expand_as(budget)[..., None]) - by_place.gather(-1, first[..., None])
        self.window.append((in_window + by_place.gather(-1, sinks[..., None]))[..., 0])
        self.counted.append(visible.expand_as(keys) > keys)
        cut = best.gather(-1, keys.clamp(min=1)[..., None] - 1)
        common = (mask & (prob >= cut)).sum(-1)  # of as many keys as were chosen, those among the best
        self.shared.append(common / (2 * keys - common).clamp(min=1))

    def metrics(self) -> dict[str, float]:
        """Means over the rows that see more keys than they attend to; over all rows where there is no such row."""
        counted = torch.cat([c.flatten() for c in self.counted])
        if not counted.any():
            counted = torch.ones_like(counted)

        def values(parts: list[Tensor]) -> Tensor:
            return torch.cat([p.double().flatten() for p in parts])[counted]

        method, oracle, random = values(self.method), values(self.oracle), values(self.random)
        gap = (oracle - random).mean()
        return {
            "mass_recall": method.mean().item(),
            "mass_recall_p5": method.quantile(0.05).item(),
            "mass_recall_min": method.min().item(),
            "oracle_recall": oracle.mean().item(),
            "window_recall": values(self.window).mean().item(),
            "random_recall": random.mean().item(),
            "token_iou": values(self.shared).mean().item(),
            "oracle_score": ((method - random).mean() / gap).item() if gap > 1e-9 else float("nan"),
        }


def output_error(out: Tensor, truth: Tensor) -> dict[str, float]:
    """Errors of ``out`` against ``truth``, both [B, Hq, R, Dv]: relative Frobenius, worst row, smallest cosine."""
    out, truth = out.double(), truth.double()
    norms, difference = truth.norm(dim=-1), (out - truth).norm(dim=-1)
    tiny = torch.finfo(torch.float32).tiny
    cosine = (out * truth).sum(-1) / (out.norm(dim=-1) * norms).clamp(min=tiny)
    return {
        "relative_error": (difference.norm() / truth.norm().clamp(min=tiny)).item(),
        "relative_error_max": (difference / norms.clamp(min=tiny)).max().item(),
        "cosine_min": cosine.min().item(),
    }


def shared(one: Tensor, other: Tensor) -> Tensor:
    """|A and B| / |A or B| of the keys that two masks choose, bool [..., Lk] -> float64 [...]; methods/hisa.md, 3.5."""
    return (one & other).sum(-1).double() / (one | other).sum(-1).clamp(min=1)


def overlap(shares: Tensor) -> dict[str, float]:
    """Mean, first percentile and least of ``shared``, as ``flat_iou``, ``flat_iou_p1`` and ``flat_iou_min``."""
    return {
        "flat_iou": shares.mean().item(),
        "flat_iou_p1": shares.quantile(0.01).item(),
        "flat_iou_min": shares.min().item(),
    }


def measure(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    outputs: Mapping[str, Tensor],
    selections: Mapping[str, Selection],
    *,
    causal: bool,
    scale: float,
    truths: Mapping[str, Tensor],
    needles: Tensor | None = None,
    against: Mapping[str, tuple[str, int]] | None = None,
) -> dict[str, dict[str, float]]:
    """Exactness of several candidates on the same rows, one pass over the dense probabilities.

    Parameters
    ----------
    q, k, v : Tensor
        As in ``attention``.
    rows : Tensor, int64 [R]
    outputs : mapping of label to Tensor [B, Hq, R, Dv]
        What each candidate returned for ``rows``.
    selections : mapping of label to Selection
        For the candidates that choose keys.
    truths : mapping of label to Tensor [B, Hq, R, Dv]
        For candidates whose truth is not softmax attention.
    needles : Tensor, int64 [B, Hkv, m], optional
        Keys that queries were built to find: position t looks for needle t mod m. Adds ``needle_hit``.
    against : mapping of label to (label, int), optional
        Whose chosen keys a candidate's are compared with; adds ``overlap`` over the rows that see more keys than the
        number.

    Returns
    -------
    dict of label to metrics
    """
    against = against or {}
    values = repeat_kv(v, q.shape[1])
    dense: list[Tensor] = []
    recalls = {label: Recall() for label in selections}
    pairs: dict[str, list[Tensor]] = {label: [] for label in against}
    hits: dict[str, list[Tensor]] = {label: [] for label in selections}
    queries = max(1, q.shape[0] * q.shape[1] * q.shape[2])
    for part, prob, visible in probabilities(q, k, rows, causal=causal, scale=scale):
        dense.append(prob @ values.to(prob.dtype))
        masks = {label: selection.mask(rows[part]) for label, selection in selections.items()}
        for label, (other, least) in against.items():
            if label in masks and other in masks:
                pairs[label].append(shared(masks[label], masks[other])[:, :, visible > least].flatten())
        for label, selection in selections.items():
            mask = masks[label]
            recalls[label].add(prob, visible, mask, selection.searched / queries)
            if needles is not None:
                at = (rows[part] + k.shape[2] - q.shape[2]) % needles.shape[-1]
                target = repeat_kv(needles[..., None], q.shape[1])[..., 0][..., at]  # [B, Hq, R']
                hit = mask.gather(-1, target[..., None])[..., 0]
                hits[label].append(hit[target < visible])
    truth = torch.cat(dense, 2) if dense else q.new_empty((*q.shape[:2], 0, v.shape[-1]))
    figures: dict[str, dict[str, Any]] = {
        label: output_error(out, truths.get(label, truth)) for label, out in outputs.items()
    }
    for label, shares in pairs.items():
        if shares and (share := torch.cat(shares)).numel():
            figures.setdefault(label, {}).update(overlap(share))
    for label, recall in recalls.items():
        figures.setdefault(label, {}).update(recall.metrics())
        if needles is not None and (all_hits := torch.cat(hits[label])).numel():
            figures[label]["needle_hit"] = all_hits.double().mean().item()
    return figures
