"""One picture: what every head does for it, how far it looks, what it looks at, and whether that can be believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...batch.task import Task
from ...errors import InputError
from ...models.geometry import Geometry, geometry_of
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.pictures import read_picture
from ...options import OptionError
from ...report.sections import Section, Table, Trust, TrustLine
from ..frame import Finding
from ..panel import shown
from ..trust.lines import UNTRAINED, removal_line, weights_line
from ..trust.randomised import randomised
from ..trust.removal import deletion_insertion
from .importance import HeadImportance, gate_gradients, importance
from .maps import HeadMaps, head_maps
from .names import names_of
from .options import VitOptions
from .restart import HeadSite
from .sinks import layer_rows, notes, sinks, without

GRADIENT = "gradient"
"""Name of the measure of first order."""


@lru_cache(maxsize=1)
def loaded_model(model: str, device: str, allow_download: bool) -> Loaded:
    """The model; read once per process."""
    return load_model(model, "classifier", device=device, allow_download=allow_download)


@lru_cache(maxsize=1)
def site_of(model: str, device: str, allow_download: bool) -> HeadSite:
    """Its layers. Raises ``UsageError`` if it has no heads that could be looked at."""
    return HeadSite(loaded_model(model, device, allow_download).model)


def look(task: Task, step: Callable[[int, int], None], options: VitOptions) -> Finding:
    """Look at one picture. ``task.payload``: the heads' means over all pictures [L, H * d], where they are wanted."""
    named = (options.model, options.device, options.allow_download)
    loaded, site = loaded_model(*named), site_of(*named)
    picture = read_picture(task.source)
    assert loaded.processor.images is not None
    prepared = loaded.processor.images.prepared(picture.pixels).of(picture.size)
    geometry = geometry_of(loaded.model, prepared)
    weight = next(loaded.model.parameters())
    pixels = prepared.pixels[None].to(weight.device, weight.dtype)
    label = label_of(task.source, loaded) if options.target == "label" else None
    parts = site.depth + 2 + (UNTRAINED if options.trust else 0)
    means = None if task.payload is None else torch.from_numpy(task.payload).to(pixels)
    with torch.inference_mode():
        found = importance(
            site, pixels, labels=None if label is None else torch.tensor([label]), ablation=options.ablate,
            means=means, step=lambda done, _: step(done, parts),
        )  # fmt: skip
        maps = head_maps(site, found.plain.layers, geometry, metric=options.rings, keep_class=options.keep_class)
        blank = blank_maps(site, torch.zeros_like(pixels), geometry, options)
    if found.target is not None and site.gates:
        found.heads[GRADIENT] = gate_gradients(site, pixels, found.target)
    step(site.depth + 1, parts)
    lines = list(trust_lines(site, pixels, geometry, maps, found, options, step, parts)) if options.trust else []
    return _finding(task, options, loaded, picture, prepared, geometry, found, maps, blank, lines, label, pixels)


def label_of(source: Path, loaded: Loaded) -> int:
    """The class of a picture: the name of its folder. Raises ``InputError`` where the model has no such class."""
    if not loaded.labels:
        raise OptionError("{target}: the model has no classes with names. Use pred.")
    name = source.absolute().parent.name
    if name not in loaded.labels:
        some = ", ".join(loaded.labels[:3])
        raise InputError(source, f"its folder {name!r} is no class of the model ({some}, ...)", "Use --target pred")
    return loaded.labels.index(name)


def blank_maps(site: HeadSite, pixels: Tensor, geometry: Geometry, options: VitOptions) -> HeadMaps:
    """Of the blank picture."""
    _, plain = site.plain(pixels)
    return head_maps(site, plain.layers, geometry, metric=options.rings, keep_class=options.keep_class)


def patch_map(maps: HeadMaps, has_class: bool) -> NDArray[np.float32]:
    """What the last layer looks at, [N]: the row of the class token, or what patches receive; mean over heads."""
    found: NDArray[np.float32] = maps.class_row[-1] if has_class else maps.received[-1].mean(0)
    return found


def trust_lines(
    site: HeadSite, pixels: Tensor, geometry: Geometry, maps: HeadMaps, found: HeadImportance, options: VitOptions,
    step: Callable[[int, int], None], parts: int,
) -> list[TrustLine]:  # fmt: skip
    """Can the map of the last layer be believed? Randomised weights; and, of a classifier, deletion and insertion."""
    grid, has_class = geometry.tiles[0].grid, site.has_class
    mine = patch_map(maps, has_class).reshape(grid)
    untrained = []
    for seed in range(UNTRAINED):
        with torch.inference_mode(), randomised(site.model, options.seed + seed):
            untrained.append(patch_map(blank_maps(site, pixels, geometry, options), has_class).reshape(grid))
        step(parts - UNTRAINED + seed + 1, parts)
    lines = [weights_line(mine, untrained)]
    if found.target is not None:
        at = int(found.target[0])

        def predict(batch: Tensor) -> Tensor:
            logits = site.says(batch).logits
            assert logits is not None
            return logits.softmax(-1)[:, at]

        lines.append(removal_line(deletion_insertion(predict, pixels[0], mine, seed=options.seed)))
    return lines


