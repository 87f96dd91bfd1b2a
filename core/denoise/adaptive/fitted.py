"""A fitted mixture: apply it, look at its maps, edit its strength, keep it in a file.

Specification: methods/adaptive-denoise.md, section 2 C (maps, strength, regions).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...threads import kernels_own_the_threads
from ..base import Region, check_strength
from ..classical.slices import as_image
from ..kept import no_match, read_kept, write_kept
from .mixture import HEADS, PRESETS, Preset, denoise_slice, drawn_by, filtered, kept, mix, strength_map, widths
from .noise_model import FAINTEST, LAGS, NoiseModel
from .padding import filled

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Mask = NDArray[np.bool_]

FORM = 1
"""Of the files; a change of the heads or of the noise model's fields is another form."""

LEVELS = (1e-18, 1e3)
"""Of the window, from a file: no fit leaves them, and within them float32 holds their squares."""
MOST = 1e6
"""Greatest autocovariance from a file; a fit's is 1 at lag 0, more only where pairs of flat pixels are few."""


def digest(x: Array, valid: Mask | None) -> str:
    """What tells one slice [H, W] float32, and where it is no padding, from all others."""
    mask = b"" if valid is None or valid.all() else np.packbits(valid).tobytes()
    return hashlib.sha256(repr(x.shape).encode() + np.ascontiguousarray(x).tobytes() + mask).hexdigest()


