"""``attn probe vit``: how far each head of a vision transformer looks.

Paper: "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt", arXiv 2303.13731. Specification:
methods/vit-analytics.md, section 3.2, steps 1 and 5: a = attention among patches, renormalised; distance = mean over
queries of sum_j a[i, j] |i - j|, in patches and in pixels of the user's file; entropy = mean of -sum a ln a.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...bundles import Device, Inputs, Placement
from ...command import Verb
from ...options import Option, check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...batch.task import Task
    from ...models.geometry import Geometry
    from ...models.loaded import Loaded
    from ...models.pictures import ColourPicture
    from ...progress import Watcher
    from ...report.model import Item, Report

WORD = "distance"


@dataclass(frozen=True, slots=True)
class VitOptions:
    """What is looked at, with which model (see ``attn.core.models.load``), and where."""

    inputs: Inputs
    model: Annotated[
        str,
        Option(
            "Vision transformer: vit (ViT-S/14 of attn[vit]), a folder of transformers, timm or open_clip, or a "
            "Hugging Face id that is on this machine.",
            metavar="NAME",
        ),
    ] = "vit"  # fmt: skip
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    device: Device = "auto"
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the heads of a model look on one picture.

    Parameters
    ----------
    patches, pixels : ndarray, shape (L, H), float32
        Mean attention distance, in patches and in pixels of the picture.
    entropy : ndarray, shape (L, H), float32
        Mean entropy of a row over the patches, in nats; ln N at most.
    rows : ndarray, shape (L, N), float32
        Distance in pixels of each query patch, mean over heads.
    """

    patches: NDArray[np.float32]
    pixels: NDArray[np.float32]
    entropy: NDArray[np.float32]
    rows: NDArray[np.float32]


def attention_distance(model: Any, prepared: Any, geometry: Geometry) -> Reach:
    """Steps 1 and 5 for one ``PreparedImage``. What lies on tokens of the prefix is shared out among the patches.

    Raises ``UsageError`` if the model's attention cannot be reached.
    """
    import numpy as np
    import torch

    from ...models.hooks import capture
    from ...models.rows import attention_rows

    weight = next(model.parameters())
    patches = geometry.patches().to(weight.device)
    with torch.inference_mode(), capture(model, what=("q", "k")) as seen:
        model(prepared.pixels[None].to(weight.device, weight.dtype))
    layers: list[tuple[NDArray[np.float32], ...]] = []
    for layer in seen:
        assert layer.q is not None
        assert layer.k is not None
        q, k = layer.q[:, :, patches], layer.k[:, :, patches]
        near = attention_rows(q, k, scale=layer.scale, positions=geometry.grid_positions())
        far = attention_rows(q, k, scale=layer.scale, positions=geometry.positions())
        assert near.distance is not None
        assert far.distance is not None
        means = (near.distance[0].mean(-1), far.distance[0].mean(-1), far.entropy[0].mean(-1), far.distance[0].mean(0))
        layers.append(tuple(value.float().cpu().numpy() for value in means))
    return Reach(*(np.stack(values) for values in zip(*layers, strict=True)))


def run(options: VitOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None) -> Report:
    """Look at every picture. Raises ``UsageError`` if there is nothing to read, or the model cannot be loaded."""
    from ...batch.run import run_batch
    from ...batch.task import Task
    from ...io.atomic import remove_stale
    from ...io.walk import Passed, expand_inputs, output_paths, read_list
    from ...models.pictures import PICTURE_SUFFIXES
    from ...options import values
    from ...progress import Bars

    start = time.perf_counter()
    given = options.inputs
    listed = read_list(nul=given.nul) if "-" in given.inputs else None
    passed = Passed()
    sources = expand_inputs(given.inputs, suffixes=PICTURE_SUFFIXES, stdin=listed, output=given.output, passed=passed)
    ending = ".png" if given.output is None else f".{WORD}.png"
    targets = output_paths(sources, given.output, word=WORD, suffix=ending, written=(".png",))
    pairs = zip(sources, targets, strict=True)
    tasks = [Task(source.path, target, source.name, error=source.error) for source, target in pairs]
    loaded = _loaded(options.model, options.device, options.allow_download)  # what is missing is told before the work
    for folder in {target.parent for target in targets}:
        remove_stale(folder)
    here = replace(options, inputs=replace(given, inputs=("-",)))  # a worker gets one task, not a million names
    outcome = run_batch(partial(probe_file, options=here), tasks, options.placement, watcher or Bars())
    items = [_noted(item, loaded.fingerprint) if item.status == "skipped" else item for item in outcome.items]
    device = str(next(loaded.model.parameters()).device)
    return outcome.report(
        "probe", arguments or values(options), device, start, items=items, passed=passed, sections=_mean_layers(items)
    )


