"""How much each head matters: what a model says without it, by seven measures and one of first order.

Specification: methods/vit-analytics.md, section 3.1. p are the probabilities of the whole model, q those without a
head, y the class that is looked at. One at a time: importances do not add up, as the cumulative curve shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...models.hooks import edit
from ...options import OptionError
from .kept import Plain, Says
from .restart import Ablation, HeadSite

SMALLEST = 1e-12
"""Probabilities are not taken to be smaller where a logarithm is taken."""
ROWS = 32
"""Pictures of a batch."""


def change(before: Says, after: Says, target: Tensor | None) -> dict[str, Tensor]:
    """The metrics of pictures without a head.

    Parameters
    ----------
    before : Says, of B pictures
    after : Says, of R * B pictures, row by row
    target : Tensor of int64 [B] or None
        The class y of each picture; None: the model is no classifier, and ``cos`` is all there is.

    Returns
    -------
    dict of str to Tensor [R, B]: ``cos``, and for classifiers ``dprob`` (p[y] - q[y]), ``kl``, ``jsd`` (natural
    logarithm, ln 2 at most), ``dloss``, ``flip`` (0 or 1) and ``acc`` (1 where y was the best class and no longer is,
    -1 where it is now).
    """
    rows = len(after.feature) // len(before.feature)
    feature = after.feature.view(rows, *before.feature.shape)
    found = {"cos": 1 - F.cosine_similarity(feature, before.feature[None], dim=-1)}
    if target is None:
        return found
    assert before.logits is not None
    assert after.logits is not None
    p = before.logits.softmax(-1)[None].expand(rows, -1, -1)  # [R, B, C]
    q = after.logits.softmax(-1).view(rows, *before.logits.shape)
    at = target[None, :, None].expand(rows, -1, 1)
    p_y, q_y = p.gather(-1, at)[..., 0], q.gather(-1, at)[..., 0]
    best_p, best_q = p.argmax(-1), q.argmax(-1)
    middle = (p + q) / 2
    return {
        "jsd": (_divergence(p, middle) + _divergence(q, middle)) / 2,
        "kl": _divergence(p, q),
        "dprob": p_y - q_y,
        "dloss": _log(p_y) - _log(q_y),
        "flip": (best_p != best_q).to(p),
        "acc": (best_p == target).to(p) - (best_q == target).to(p),
    } | found


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=SMALLEST).log()


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p * (_log(p) - _log(q))).sum(-1)


@dataclass(frozen=True, slots=True)
class HeadImportance:
    """What the heads of a model do for some pictures.

    Parameters
    ----------
    heads : dict of str to ndarray, shape (L, H, B), float64
        By metric, with one head taken out.
    layers : dict of str to ndarray, shape (L, B), float64
        With all heads of a layer taken out.
    before : Says
    target : Tensor of int64 [B] or None
    plain : Plain
        The pass with all heads.
    """

    heads: dict[str, NDArray[np.float64]]
    layers: dict[str, NDArray[np.float64]]
    before: Says
    target: Tensor | None
    plain: Plain


def importance(
    site: HeadSite, pixels: Tensor, *, labels: Tensor | None = None, ablation: Ablation = "zero",
    means: Tensor | None = None, step: Callable[[int, int], None] = lambda done, total: None,
) -> HeadImportance:  # fmt: skip
    """Every head and every layer of a model taken out, from its layer on (``restart``).

    Parameters
    ----------
    site : HeadSite
    pixels : Tensor [B, C, h, w]
    labels : Tensor of int64 [B], optional
        The class that is looked at; default: the one that the model predicts.
    ablation, means
        See ``HeadSite.without``.
    step : callable (done, total)
        Told after each layer.

    Raises
    ------
    OptionError
        If what the model says is not finite.
    """
    before, plain = site.plain(pixels)
    if not bool(before.feature.isfinite().all()):
        name = type(site.model).__name__
        raise OptionError(
            f"{{model}}: {name} gives numbers that are not finite: its weights are damaged. Name another."
        )
    target = None
    if before.logits is not None:
        target = before.logits.argmax(-1) if labels is None else labels.to(before.logits.device)
    one = torch.cat([torch.eye(site.heads), torch.ones(1, site.heads)]).bool()  # each head, and all of them
    found: dict[str, list[Tensor]] = {}
    for layer in range(site.depth):
        parts = []
        for rows in one.split(max(1, ROWS // len(pixels))):  # type: ignore[no-untyped-call]
            parts.append(change(before, site.without(plain, layer, rows, ablation, means), target))
        for name in parts[0]:
            found.setdefault(name, []).append(torch.cat([part[name] for part in parts]))
        step(layer + 1, site.depth)
    values = {name: torch.stack(layers).double().cpu().numpy() for name, layers in found.items()}  # [L, H + 1, B]
    return HeadImportance(
        {name: value[:, :-1] for name, value in values.items()}, {name: value[:, -1] for name, value in values.items()},
        before, target, plain,
    )  # fmt: skip


def gate_gradients(site: HeadSite, pixels: Tensor, target: Tensor) -> NDArray[np.float64]:
    """|sum of A * d ln p[y] / dA| of each head, [L, H, B]: the gradient of a factor on the head, which is 1.

    methods/probe-peers.md, section 5, item 1: attention beside its effect, to first order and at the cost of one pass.

    Parameters
    ----------
    site : HeadSite
        Of a classifier.
    pixels : Tensor [B, C, h, w]
    target : Tensor of int64 [B]
    """
    found = []
    for picture, y in zip(pixels, target.tolist(), strict=True):
        with torch.enable_grad():
            gates = {layer: torch.ones(site.heads, requires_grad=True) for layer in range(site.depth)}
            with edit(site.model, heads=gates):
                logits = site.says(picture[None]).logits
            assert logits is not None
            gradients = torch.autograd.grad(logits.log_softmax(-1)[0, y], [*gates.values()])
        found.append(torch.stack(gradients).abs())
    return torch.stack(found, -1).double().cpu().numpy()


def ranked(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Heads from the least to the most important one, as numbers layer * H + head; equal ones in that order."""
    return np.argsort(values, axis=None, kind="stable")


def agreement(metrics: Mapping[str, NDArray[np.float64]]) -> list[dict[str, float | str | None]]:
    """Kendall's tau between the rankings of the metrics: a row for each, with None where one of them is constant.

    ``metrics`` are means over pictures, [L, H].
    """
    from scipy.stats import kendalltau

    rows: list[dict[str, float | str | None]] = []
    for name, values in metrics.items():
        row: dict[str, float | str | None] = {"metric": name}
        for other, against in metrics.items():
            constant = np.ptp(values) == 0 or np.ptp(against) == 0
            row[other] = None if constant else float(kendalltau(values.ravel(), against.ravel()).statistic)
        rows.append(row)
    return rows


def context_means(plain: Plain) -> Tensor:
    """The mean over pictures and positions of what the heads give, [L, H * d]: what ``"mean"`` puts in their place."""
    return torch.stack([layer.context.mean((0, 1)) for layer in plain.layers])
