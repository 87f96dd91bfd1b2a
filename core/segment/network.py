"""A trained network as a model of ``attn segment``: a photo in, probabilities at its size out, tiled where it is large.

Specification: methods/fsg-net.md, section 3.4, step 29 (c)-(e).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cpu import cpu
from ..options import OptionError
from . import MODELS
from .base import Prediction
from .fov import Fov
from .fsgnet.checkpoint import FSGNetCheckpoint, read_checkpoint
from .fsgnet.fast import optimise
from .fsgnet.folded import accurate
from .fsgnet.trunks import NAMES
from .prepare import calibre, finer_diameter, normalise, padded, prepare, rescale, scaled_size
from .threshold import Calibration

WEIGHTS = Path(__file__).parent / "weights"
"""Trained models of the package: NAME.safetensors with a model card NAME.md."""
TILE, OVERLAP = 608, 64
WHOLE_PIXELS = 1_500_000
"""Larger photos (at the model's scale) are done in tiles, so that memory stays bounded."""

EMULATED = "this processor has no bfloat16 arithmetic: float32 is many times as fast"


def packaged(name: str, device: torch.device, dtype: torch.dtype) -> NetworkSegmenter:
    """A network whose weights are part of the package.

    Raises
    ------
    UsageError
        If no weights of it ship, or the dtype is float16.
    """
    if not MODELS[name].trained:
        trunk = next(trunk for trunk, called in NAMES.items() if called == name)
        raise OptionError(
            f"no weights ship for {name}. Train it (attn train fsgnet --trunk {trunk}) and give the file: "
            "{model} OUT/model.safetensors"
        )
    checkpoint = replace(read_checkpoint(WEIGHTS / f"{name}.safetensors"), name=name)
    return NetworkSegmenter(checkpoint, device, dtype)


class NetworkSegmenter:
    """A trained network with the preparation it was trained with; above ``whole_pixels``, tiles of ``tile`` pixels."""

    def __init__(
        self, checkpoint: FSGNetCheckpoint, device: torch.device, dtype: torch.dtype, *,
        whole_pixels: int = WHOLE_PIXELS, tile: int = TILE,
    ) -> None:  # fmt: skip
        if dtype == torch.float16:
            raise OptionError("{dtype} float16: its range is small for sums of squares. Use bfloat16, or float32.")
        self.name, self.threshold, self.preparation = checkpoint.name, checkpoint.threshold, checkpoint.preparation
        self.calibration: Calibration | None = checkpoint.calibration
        self.device, self.dtype = device, accurate(dtype)
        self.warnings = [EMULATED] if dtype == torch.bfloat16 and device.type == "cpu" and not _has_bfloat16() else []
        net = checkpoint.build()
        self.parameters = sum(parameter.numel() for parameter in net.parameters())
        self.net = optimise(net.to(device, self.dtype), dtype=dtype)
        self.whole_pixels, self.tile = whole_pixels, tile

    def __call__(
        self, pixels: NDArray[np.float32], fov: Fov, *, tta: bool = False, tile: int | None = None,
        attention: bool = False,
    ) -> Prediction:  # fmt: skip
        """See ``Segmenter``."""
        if fov.mask.shape != pixels.shape[1:]:
            raise ValueError(f"the field of view is {fov.mask.shape}, the photo {pixels.shape[1:]}")
        warnings = list(self.warnings)
        top, left, bottom, right = fov.box
        by_width = self.preparation.calibre is not None
        diameter = self.preparation.fov_diameter if by_width else self.preparation.diameter(fov.diameter)
        if max(scaled_size((bottom - top, right - left), diameter / fov.diameter)) > 4 * diameter:
            raise ValueError("the field of view is too long and thin for a fundus photograph")
        x, mask = self._input(pixels, fov, diameter)
        maps: dict[str, Tensor] | None = {} if attention else None
        with torch.inference_mode():
            prob = self._whole_or_tiled(x, tile, maps)
            found = calibre(prob[0, 0].cpu(), mask) if by_width else None
            if again := finer_diameter(found, fov.diameter, self.preparation):
                x, _ = self._input(pixels, fov, again)
                maps = {} if attention else None
                prob = self._whole_or_tiled(x, tile, maps)
            if tta:
                prob = self._averaged(prob, x, tile)
            if attention and not maps:
                warnings.append("no attention maps: the model has none, or the photo was done in tiles")
            inner = prob[0].float().cpu()  # [1, h, w]
            if inner.shape[1:] != (bottom - top, right - left):
                inner = rescale(inner, (bottom - top, right - left))
        out = np.zeros(fov.mask.shape, np.float32)
        out[top:bottom, left:right] = inner[0].clamp(0, 1).numpy()
        out[~fov.mask] = 0
        attention_maps = {name: value[0, 0].float().cpu().numpy() for name, value in (maps or {}).items()}
        seen = fov.diameter * x.shape[2] / (bottom - top)  # a scale near 1 is 1
        return Prediction(out, attention_maps, tuple(warnings), seen)

    def _input(self, pixels: NDArray[np.float32], fov: Fov, diameter: float) -> tuple[Tensor, Tensor]:
        """The photo as the network takes it, ``diameter`` pixels across its field of view, [1, 3, h, w], and [h, w]."""
        ready = prepare(pixels, fov, self.preparation, diameter)
        return normalise(ready.pixels, ready.mask, self.preparation)[None].to(self.device, self.dtype), ready.mask

    def _averaged(self, upright: Tensor, x: Tensor, tile: int | None) -> Tensor:
        """Mean over the four mirror images, of which the upright one is known."""
        total = upright
        for axes in ((2,), (3,), (2, 3)):
            total = total + self._whole_or_tiled(x.flip(axes), tile, None).flip(axes)
        return total / 4

    def _whole_or_tiled(self, x: Tensor, tile: int | None, maps: dict[str, Tensor] | None) -> Tensor:
        """Probability [1, 1, h, w] of the normalised photo [1, 3, h, w]."""
        h, w = x.shape[-2:]
        if tile is None:
            if h * w <= self.whole_pixels:
                return self._predict(x, maps)
            tile = self.tile
        if tile <= 2 * OVERLAP:
            raise ValueError(f"tiles of {tile} pixels are too small: they overlap by {OVERLAP} on each side")
        total, weight = x.new_zeros(1, 1, h, w), x.new_zeros(1, 1, h, w)
        for rows in _spans(h, tile):
            for columns in _spans(w, tile):
                window = _ramp(rows, h)[:, None] * _ramp(columns, w)
                place = (..., slice(*rows), slice(*columns))
                total[place] += self._predict(x[place], None) * window.to(x)
                weight[place] += window.to(x)
        return total / weight

    def _predict(self, x: Tensor, maps: dict[str, Tensor] | None) -> Tensor:
        out: Tensor = self.net(padded(x), maps)
        return out[..., : x.shape[2], : x.shape[3]]


def _has_bfloat16() -> bool:
    return cpu().avx512_bf16 or cpu().amx_bf16


def _spans(length: int, tile: int) -> Iterator[tuple[int, int]]:
    """Tiles of at most ``tile`` pixels that cover ``length`` with an overlap; the last one ends at the border."""
    start = 0
    while start + tile < length:
        yield start, start + tile
        start += tile - OVERLAP
    yield max(0, min(start, length - tile)), length


def _ramp(span: tuple[int, int], length: int) -> Tensor:
    """Weights along a tile: falling to its edges within the overlap, full at the border of the photo."""
    start, stop = span
    place = torch.arange(start, stop, dtype=torch.float32) + 0.5
    rise = (place - start) / OVERLAP if start > 0 else torch.ones_like(place)
    fall = (stop - place) / OVERLAP if stop < length else torch.ones_like(place)
    return torch.minimum(rise, fall).clamp(max=1)
