"""``attn probe vit``: how far each head of a vision transformer looks.

Paper: "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt", arXiv 2303.13731. Specification:
methods/vit-analytics.md, section 3.2, steps 1 and 5: a = attention among patches, renormalised; distance = mean over
queries of sum_j a[i, j] |i - j|, in patches and in pixels of the user's file; entropy = mean of -sum a ln a.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
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
    from ...progress import Watcher
    from ...report.model import Report
    from ..frame import Finding
    from ..panel import FigureData, FigureFile

WORD = "vit"


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
    from ..frame import look_at_files, mean_table

    start = time.perf_counter()
    return look_at_files(
        WORD, look, options, _loaded(options.model, options.device, options.allow_download), model=options.model,
        since=start, watcher=watcher, arguments=arguments,
        together=partial(mean_table, name="layers", title="Distance by layer, mean over the pictures"),
    )  # fmt: skip


def look(task: Task, step: Callable[[int, int], None], options: VitOptions) -> Finding:
    """Look at one picture."""
    from ...models.geometry import geometry_of
    from ...models.pictures import read_picture
    from ...report.sections import Table
    from ..frame import Finding
    from ..panel import shown

    loaded = _loaded(options.model, options.device, options.allow_download)
    picture = read_picture(task.source)
    step(1, 2)
    assert loaded.processor.images is not None
    prepared = loaded.processor.images.prepared(picture.pixels).of(picture.size)
    geometry = geometry_of(loaded.model, prepared)
    reach = attention_distance(loaded.model, prepared, geometry)
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
    tile = geometry.tiles[0]
    return Finding(
        title=f"{task.name}, {options.model}",
        arrays={
            **metrics, "distance_px_by_patch": reach.rows.reshape(len(reach.rows), *tile.grid),
            "picture": shown(picture.pixels),
        },
        metrics=means | {"entropy_share": means["entropy"] / (math.log(reach.rows.shape[1]) or 1)},
        facts={
            "model": options.model, "family": loaded.family, "size": list(picture.size), "box": list(tile.box),
            "grid": list(tile.grid), "patch_px": list(geometry.patch_size()),
        },
        sections=(Table("layers", layers, title="Distance by layer (mean, least and most over heads)", detail=True),),
        warnings=picture.warnings,
    )  # fmt: skip


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Head by head, layer by layer, and where in the picture the last layer looks far."""
    from ...report.canvas import literal
    from ..panel import extent

    patches = data.arrays["distance_patches"]
    layers, heads = patches.shape
    with canvas((1680, 620), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        matrix, curve, place = figure.subplots(1, 3)
        drawn = matrix.imshow(patches, aspect="auto", cmap="viridis", vmin=0)
        figure.colorbar(drawn, ax=matrix, label="patches")
        matrix.set(title="Attention distance of each head", xlabel="head", ylabel="layer")
        matrix.set_xticks(range(heads))
        matrix.set_yticks(range(0, layers, max(1, layers // 12)))
        numbers = range(layers)
        curve.fill_between(numbers, patches.min(1), patches.max(1), alpha=0.2, label="least to most")
        curve.plot(numbers, patches.mean(1), marker="o", markersize=4, label="mean over heads")
        curve.set(title="Layer by layer", xlabel="layer", ylabel="attention distance, patches")
        curve.set_ylim(bottom=0)
        curve.legend(frameon=False)
        picture = data.arrays["picture"]
        place.imshow(picture)
        over = place.imshow(
            data.arrays["distance_px_by_patch"][-1], cmap="viridis", alpha=0.6, extent=extent(data), clip_on=True
        )
        place.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
        figure.colorbar(over, ax=place, label="pixels of the file")
        place.set(title=f"How far each place looks, layer {layers - 1}")
        place.set_axis_off()


@lru_cache(maxsize=1)
def _loaded(model: str, device: str, allow_download: bool) -> Loaded:
    """The model; read once per process."""
    from ...models.load import load_model

    return load_model(model, "vision", device=device, allow_download=allow_download)


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
            "A photo that ships with an installed package; writes ./astronaut.vit.png.",
        ),
        ("attn probe vit photos/ -o out/ --report distance.html", "A folder, and one page with all figures."),
        ("attn probe vit example:ct --model vit-base/", "A CT slice, and a model of your own."),
    ),
    files=(
        ("NAME.vit.png", "Distance per head and layer, layer by layer, and over the picture; written last."),
        (
            "NAME.vit.npz",
            "Arrays: distance_patches, distance_px, entropy [layers, heads], distance_px_by_patch [layers, h, w], and "
            "picture, shrunk for the figure.",
        ),
        ("NAME.vit.json", "How the figure was made, and its tables: attn probe redraw makes it again."),
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