def probe_file(task: Task, step: Callable[[int, int], None], options: VitOptions) -> Item:
    """Look at one picture, write arrays and figure, and report it."""
    from ...models.geometry import geometry_of
    from ...models.pictures import read_picture
    from ...report.model import Item
    from ...report.sections import Table

    loaded = _loaded(options.model, options.device, options.allow_download)
    picture = read_picture(task.source)
    step(1, 3)
    assert loaded.processor.images is not None
    prepared = loaded.processor.images.prepared(picture.pixels).of(picture.size)
    geometry = geometry_of(loaded.model, prepared)
    reach = attention_distance(loaded.model, prepared, geometry)
    step(2, 3)
    assert task.output is not None
    arrays = task.output.with_suffix(".npz")
    write_arrays(arrays, reach, geometry, loaded)
    draw(task.output, reach, geometry, picture, title=f"{task.name}, {options.model}")
    layers = [
        {
            "layer": number, "distance_patches": float(patches.mean()), "least": float(patches.min()),
            "most": float(patches.max()), "distance_px": float(pixels.mean()), "entropy": float(entropy.mean()),
        }
        for number, patches, pixels, entropy in zip(
            range(len(reach.patches)), reach.patches, reach.pixels, reach.entropy, strict=True
        )
    ]  # fmt: skip
    metrics = {"distance_patches": reach.patches, "distance_px": reach.pixels, "entropy": reach.entropy}
    means = {name: float(values.mean()) for name, values in metrics.items()}
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, warnings=picture.warnings,
        metrics=means | {"entropy_share": means["entropy"] / (math.log(reach.rows.shape[1]) or 1)},
        files={"figure": str(task.output), "arrays": str(arrays)},
        details={
            "model": options.model, "family": loaded.family, "size": list(picture.size),
            "grid": list(geometry.tiles[0].grid), "patch_px": list(geometry.patch_size()),
        },
        sections=(Table("layers", layers, title="Distance by layer (mean, least and most over heads)", detail=True),),
    )  # fmt: skip


def write_arrays(path: Path, reach: Reach, geometry: Geometry, loaded: Loaded) -> None:
    """An NPZ of what was measured, atomically."""
    import numpy as np

    from ...io.atomic import atomic_path

    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, distance_patches=reach.patches, distance_px=reach.pixels, entropy=reach.entropy,
            distance_px_by_patch=reach.rows.reshape(len(reach.rows), *geometry.tiles[0].grid),
            box=np.array(geometry.tiles[0].box), size=np.array(geometry.size),
            model=np.array(loaded.fingerprint), family=np.array(loaded.family),
        )  # fmt: skip


