"""A series as a volume: every slice also draws on up to three slices on either side.

Specification: methods/adaptive-denoise.md, section 6. All slices are on one intensity scale. Slice by slice the method
of section 2 gives level, synthetic noise and result; then every slice takes three more filters that reach into its
neighbours, and the four candidates are mixed by their risk, as in section 2 C.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bilateral import accumulate
from .mixture import EPSILON, Preset, filtered, kept, mix, weigh
from .neighbours import Array, Neighbour, Shift, Slice, SliceGeometry, View, pair, smoothed
from .noise_model import NoiseModel, estimate
from .padding import filled

OWN, NEAR = 6, 4
"""Pixels: radius of the window in the slice itself, in its neighbours."""
ALLOWED = 2.5
"""The lesion guard: squared deviations that pass freely. The specification says 4, with 0.08 dB more on phantom series
and less left of a lesion that one slice alone holds: tests/benchmarks/denoise.md."""


@dataclass(frozen=True, slots=True)
class SeriesHead:
    """Filters over several slices that differ in their range width alone.

    Parameters
    ----------
    denoised : bool
        The guide is the slice-wise mixture instead of the noisy slice.
    patch : int
        Patches of 2 patch + 1 pixels a side are compared.
    kappas : tuple of float
        Range widths in noise levels.
    """

    denoised: bool
    patch: int
    kappas: tuple[float, ...]

    @property
    def bias(self) -> float:
        """A noisy guide's patches differ by noise alone; that share passes freely."""
        return 0.0 if self.denoised else 1.0


SERIES_HEADS = (SeriesHead(True, 1, (0.8,)), SeriesHead(False, 2, (1.4, 2.0)))
CANDIDATES = 1 + sum(len(head.kappas) for head in SERIES_HEADS)
"""The slice-wise mixture, and every filter over several slices."""


def slicewise(
    x: Array, valid: Array | None, preset: Preset, seed: int = 0, *, strength: Any = 1.0,
    model: NoiseModel | None = None, aspect: float = 1.0,
) -> Slice:  # fmt: skip
    """One slice on its own; section 2.

    Parameters
    ----------
    x : ndarray, shape (H, W), float32, in [0, 1]
    valid : ndarray of bool, shape (H, W), or None
        False where pixels are padding.
    strength : float or ndarray, shape (H, W)
        Factor on the range widths; the weights stay those of strength 1.
    model : NoiseModel, optional
        Estimated on another slice of the series; level and correlation are taken from it. Where this slice is flat,
        and what its noise shares with its neighbours', is looked at here all the same.
    aspect : float
        Height of a pixel over its width.
    """
    x = np.ascontiguousarray(filled(x, valid), np.float32)
    model = estimate(x, valid, aspect=aspect) if model is None else model.seen_in(x, valid)
    noise = model.sample(np.random.default_rng(seed))
    planes = filtered(x, model.level)
    stepped = filtered(x + np.float32(EPSILON) * noise, model.level)
    weights = weigh(x, model.level, planes, noise * (stepped - planes) / EPSILON, preset.gamma)
    guide, moved = (weights * planes).sum(0), (weights * stepped).sum(0)
    edited = guide
    if np.any(strength != 1):
        planes = filtered(x, model.level, strength)
        edited = (weights * planes).sum(0)
    flat = model.flat if model.flat.any() else np.ones(x.shape, bool)
    return Slice(
        x, model.level, flat, model.residual, noise, guide, moved, edited,
        alone=mix(x, planes, weights, kept(preset.keep, strength)),
        low=smoothed(x, aspect),
        low_noise=float(np.std((smoothed(noise, aspect) / model.level)[flat])),
        model=model, shares=tuple(float(share) for share in weights.mean((1, 2), dtype=np.float64)),
        valid=valid, strength=strength, aspect=aspect,
    )  # fmt: skip


def heads_over(
    own: Slice, here: View, neighbours: Sequence[tuple[View, Neighbour]], low_noise: float, strength: Any = 1.0,
    allowed: float = ALLOWED,
) -> tuple[Array, Array]:  # fmt: skip
    """Step 2. The slice behind every head [3, H, W], and the shares of the weight that lie in other slices.

    ``here`` is how the slice ``own`` is seen, as it is or moved along its noise; so are its neighbours.
    """
    # T = (low difference)^2 / (2 · 2 low_noise^2 half^2): half the squared deviation, free up to allowed / 2
    sigma_low = np.float32(2**0.5 * low_noise)
    planes, shares = [], []
    for head in SERIES_HEADS:
        guide = here.guide if head.denoised else here.x
        out, total = np.stack([here.x] * len(head.kappas)), np.ones((len(head.kappas), *here.x.shape), np.float32)
        accumulate(
            out, total, here.x, guide, guide, strength * own.level, head.kappas, here.low, here.low,
            sigma_low * own.level, bias=head.bias, low_bias=allowed / 2, radius=OWN, patch=head.patch, own=True,
        )  # fmt: skip
        inside = total.copy()
        for there, n in neighbours:
            accumulate(
                out, total, there.x, guide, there.guide if head.denoised else there.x, strength * n.half, head.kappas,
                here.low, there.low, sigma_low * n.half, bias=head.bias, low_bias=allowed / 2, radius=NEAR,
                patch=head.patch, weight=n.weight,
            )  # fmt: skip
        planes.append(out / total)
        shares.append(1 - inside / total)
    return np.concatenate(planes), np.concatenate(shares)