def _finding(
    task: Task, options: VitOptions, loaded: Loaded, picture: Any, prepared: Any, geometry: Geometry,
    found: HeadImportance, maps: HeadMaps, blank: HeadMaps, lines: list[TrustLine], label: int | None, pixels: Tensor,
) -> Finding:  # fmt: skip
    grid, n = geometry.tiles[0].grid, maps.received.shape[-1]
    names = names_of(maps.ring_sum, maps.offsets, maps.shift, maps.received, maps.entropy)
    received, bare = maps.received.mean(1), blank.received.mean(1)
    sunk = sinks(received)
    sink_rows = layer_rows(received, bare, sunk)
    heads = {name: values[..., 0] for name, values in found.heads.items() if name != "acc" or label is not None}
    ranking: str = options.ranking or next(name for name in heads)
    if ranking not in heads:
        raise OptionError(f"{{ranking}}: {ranking} is not measured here. There are {', '.join(heads)}.")
    share = maps.entropy / (math.log(n) or 1)
    layers = [
        {
            "layer": layer, ranking: float(heads[ranking][layer].mean()),
            f"{ranking}_layer": None if ranking not in found.layers else float(found.layers[ranking][layer, 0]),
            "distance_patches": float(maps.distance[layer].mean()),
            "distance_px": float(maps.distance_px[layer].mean()),
            "entropy_share": float(share[layer].mean()), "cls_to_patch": float(maps.cls_to_patch[layer].mean()),
            "patch_to_cls": float(maps.patch_to_cls[layer].mean()), "self_mass": float(maps.self_mass[layer].mean()),
            "norm_ratio_class": float(maps.norm_ratio[layer, 0]), "norm_ratio": float(maps.norm_ratio[layer, 1]),
            **{name: value for name, value in sink_rows[layer].items() if name != "layer"},
        }
        for layer in range(len(names))
    ]  # fmt: skip
    sections: list[Section] = [
        Table("heads", head_rows(names, heads, maps, share), title="Every head", detail=True),
        Table("layers", layers, title="Layer by layer", detail=True),
    ]
    if lines:
        sections.append(Trust("trust", lines, title="Can the map of the last layer be believed?"))
    says = found.before
    predicted = None
    if says.logits is not None:
        best = int(says.logits[0].argmax())
        predicted = loaded.labels[best] if loaded.labels else str(best)
    tile = geometry.tiles[0]
    arrays: dict[str, NDArray[Any]] = {
        **{f"importance_{name}": values.astype(np.float32) for name, values in heads.items()},
        **{f"layer_importance_{name}": found.layers[name][:, 0].astype(np.float32)
           for name in heads if name in found.layers},
        **{name: getattr(maps, name) for name in (
            "offsets", "ring_sum", "ring_mean", "entropy", "shift", "cls_to_patch", "patch_to_cls", "self_mass",
            "diagonal", "adjusted_diagonal", "position_entropy", "norm_ratio",
        )},
        "distance_patches": maps.distance, "distance_px": maps.distance_px, "received": maps.received,
        "distance_px_by_patch": maps.distance_of.reshape(-1, *grid),
        "class_row": maps.class_row.reshape(-1, *grid),
        "blank_received": blank.received, "sinks": sunk.reshape(-1, *grid),
        "patterns": maps.patterns.astype(np.float16),
        "cleared": without(received, bare, sunk).reshape(-1, *grid),
        "pixels": pixels[0].float().cpu().numpy(), "picture": shown(picture.pixels),
    }  # fmt: skip
    metrics = {
        f"{ranking}_most": float(heads[ranking].max()), "distance_patches": float(maps.distance.mean()),
        "distance_px": float(maps.distance_px.mean()), "entropy": float(maps.entropy.mean()),
        "entropy_share": float(share.mean()), "sinks": float(sunk.sum()),
    }  # fmt: skip
    return Finding(
        title=f"{task.name}, {options.model}" + (f": {predicted}" if predicted else ""),
        arrays=arrays, metrics=metrics,
        facts={
            "model": options.model, "family": loaded.family, "classifier": predicted is not None,
            "predicted": predicted, "label": None if label is None else loaded.labels[label],
            "target": None if found.target is None else int(found.target[0]), "ranking": ranking,
            "measures": list(heads), "names": names.tolist(), "has_class": bool(np.isfinite(maps.class_row).all()),
            "size": list(picture.size), "box": list(tile.box), "grid": list(grid),
            "patch_px": list(geometry.patch_size()), "rings": options.rings, "ablate": options.ablate,
        },
        sections=tuple(sections), warnings=(*picture.warnings, *unseen(picture.size, tile.box), *notes(sink_rows, n)),
    )  # fmt: skip


def unseen(size: tuple[int, int], box: tuple[float, float, float, float]) -> list[str]:
    """What the model was not shown of a picture of ``size`` (height, width), from 1 % of its area on.

    ``box`` is what it was shown: top, left, bottom, right in pixels of the picture.
    """
    height, width = size
    top, left, bottom, right = box
    inside = max(0.0, min(bottom, height) - max(top, 0.0)) * max(0.0, min(right, width) - max(left, 0.0))
    lost = 1 - inside / (height * width)
    return [f"the model is shown the middle only: {lost:.0%} of the picture is cut away"] if lost >= 0.01 else []


def head_rows(
    names: NDArray[np.str_], heads: dict[str, NDArray[np.float64]], maps: HeadMaps, share: NDArray[Any]
) -> list[dict[str, Any]]:
    """A row for each head: its name and its numbers."""
    layers, count = names.shape
    return [
        {
            "layer": layer, "head": head, "name": str(names[layer, head]),
            **{name: float(values[layer, head]) for name, values in heads.items()},
            "distance_patches": float(maps.distance[layer, head]), "entropy_share": float(share[layer, head]),
            "ring_0": float(maps.ring_sum[layer, head, 0]), "ring_1": float(maps.ring_sum[layer, head, 1:2].sum()),
            "cls_to_patch": float(maps.cls_to_patch[layer, head]),
            "patch_to_cls": float(maps.patch_to_cls[layer, head]), "self_mass": float(maps.self_mass[layer, head]),
        }
        for layer in range(layers)
        for head in range(count)
    ]  # fmt: skip
