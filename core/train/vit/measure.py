"""Plain and pruned models side by side: accuracy, counted cost, and pictures per second in one interleaved run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import UsageError
from ...prune.methods.base import Keep
from ...prune.vit.base import VitPruner, timed
from ...prune.vit.passes import pruned_images
from ...prune.vit.site import image_site
from .data import LabelledPictures
from .plain import EVALUATED


@dataclass(frozen=True, slots=True)
class Variant:
    """A model, and the method that prunes it.

    Parameters
    ----------
    name : str
    model : Module
    method : VitPruner or None
        None: as it is.
    keep : Keep
        Budget of the method.
    """

    name: str
    model: Any
    method: VitPruner | None = None
    keep: Keep = field(default_factory=lambda: Keep(share=1.0))


@dataclass(slots=True)
class _Sums:
    right: int = 0
    costs: list[torch.Tensor] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@torch.inference_mode()
def side_by_side(
    variants: Sequence[Variant], pictures: LabelledPictures, device: torch.device, *, size: int = EVALUATED
) -> list[dict[str, Any]]:
    """A row for each variant; the first is what the others are compared to.

    Parameters
    ----------
    variants : sequence of Variant
    pictures : LabelledPictures
    device : torch.device
    size : int
        Pictures of a batch. Each goes through all variants, one after the other, the next begins with another one.

    Returns
    -------
    list of dict: ``model``, ``accuracy``, ``mega_multiply_adds`` (mean of a picture, counted from its tokens),
    ``cost_share``, ``kept`` and ``kept_std`` (mean share of patches over all blocks, and its deviation between
    pictures), ``images_per_second`` (median over the batches), ``speedup``.
    """
    images, labels = next(pictures.batches(size, device))
    for variant in variants:
        _run(variant, _Sums(), images, labels)  # warms up
    sums = [_Sums() for _ in variants]
    order = list(range(len(variants)))
    for images, labels in pictures.batches(size, device):
        for i in order:
            _run(variants[i], sums[i], images, labels)
        order = [*order[1:], order[0]]
    rows = []
    for variant, of in zip(variants, sums, strict=True):
        cost, kept = torch.cat(of.costs), torch.cat(of.kept)
        rows.append({
            "model": variant.name, "accuracy": of.right / len(pictures),
            "mega_multiply_adds": float(cost.mean()) / 1e6, "kept": float(kept.mean()),
            "kept_std": float(kept.std(correction=0)), "images_per_second": 1 / statistics.median(of.seconds),
        })  # fmt: skip
    first: Mapping[str, Any] = rows[0]
    for row in rows:
        row["cost_share"] = row["mega_multiply_adds"] / first["mega_multiply_adds"]
        row["speedup"] = row["images_per_second"] / first["images_per_second"]
    return rows


def _run(variant: Variant, sums: _Sums, images: torch.Tensor, labels: torch.Tensor) -> None:
    site = image_site(variant.model)
    context = pruned_images(site) if variant.method is None else variant.method.applied(site, variant.keep)
    with context as trace:
        output, seconds = timed(variant.model, images)
    sums.right += int((output.logits.argmax(1) == labels).sum())
    sums.costs.append(trace.last.multiply_adds.cpu())
    sums.kept.append(trace.last.retention(0).cpu())
    sums.seconds.append(seconds / len(images))


@torch.inference_mode()
def keep_for_cost(
    method: VitPruner, model: Any, images: torch.Tensor, share: float, *, plain: Any | None = None
) -> Keep:
    """The budget at which a method costs ``share`` of the ``plain`` model, by bisection on a few pictures.

    Raises ``UsageError`` where the method cannot be so cheap.
    """
    site = image_site(model)
    whole = model if plain is None else plain
    with pruned_images(image_site(whole)) as trace:
        whole(images)
    wanted = share * float(trace.last.multiply_adds.mean())
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        try:
            with method.applied(site, Keep(share=middle)) as trace:
                model(images)
            cost = float(trace.last.multiply_adds.mean())
        except UsageError:  # fewer tokens than the method can leave
            cost = -math.inf
        low, high = (middle, high) if cost < wanted else (low, middle)
    with method.applied(site, Keep(share=high)) as trace:
        model(images)
    if (reached := float(trace.last.multiply_adds.mean())) > 1.05 * wanted:  # few tokens are a coarse grid
        least = reached * share / wanted
        raise UsageError(f"a share of {share:.3g} of the cost: {type(method).__name__} reaches {least:.3g}.")
    return Keep(share=high)
