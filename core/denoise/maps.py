"""``--maps``: what a fitted filter does where, as numbers and as a picture; each kind of filter has its own files.

A filter with ``sigma_maps`` (filter2noise): ``NAME.sigma.npy``, float32 [Z, stages, 3, H, W], sigma x and y in pixels,
sigma r as a share of the window. One with ``maps`` (adaptive): ``NAME.maps.npz``, float32, ``noise_level`` and
``sigma_r`` [Z, H, W] in the unit of the image, ``sigma_s`` [Z, H, W] in pixels, ``weights`` [Z, 6, H, W], and ``unit``
and ``window`` [2], which was the range of the filter. Of slices that drew on their neighbours ``from_neighbours``
[Z, H, W], the share of their weight, and ``candidates`` [Z, 4, H, W], the weights of the slice's own mixture and of the
three filters over several slices; the other maps describe that mixture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..batch.task import Task
from ..io import GreyImage
from ..io.atomic import atomic_path
from ..memory import check_memory
from ..report.maps import ValueMap, sigma_maps, value_maps
from .adaptive.volume import CANDIDATES
from .naming import side_path
from .options import DenoiseOptions
from .pipeline import Denoised, edited
from .window import Window

BYTES = 112
"""For each pixel, at the peak: maps, and what the filters hold for them. Of a stack all slices' maps are in memory."""


def check_room(image: GreyImage) -> None:
    """Raise ``InputError`` where the maps of all slices take more than the budget of memory."""
    check_memory(image.path, BYTES * image.pixels.size, "its maps take")


def write_maps(
    task: Task, noisy: GreyImage, result: Denoised, window: Window, options: DenoiseOptions
) -> dict[str, str]:
    """Write what the filters of a result did where, strength and regions applied: files by what they are.

    The picture shows the middle slice.
    """
    assert task.output is not None
    output, whole = task.output, task.whole
    filters = result.filters if len(result.filters) > 1 else result.filters * len(result.seen)
    shown: list[Any] = [edited(fitted, options) for fitted in filters]
    slices = [torch.from_numpy(np.ascontiguousarray(seen)) for seen in result.seen]
    if hasattr(shown[0], "sigma_maps"):
        widths = [[m.cpu().numpy() for m in fitted.sigma_maps(x)] for fitted, x in zip(shown, slices, strict=True)]
        stack = np.stack(widths, dtype=np.float32)
        numbers, picture = (side_path(output, "sigma", suffix, whole=whole) for suffix in (".npy", ".png"))
        with atomic_path(numbers) as temporary, temporary.open("wb") as stream:
            np.save(stream, stack)  # [Z, stages, 3, H, W]
        sigma_maps(list(stack[len(stack) // 2]), picture, aspect=noisy.aspect)
        return {"sigma": str(numbers), "sigma_figure": str(picture)}
    masks = [None] * len(shown) if noisy.valid is None else noisy.valid
    planes = [fitted.maps(x, valid) for fitted, x, valid in zip(shown, slices, masks, strict=True)]
    maps = {name: np.stack([plane[name] for plane in planes]) for name in planes[0]}
    for name in PHYSICAL:
        maps[name] *= np.float32(window.width)
    if result.drawn:
        maps |= _drawn_maps(result)
    return _write_mixture(output, whole, noisy, maps, window)


def _drawn_maps(result: Denoised) -> dict[str, NDArray[np.float32]]:
    """What slices drew from their neighbours; one outside every volume drew nothing."""
    shape = result.seen.shape
    share = np.zeros(shape, np.float32)
    candidates = np.zeros((shape[0], CANDIDATES, *shape[1:]), np.float32)
    candidates[:, 0] = 1
    for z, drawn in enumerate(result.drawn):
        if drawn is not None:
            share[z], candidates[z] = drawn.maps["from_neighbours"], drawn.maps["candidates"]
    return {"from_neighbours": share, "candidates": candidates}


PHYSICAL = ("noise_level", "sigma_r")
"""Maps in the unit of the image; filters have them as shares of the window."""


def _write_mixture(
    output: Path, whole: bool, noisy: GreyImage, maps: dict[str, NDArray[Any]], window: Window
) -> dict[str, str]:
    numbers, picture = (side_path(output, "maps", suffix, whole=whole) for suffix in (".npz", ".png"))
    with atomic_path(numbers) as temporary, temporary.open("wb") as stream:
        facts = {"unit": np.array(noisy.unit), "window": np.array([window.low, window.high])}
        np.savez(stream, allow_pickle=False, **maps, **facts)
    middle = {name: stack[len(stack) // 2] for name, stack in maps.items()}
    widths = [
        ValueMap(middle["noise_level"], "Noise level", noisy.unit),
        ValueMap(middle["sigma_r"], "σr", noisy.unit),
        ValueMap(middle["sigma_s"], "σs", "px"),
    ]
    weights = [ValueMap(plane, f"Weight of filter {k}", "", (0, 1)) for k, plane in enumerate(middle["weights"])]
    value_maps([widths, weights[:3], weights[3:]], picture, aspect=noisy.aspect)
    return {"maps": str(numbers), "maps_figure": str(picture)}
