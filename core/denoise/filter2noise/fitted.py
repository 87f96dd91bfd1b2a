"""A fitted Filter2Noise: apply it, look at its maps, edit them, keep it in a file.

Specification: methods/filter2noise.md, section 8 (sigma editing, image sizes).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...threads import kernels_own_the_threads
from ..base import FitOptions, Region, check_strength
from ..kept import no_match, read_kept, write_kept
from .bilateral import bilateral_filter, to_pixels
from .model import SIGMA_FLOOR, Filter2Noise
from .schedule import RECIPES

_SMALLEST = 16  # pixels; half of it, the side at half resolution, must exceed the largest filter radius, 7


def check_image(image: Tensor) -> None:
    """Raise ``ValueError`` unless ``image`` is a non-empty [H, W] of finite floats."""
    if image.ndim != 2 or not image.is_floating_point():
        raise ValueError(f"the image must be a floating-point tensor [H, W], got {image.dtype} {list(image.shape)}.")
    if image.numel() == 0:
        raise ValueError(f"the image is empty: {list(image.shape)}.")
    if not bool(torch.isfinite(image).all()):
        row, column = torch.nonzero(~torch.isfinite(image))[0].tolist()
        count = int((~torch.isfinite(image)).sum())
        raise ValueError(
            f"the image has {count} values that are NaN or infinite, the first at row {row}, column {column}."
        )


def pad_to_patches(image: Tensor, patch_size: int) -> Tensor:
    """[H, W] -> [1, 1, H', W'], mirrored at the bottom and on the right to multiples of 2 * patch_size, 16 at least.

    Mirrors again and again where the image is smaller than what must be added; one pixel is repeated.
    """
    for axis in (0, 1):
        size, unit = image.shape[axis], 2 * patch_size
        wanted = math.ceil(max(size, _SMALLEST) / unit) * unit
        if wanted > size:
            period = max(1, 2 * (size - 1))
            index = torch.arange(wanted, device=image.device) % period
            image = image.index_select(axis, torch.minimum(index, (period - index) % period if size > 1 else index))
    return image[None, None]


class Filter2NoiseFilter:
    """A fitted filter (``base.Filter``).

    Parameters
    ----------
    model : Filter2Noise
        The fitted network.
    options : FitOptions
        How it was fitted, ``steps`` and ``learning_rate`` filled in.
    losses : sequence of float
        The loss before each step; empty for a filter read from a file.
    strength : float
        Factor on the range sigma, all stages.
    regions : sequence of Region
        Rectangles with a factor of their own instead of ``strength``; a later one wins.

    Attributes
    ----------
    parameters, steps : int
        Learned numbers and optimisation steps.
    settings : mapping of str to float
        For the report.
    """

    def __init__(
        self,
        model: Filter2Noise,
        options: FitOptions,
        *,
        losses: Sequence[float] = (),
        strength: float = 1.0,
        regions: Sequence[Region] = (),
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.options, self.losses = options, list(losses)
        self.strength, self.regions = strength, tuple(regions)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.steps = options.steps or 0

    @property
    def settings(self) -> Mapping[str, float]:
        """Stages, patch size, lambda, learning rate, seed, and the first and last loss where known."""
        settings = {
            "stages": float(self.options.stages),
            "patch_size": float(self.options.patch_size),
            "edge_weight": self.options.edge_weight or 0.0,
            "learning_rate": self.options.learning_rate or 0.0,
            "seed": float(self.options.seed),
        }
        if self.losses:
            settings |= {"loss_first": self.losses[0], "loss_last": self.losses[-1]}
        return settings

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Denoise ``image`` [H, W] of floats; same shape, dtype and device. A constant image comes back unchanged."""
        check_image(image)
        if image.min() == image.max():
            return image.clone()
        with kernels_own_the_threads():
            out, maps = self._predict(image)
            if self.strength != 1 or self.regions:
                # every stage keeps the widths predicted before the edit: the user edits what the maps showed
                out = self._padded(image)
                for sigma in maps:
                    edited, size = self._edit(sigma)
                    out = bilateral_filter(out, edited, patch_size=size)
        return out[0, 0, : image.shape[0], : image.shape[1]].to(image.dtype).contiguous()

    @torch.no_grad()
    def patch_maps(self, image: Tensor) -> list[Tensor]:
        """Each stage's widths [3, h, w] (σx, σy in pixels, σr in units of the image), one per patch, as predicted."""
        check_image(image)
        return [sigma[0] for sigma in self._predict(image)[1]]

    @torch.no_grad()
    def sigma_maps(self, image: Tensor) -> list[Tensor]:
        """Each stage's widths [3, H, W] for every pixel of ``image`` [H, W], with strength and regions applied."""
        check_image(image)
        edited = (self._edit(sigma) for sigma in self._predict(image)[1])
        return [to_pixels(*pair)[0, :, : image.shape[0], : image.shape[1]] for pair in edited]

    def with_strength(self, strength: float = 1.0, regions: Sequence[Region] = ()) -> Filter2NoiseFilter:
        """The same filter with the range sigma scaled, nothing refitted.

        Parameters
        ----------
        strength : float
            Factor on σr of all stages; below 1 keeps more detail and noise, above 1 smooths more.
        regions : sequence of Region
            Rectangles with a factor of their own instead; parts outside an image are ignored.

        Returns
        -------
        Filter2NoiseFilter
            Shares the fitted network with this one.

        Raises
        ------
        ValueError
            If a factor is negative or not finite, or a rectangle is empty.
        """
        check_strength(strength, regions)
        return Filter2NoiseFilter(self.model, self.options, losses=self.losses, strength=strength, regions=regions)

    def _padded(self, image: Tensor) -> Tensor:
        """``image`` as the network takes it: padded, and in the dtype it was fitted in."""
        return pad_to_patches(image.to(next(self.model.parameters()).dtype), self.model.patch_size)

    def _predict(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Filtered image [1, 1, H', W'] and patch widths [1, 3, h, w] of each stage, before any edit."""
        if next(self.model.parameters()).device != image.device:  # walking the modules costs a millisecond
            self.model.to(image.device)
        out, maps = self.model.with_maps(self._padded(image))
        return out, maps

    def _edit(self, sigma: Tensor) -> tuple[Tensor, int]:
        """Edited widths [1, 3, ., .] and the side of the squares that share them: pixels once there are regions."""
        size = self.model.patch_size
        factor = torch.full_like(sigma[:, 2], self.strength)  # [1, h, w]
        if self.regions:
            sigma, factor = to_pixels(sigma, size), to_pixels(factor, size)
            size = 1
        for r in self.regions:
            factor[:, r.y0 : r.y1, r.x0 : r.x1] = r.strength
        edited = sigma.clone()
        edited[:, 2] = (sigma[:, 2] * factor).clamp_min(SIGMA_FLOOR)
        return edited, size

    def save(self, path: str | os.PathLike[str], **more: object) -> None:
        """Write the fitted network to a safetensors file; strength and regions are not part of it.

        ``more`` joins its metadata. The file appears whole or not at all. Raises ``InputError`` if the place cannot be
        written.
        """
        o = self.options
        described: dict[str, object] = {
            "stages": o.stages,
            "patch_size": o.patch_size,
            "lambda": o.edge_weight,
            "steps": self.steps,
        }
        described |= {"learning_rate": o.learning_rate, "seed": o.seed, "quality": o.quality}
        write_kept(path, "filter2noise", self.model.state_dict(), described | more)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Filter2NoiseFilter:
        """Read a filter that ``save`` wrote. Raises ``InputError`` for any other file."""
        metadata, state = read_kept(path, "filter2noise")
        try:
            quality = metadata["quality"]
            options = FitOptions(
                quality=quality,  # type: ignore[arg-type]
                steps=int(metadata["steps"]),
                stages=int(metadata["stages"]),
                patch_size=int(metadata["patch_size"]),
                edge_weight=float(metadata["lambda"]),
                learning_rate=float(metadata["learning_rate"]),
                seed=int(metadata["seed"]),
            )
            if not 1 <= options.stages <= len(state) or not 1 <= options.patch_size <= 256:
                raise ValueError("sizes out of range")
            numbers = options.edge_weight, options.learning_rate
            if quality not in RECIPES or not all(math.isfinite(number) for number in numbers if number is not None):
                raise ValueError("no recipe that attn has")
            model = Filter2Noise(options.stages, options.patch_size)
            model.load_state_dict(state)
        except Exception as error:  # a forged description fails anywhere: in numbers, in torch
            raise no_match(path, "filter2noise") from error
        return cls(model, options)