def draw(path: Path, reach: Reach, geometry: Geometry, picture: ColourPicture, *, title: str) -> None:
    """Head by head, layer by layer, and where in the picture the last layer looks far."""
    import numpy as np

    from ...report.canvas import canvas, literal

    layers, heads = reach.patches.shape
    height, width = picture.pixels.shape[1:]
    far = geometry.on_pixels(reach.rows[-1], size=(height, width))
    with canvas(path, (1680, 620), layout="constrained") as figure:
        figure.suptitle(literal(title))
        matrix, curve, place = figure.subplots(1, 3)
        drawn = matrix.imshow(reach.patches, aspect="auto", cmap="viridis", vmin=0)
        figure.colorbar(drawn, ax=matrix, label="patches")
        matrix.set(title="Attention distance of each head", xlabel="head", ylabel="layer")
        matrix.set_xticks(range(heads))
        matrix.set_yticks(range(0, layers, max(1, layers // 12)))
        numbers = range(layers)
        curve.fill_between(numbers, reach.patches.min(1), reach.patches.max(1), alpha=0.2, label="least to most")
        curve.plot(numbers, reach.patches.mean(1), marker="o", markersize=4, label="mean over heads")
        curve.set(title="Layer by layer", xlabel="layer", ylabel="attention distance, patches")
        curve.set_ylim(bottom=0)
        curve.legend(frameon=False)
        place.imshow(np.moveaxis(picture.pixels, 0, 2))
        over = place.imshow(np.ma.masked_invalid(far), cmap="magma", alpha=0.6)
        figure.colorbar(over, ax=place, label="pixels of the file")
        place.set(title=f"How far each place looks, layer {layers - 1}")
        place.set_axis_off()


@lru_cache(maxsize=1)
def _loaded(model: str, device: str, allow_download: bool) -> Loaded:
    """The model; read once per process."""
    from ...models.load import load_model

    return load_model(model, "vision", device=device, allow_download=allow_download)


def _noted(item: Item, fingerprint: str) -> Item:
    """A skipped item that says so where its result was made with another model."""
    import numpy as np

    assert item.output is not None
    try:
        with np.load(Path(item.output).with_suffix(".npz"), allow_pickle=False) as arrays:
            same = str(arrays["model"]) == fingerprint
    except (OSError, ValueError, KeyError):
        return replace(
            item,
            warnings=(
                *item.warnings,
                "the arrays of the result that exists cannot be read; --overwrite makes it again",
            ),
        )
    note = "the result that exists was made with another model; --overwrite makes it again"
    return item if same else replace(item, warnings=(*item.warnings, note))


def _mean_layers(items: Sequence[Item]) -> list[Any]:
    """The layers of all pictures averaged, where there are several."""
    import numpy as np

    from ...report.sections import Table

    tables = [section.rows() for item in items for section in item.sections if isinstance(section, Table)]
    if len(tables) < 2 or len({len(rows) for rows in tables}) > 1:
        return []
    layers = zip(*tables, strict=True)
    means = [{key: np.mean([row[key] for row in rows]).item() for key in rows[0]} for rows in layers]
    means = [{**row, "layer": number} for number, row in enumerate(means)]
    return [Table("layers", means, title="Distance by layer, mean over the pictures")]


KIND = Verb(
    options=VitOptions,
    run="attn.core.probe.vit.run:run",
    description="""Measure how far each head of a vision transformer looks, on your own pictures.

    The attention distance of a head is the mean distance between a patch and the patches it attends to, weighted by
    attention; class token and registers are left out. Reads photos, CT and other DICOM, NIfTI; writes a figure and the
    arrays of every picture.
    """,
    examples=(
        (
            "attn probe vit example:photo",
            "A photo that ships with an installed package; writes ./astronaut.distance.png.",
        ),
        ("attn probe vit photos/ -o out/ --report distance.html", "A folder, and one page with all figures."),
        ("attn probe vit example:ct --model vit-base/", "A CT slice, and a model of your own."),
    ),
    files=(
        ("NAME.distance.png", "Distance per head and layer, layer by layer, and over the picture; written last."),
        (
            "NAME.distance.npz",
            "float32 arrays: distance_patches, distance_px, entropy [layers, heads], distance_px_by_patch "
            "[layers, h, w], and box, what the model saw of the picture.",
        ),
    ),
    notes=(
        "Pixels are those of the file, upright. A model sees a square of it: resized, and cut to the middle.",
        "The default model is a DINOv2 architecture that was trained on for saliency; do not quote its numbers as "
        "those of DINOv2.",
        "Of a stack the middle slice is looked at. CT and other grey images are mapped from their 0.5 and 99.5 "
        "percentiles to black and white; a warning says which values these are.",
    ),
    columns=("distance_patches", "distance_px", "entropy"),
)