def correlation_length(correlation: Array) -> float:
    """Pixels at which an autocovariance [2 LAGS + 1, 2 LAGS + 1] first falls to half; mean of rows and columns."""
    along = (correlation[LAGS, LAGS:] + correlation[LAGS:, LAGS]) / 2
    along = along / along[0]
    first = int(np.argmax(along < 0.5))
    if not first:  # nowhere
        return float(LAGS)
    return float(first - (0.5 - along[first]) / (along[first - 1] - along[first]))


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveFilter:
    """The noise of one slice and the mixture of filters that suits it; see `attn.core.denoise.base.Filter`.

    Parameters
    ----------
    model : NoiseModel
    preset : Preset
    seed : int
        Of the synthetic noise.
    digest : str
        Of the slice it was fitted on.
    shares : tuple of float
        Mean weight of every head in that slice.
    weights : ndarray, shape (6, H, W), or None
        Of every head in that slice; None: made again where they are wanted.
    result : ndarray, shape (H, W), or None
        That slice denoised; None: made again where it is wanted.
    strength : float
        Factor on the range widths.
    regions : tuple of Region
        Rectangles with a factor of their own instead of ``strength``; a later one wins.

    Attributes
    ----------
    parameters, steps : int
        0: nothing is learned.
    """

    model: NoiseModel
    preset: Preset
    seed: int
    digest: str
    shares: tuple[float, ...]
    weights: Array | None = field(default=None, repr=False)
    result: Array | None = field(default=None, repr=False)
    strength: float = 1.0
    regions: tuple[Region, ...] = ()
    parameters: int = field(default=0, init=False)
    steps: int = field(default=0, init=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the slices it is for."""
        height, width = self.model.level.shape
        return height, width

    @property
    def settings(self) -> Mapping[str, float]:
        """For the report.

        ``noise_std``: root mean square of the noise level where the slice is flat, as a share of the window.
        ``correlation_length``: pixels at which the noise's correlation falls to half. ``gamma`` and ``keep``: the
        preset's. ``head_0_share`` ... ``head_5_share``: mean weight of each filter.
        """
        flat = self.model.level[self.model.flat] if self.model.flat.any() else self.model.level
        return {
            "noise_std": float(np.sqrt(np.mean(np.square(flat, dtype=np.float64)))),
            "correlation_length": correlation_length(self.model.correlation),
            "gamma": self.preset.gamma,
            "keep": self.preset.keep,
            "seed": float(self.seed),
            **{f"head_{k}_share": share for k, share in enumerate(self.shares)},
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user must know of the fit."""
        if self.model.flat.any():
            return ()
        return (
            "no place to measure the noise on: no pixel is without clipped or padding ones nearby; only differences of "
            f"some {FAINTEST:g} of the window are smoothed",
        )

    def __call__(self, image: Tensor, valid: Mask | None = None) -> Tensor:
        """Denoise ``image`` [H, W]; same shape, dtype and device. A constant image comes back unchanged.

        Another slice than the one it was fitted on keeps the noise level and is weighed by its own risk. ``valid``
        [H, W] is False where pixels are padding.

        Raises
        ------
        ValueError
            If the image is not one that can be denoised, or has another size than the slice it was fitted on.
        """
        import torch

        x = self._checked(image, valid)
        if x.min() == x.max():
            return image.clone()
        with kernels_own_the_threads():
            result = self._denoised(x, valid)
        return torch.from_numpy(np.array(result, np.float32)).to(dtype=image.dtype, device=image.device)

    def maps(self, image: Tensor, valid: Mask | None = None) -> dict[str, Array]:
        """What the filter does where in ``image`` [H, W], with strength and regions applied.

        Returns
        -------
        dict of str to ndarray, float32
            ``noise_level`` and ``sigma_r`` [H, W] in units of the image, ``sigma_s`` [H, W] in pixels, ``weights``
            [6, H, W].
        """
        x = self._checked(image, valid)
        with kernels_own_the_threads():
            _, weights = self._mixture(x, valid)
        sigma_r, sigma_s = widths(self.model.level, weights)
        maps = {"noise_level": self.model.level, "sigma_r": self._factors() * sigma_r, "sigma_s": sigma_s}
        return {name: np.asarray(plane, np.float32) for name, plane in {**maps, "weights": weights}.items()}

    def with_strength(self, strength: float = 1.0, regions: Sequence[Region] = ()) -> AdaptiveFilter:
        """The same filter with the range widths scaled; noise level and weights stay, nothing is estimated again.

        Parameters
        ----------
        strength : float
            Below 1 keeps more detail and noise, 0 everything; above 1 smooths more.
        regions : sequence of Region
            Rectangles with a factor of their own instead; parts outside an image are ignored.

        Raises
        ------
        ValueError
            If a factor is negative or not finite, or a rectangle is empty.
        """
        check_strength(strength, regions)
        return replace(self, strength=float(strength), regions=tuple(regions))

    def released(self) -> AdaptiveFilter:
        """The same filter without what can be made again of the slice it was fitted on."""
        return replace(self, weights=None, result=None)

    def save(self, path: str | os.PathLike[str], **more: object) -> None:
        """Write noise model and weights to a safetensors file; strength and regions are not part of it.

        ``more`` joins its metadata.

        Raises
        ------
        InputError
            If the place cannot be written.
        """
        import torch

        planes = {one.name: getattr(self.model, one.name) for one in fields(self.model)}
        if self.weights is not None:
            planes["weights"] = self.weights
        state = {name: torch.from_numpy(np.ascontiguousarray(plane)) for name, plane in planes.items()}
        name = next((name for name, preset in PRESETS.items() if preset == self.preset), "")
        described = {"form": FORM, "preset": name, "gamma": self.preset.gamma, "keep": self.preset.keep}
        described |= {"seed": self.seed, "digest": self.digest, "shares": " ".join(map(repr, self.shares))}
        write_kept(path, "adaptive", state, described | more)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AdaptiveFilter:
        """Read a filter that ``save`` wrote. Raises ``InputError`` for any other file."""
        metadata, state = read_kept(path, "adaptive")
        try:
            if int(metadata["form"]) != FORM:
                raise ValueError("another form")
            planes = {name: tensor.numpy() for name, tensor in state.items()}
            weights = planes.pop("weights", None)
            preset = Preset(float(metadata["gamma"]), float(metadata["keep"]))
            shares = tuple(float(word) for word in metadata["shares"].split())
            made = cls(NoiseModel(**planes), preset, int(metadata["seed"]), metadata["digest"], shares, weights)
            _check(made)
        except Exception as error:  # a forged description fails anywhere
            raise no_match(path, "adaptive") from error
        return made

    def _checked(self, image: Tensor, valid: Mask | None) -> Array:
        """The slice as the filters see it."""
        x = np.ascontiguousarray(filled(as_image(image), valid))
        if x.shape != self.shape:
            own, other = (f"{height} x {width}" for height, width in (self.shape, x.shape))
            raise ValueError(f"the filter is for slices of {own} pixels, this one has {other}: fit one for it")
        return x

    def _factors(self) -> Array:
        return strength_map(self.shape, self.strength, self.regions)

    def _mixture(self, x: Array, valid: Mask | None) -> tuple[Array | None, Array]:
        """The slice denoised at strength 1, where that is known, and the weights of the heads."""
        own = digest(x, valid) == self.digest
        if own and self.weights is not None:
            return self.result, self.weights
        return denoise_slice(x, self.model if own else self.model.seen_in(x, valid), self.preset, drawn_by(self.seed))

    def _denoised(self, x: Array, valid: Mask | None) -> Array:
        result, weights = self._mixture(x, valid)
        factors = self._factors()
        if result is None or (factors != 1).any():
            result = mix(x, filtered(x, self.model.level, factors), weights, kept(self.preset.keep, factors))
        return result


def _check(fitted: AdaptiveFilter) -> None:
    """Raise ``ValueError`` where the parts of a filter that was read cannot belong together; NaN was refused before."""
    model, side = fitted.model, 2 * LAGS + 1
    for one in fields(model):
        plane, lags = getattr(model, one.name), one.name in ("correlation", "raw")
        if plane.shape != ((side, side) if lags else fitted.shape) or plane.size == 0:
            raise ValueError(f"{one.name} of another shape")
        if plane.dtype != (bool if one.name == "flat" else np.float64 if lags else np.float32):
            raise ValueError(f"{one.name} of another type")
    for level in (model.level, model.pilot_level):
        if level.min() < LEVELS[0] or level.max() > LEVELS[1]:
            raise ValueError("no noise levels")
    if not model.correlation[LAGS, LAGS] > 0 or max(abs(model.correlation).max(), abs(model.raw).max()) > MOST:
        raise ValueError("no correlation")
    if fitted.weights is not None:
        w = fitted.weights
        if w.shape != (len(HEADS), *fitted.shape) or w.dtype != np.float32 or (w < 0).any():
            raise ValueError("no weights")
        if np.abs(w.sum(0) - 1).max() > 1e-3:
            raise ValueError("weights that do not add up")
    if len(fitted.shares) != len(HEADS) or not all(0 <= share <= 1 for share in fitted.shares):
        raise ValueError("no shares")
    if not (0 <= fitted.preset.gamma <= 100 and 0 <= fitted.preset.keep <= 1 and 0 <= fitted.seed < 2**32):
        raise ValueError("out of range")