@dataclass(frozen=True, slots=True)
class FromVolume:
    """A slice denoised with its neighbours.

    Parameters
    ----------
    result : ndarray, shape (H, W), float32
    from_neighbours : ndarray, shape (H, W), float32
        Share of the weight that lies in other slices.
    weights : ndarray, shape (4, H, W), float32
        Of the candidates: the slice-wise mixture and the three series heads.
    level : ndarray, shape (H, W), float32
        The noise level.
    correlations : tuple of float
        Of the noise with every neighbour that was used; 0 where it did not count.
    left_out : int
        Neighbours that were not used: (nearly) the same noise, much stronger noise, or padding alone.
    """

    result: Array
    from_neighbours: Array
    weights: Array
    level: Array
    correlations: tuple[float, ...] = ()
    left_out: int = 0


def denoise_with(
    own: Slice, others: Sequence[tuple[Slice, Shift]], preset: Preset, *, allowed: float = ALLOWED
) -> FromVolume:
    """Step 3. A slice denoised with its neighbours; without a usable one its slice-wise result, to the bit.

    A constant slice comes back unchanged.

    Parameters
    ----------
    own : Slice
    others : sequence of (Slice, (int, int))
        Slices, and where their pixel (0, 0) lies in pixels of ``own``, in a fixed order: sums depend on it in the last
        digit. Four planes of float32 are held for each, eight where its noise is correlated with ``own``'s.
    preset : Preset
    allowed : float
        Squared deviations that the lesion guard lets pass freely.
    """
    pairs = [pair(own, other, shift) for other, shift in others]
    neighbours = [n for n in pairs if n is not None]
    left_out = len(pairs) - len(neighbours)
    constant = bool(own.x.min() == own.x.max())
    if constant or not neighbours:
        weights = np.zeros((CANDIDATES, *own.x.shape), np.float32)
        weights[0] = 1
        result = own.x if constant else own.alone
        return FromVolume(result, np.zeros_like(own.level), weights, own.level, left_out=left_out)
    low_noise = min(min(n.low_noise for n in neighbours), 1.2 * own.low_noise)
    step = np.float32(EPSILON) * own.noise
    still, moved = View(own.x, own.guide, own.low), View(own.x + step, own.moved, own.low + smoothed(step, own.aspect))
    seen = [(n.still, n) for n in neighbours]
    planes, shares = heads_over(own, still, seen, low_noise, allowed=allowed)
    stepped, _ = heads_over(own, moved, [(n.moved, n) for n in neighbours], low_noise, allowed=allowed)
    stack = np.stack([own.guide, *planes])
    passed = own.noise * (np.stack([own.moved, *stepped]) - stack) / EPSILON
    weights = weigh(own.x, own.level, stack, passed, preset.gamma)
    if np.any(own.strength != 1):
        planes, shares = heads_over(own, still, seen, low_noise, own.strength, allowed)
        stack = np.stack([own.edited, *planes])
    result = mix(own.x, stack, weights, kept(preset.keep, own.strength))
    return FromVolume(
        result, np.asarray((weights[1:] * shares).sum(0)), weights, own.level,
        tuple(n.rho for n in neighbours), left_out,
    )  # fmt: skip


def denoise_volume(
    x: Array, geometry: SliceGeometry, preset: Preset, valid: Array | None = None, seed: int = 0, *,
    strength: Any = 1.0, model: NoiseModel | None = None, aspect: float = 1.0, allowed: float = ALLOWED,
) -> Iterator[tuple[int, FromVolume]]:  # fmt: skip
    """(index, result) for every slice of x [Z, H, W] in [0, 1], in order of position.

    Besides ``x`` the slices of one window are held: seven at most, 10 MB each at 512 x 512. Seeds count from ``seed``
    in order of position. Other parameters as in `slicewise` and `denoise_with`.
    """
    order = geometry.order()
    rank = {index: k for k, index in enumerate(order)}
    ready: dict[int, Slice] = {}
    for i in order:
        beside = geometry.near(i, x.shape[-2:])
        wanted = sorted([i, *(j for j, _ in beside)], key=lambda j: rank[j])
        ready = {j: ready[j] for j in wanted if j in ready}
        for j in wanted:
            if j not in ready:
                mask = None if valid is None else valid[j]
                ready[j] = slicewise(
                    x[j], mask, preset, seed + rank[j], strength=strength, model=model, aspect=aspect
                )  # fmt: skip
        yield i, denoise_with(ready[i], [(ready[j], shift) for j, shift in beside], preset, allowed=allowed)
