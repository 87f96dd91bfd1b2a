"""One picture of `attn probe distance`: what is looked at, with which models, and what was found.

Specification: methods/astigmatism.md, section 3.1, steps 1-3 and 6; sections 8 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...batch.task import Task
from ...errors import InputError
from ...models.geometry import Geometry, geometry_of
from ...models.images import PreparedImage
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture, read_picture
from ...options import OptionError
from ...report.sections import Section, Table, Trust
from ..frame import Finding
from ..panel import shown
from ..trust.lines import UNTRAINED, weights_line
from ..trust.randomised import randomised
from .boxes import in_boxes, read_boxes, usable
from .options import DistanceOptions
from .reach import Reach, attention_distance, diagonal, uniform_distance


def look(task: Task, step: Callable[[int, int], None], options: DistanceOptions, checked: frozenset[str]) -> Finding:
    """Look at one picture."""
    loaded = tower_of(options.model, options.device, options.allow_download)
    picture = read_picture(task.source)
    assert loaded.processor.images is not None
    prepared = loaded.processor.images.prepared(picture.pixels).of(picture.size)
    geometry = geometry_of(loaded.model, prepared)
    grid = geometry.tiles[0].grid
    warnings = list(picture.warnings)
    boxes, objects = objects_of(task, options.boxes, picture, geometry, warnings)
    reach = attention_distance(loaded.model, prepared, geometry, objects)
    means = {"distance_patches": reach.patches, "distance_px": reach.pixels, "entropy": reach.entropy}
    arrays: dict[str, NDArray[Any]] = {
        **means, "dropped": reach.dropped, "distance_px_by_patch": reach.rows.reshape(-1, *grid),
        "picture": shown(picture.pixels),
    }  # fmt: skip
    metrics = {key: float(of.mean()) for key, of in means.items()}
    metrics |= {
        "distance_diagonal": metrics["distance_patches"] / diagonal(grid),
        "entropy_share": metrics["entropy"] / (float(np.log(grid[0] * grid[1])) or 1.0),
        "dropped_mass": float(reach.dropped.mean()),
    }
    if reach.inside is not None and objects is not None:
        masses = {
            "fg_to_fg": reach.inside.fg_to_fg, "fg_to_bg": reach.inside.fg_to_bg, "bg_to_fg": reach.inside.bg_to_fg,
            "distance_fg": reach.inside.distance,
        }  # fmt: skip
        arrays |= {**masses, "objects": objects.reshape(grid), "boxes": boxes}
        metrics |= {key: float(of.mean()) for key, of in masses.items()}
    if options.before is not None:
        arrays["distance_before"] = reach_before(options, picture, geometry, reach).patches
        metrics["distance_before"] = float(arrays["distance_before"].mean())
    sections: list[Section] = [Table("layers", layer_rows(arrays, diagonal(grid)), title="By layer", detail=True)]
    if str(task.source) in checked:
        arrays["untrained"] = np.stack(
            [one for one in untrained(loaded, prepared, geometry, options.seed, step)]
        )  # fmt: skip
        sections.append(Trust("trust", [weights_line(reach.patches, list(arrays["untrained"]))]))
    facts = {
        "model": options.model, "family": loaded.family, "before": options.before, "size": list(picture.size),
        "box": list(geometry.tiles[0].box), "grid": list(grid), "patch_px": list(geometry.patch_size()),
        "uniform_patches": uniform_distance(grid), "uniform_px": uniform_distance(grid, geometry.patch_size()),
    }  # fmt: skip
    return Finding(f"{task.name}, {options.model}", arrays, metrics, facts, tuple(sections), tuple(warnings))


def layer_rows(arrays: Mapping[str, NDArray[Any]], longest: float) -> list[dict[str, Any]]:
    """Means over heads, and quantiles of the distance over them, layer by layer."""
    means = {
        "distance_px": "distance_px", "entropy": "entropy", "dropped_mass": "dropped",
        **{key: key for key in ("fg_to_fg", "fg_to_bg", "bg_to_fg", "distance_fg", "distance_before") if key in arrays},
    }  # fmt: skip
    rows = []
    for layer, far in enumerate(arrays["distance_patches"]):
        least, low, median, high, most = (float(of) for of in np.quantile(far, [0, 0.25, 0.5, 0.75, 1]))
        rows.append(
            {
                "layer": layer, "distance_patches": float(far.mean()),
                "distance_diagonal": float(far.mean()) / longest, "least": least, "quartile_1": low, "median": median,
                "quartile_3": high, "most": most, **{key: float(arrays[of][layer].mean()) for key, of in means.items()},
            }
        )  # fmt: skip
    return rows


def objects_of(
    task: Task, files: tuple[Path, ...], picture: ColourPicture, geometry: Geometry, warnings: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """The boxes of a picture, and which of its patches lie in them; None where that is none of them, or all.

    Raises ``InputError`` if the boxes are those of a picture of another size.
    """
    none = np.zeros((0, 4))
    if not files:
        return none, None
    unmeasured = "what passes between objects and background is not measured"
    entry = read_boxes(files).of(task.source)
    if entry is None or not len(entry.boxes):
        what = "the file of boxes does not name it" if entry is None else "has no boxes"
        warnings.append(f"{what}: {unmeasured}")
        return none, None
    if entry.size is not None and entry.size != picture.size:
        sizes = " and ".join(f"{of[1]} x {of[0]}" for of in (entry.size, picture.size))
        raise InputError(
            task.name, f"its boxes and the picture are of {sizes} pixels", "Name the boxes of this picture"
        )
    boxes, told = usable(entry.boxes, picture.size)
    warnings += told
    objects = in_boxes(geometry.positions(), boxes)
    if not objects.any() or objects.all():
        what = "every patch lies in a box" if objects.any() else "no middle of a patch that the model sees is in a box"
        warnings.append(f"{what}: {unmeasured}")
        return boxes, None
    return boxes, objects


def untrained(
    loaded: Loaded, prepared: PreparedImage, geometry: Geometry, seed: int, step: Callable[[int, int], None]
) -> list[NDArray[np.float32]]:
    """Distances in patches [L, H] of models with randomised weights."""
    found = []
    for number in range(UNTRAINED):
        with randomised(loaded.model, seed + number):
            found.append(attention_distance(loaded.model, prepared, geometry).patches)
        step(number + 1, UNTRAINED)
    return found


def reach_before(options: DistanceOptions, picture: ColourPicture, geometry: Geometry, after: Reach) -> Reach:
    """The same picture through the model before.

    Raises ``UsageError`` where its layers, heads or patches are others: distances of such do not compare.
    """
    loaded = before_of(options)
    assert loaded.processor.images is not None
    prepared = loaded.processor.images.prepared(picture.pixels).of(picture.size)
    with_it = geometry_of(loaded.model, prepared)
    reach = attention_distance(loaded.model, prepared, with_it)
    if with_it.tiles[0].grid != geometry.tiles[0].grid or reach.patches.shape != after.patches.shape:
        mine, other = (
            f"{of.patches.shape[0]} layers of {of.patches.shape[1]} heads on {' x '.join(map(str, on.tiles[0].grid))} "
            "patches"
            for of, on in ((after, geometry), (reach, with_it))
        )
        raise OptionError(f"{{before}} {options.before}: it has {other}, the model {mine}: they do not compare.")
    return reach


@lru_cache(maxsize=2)
def tower_of(name: str, device: str, allow_download: bool) -> Loaded:
    """A model; two are kept per process. Raises ``UsageError`` where it cannot be loaded."""
    return load_model(name, "vision", device=device, allow_download=allow_download)


def before_of(options: DistanceOptions) -> Loaded:
    """The model before. Raises ``UsageError`` that names its option."""
    assert options.before is not None
    try:
        return tower_of(options.before, options.device, options.allow_download)
    except OptionError as error:
        raise OptionError(error.text.replace("{model}", "{before}")) from None
