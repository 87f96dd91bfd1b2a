"""Any bank, by name, at the number of filters and channels that a layer wants.

Specification: methods/filter-design.md, section 3.3, step 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError, did_you_mean
from . import analytic

Colour = Literal["luminance", "opponent"]

BANKS: Mapping[str, Callable[[int], Tensor]] = MappingProxyType(
    {
        "dct": analytic.dct,
        "gabor": analytic.gabor,
        "sobel": analytic.sobel,
        "laplacian": analytic.laplacian,
        "log": analytic.log,
        "gaussian": analytic.gaussian,
        "haar": analytic.haar,
        "hadamard": analytic.hadamard,
        "schmid": analytic.schmid,
        "leung-malik": analytic.leung_malik,
    }
)
"""Side -> kernels [n, k, k], by the names of ``INITIALISERS``; ``fourier`` draws as many as are wanted instead."""

_ORTHONORMAL = ("dct", "haar", "hadamard")
_OPPONENT = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 1.0, -2.0))


def bank(
    name: str, *, size: int, count: int | None = None, channels: int | None = None, colour: Colour = "luminance",
    zero_mean: bool = True, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """An analytic bank of ``size`` x ``size`` filters.

    Parameters
    ----------
    name : str
        A key of ``BANKS``, or ``fourier``.
    size : int
        Side of the kernels in pixels.
    count : int, optional
        Filters wanted: the first ones, or all and random orthogonal mixtures of them (see `extend`). Default: the bank
        as it is (``fourier``: size^2).
    channels : int, optional
        Input channels: see `to_channels`. Default: none, kernels only.
    colour : {"luminance", "opponent"}
    zero_mean : bool
        Leave the constant kernel out of dct, haar and hadamard; the other banks have no mean in any case.
    generator : Generator, optional
        For the mixtures and for ``fourier``.

    Returns
    -------
    Tensor, shape (count, size, size) or (count, channels, size, size), float32, each filter of norm 1

    Raises
    ------
    UsageError
        For an unknown name.
    ValueError
        If the bank has no filter of this size, or the colours do not fit the channels.

    References
    ----------
    methods/filter-design.md, section 3.3, steps 3-6.

    Examples
    --------
    >>> bank("gabor", size=7, count=32).shape
    torch.Size([32, 7, 7])
    """
    if count is not None and count < 1:
        raise ValueError(f"a bank of {count} filters: at least 1.")
    if name == "fourier":
        kernels = analytic.fourier(size, count or size**2, generator)
    elif name in BANKS:
        kernels = BANKS[name](size)
    else:
        hint = did_you_mean(name, [*BANKS, "fourier"]) or f"Known: {', '.join(BANKS)}, fourier."
        raise UsageError(f"no bank named {name!r}. {hint}")
    if zero_mean and name in _ORTHONORMAL:
        kernels = kernels[1:]
    if not len(kernels):
        raise ValueError(f"the {name} bank has no filter of {size} x {size}: larger kernels are needed.")
    if channels is not None:
        kernels = to_channels(kernels, channels, colour)
    return extend(kernels, len(kernels) if count is None else count, generator).float()


def to_channels(kernels: Tensor, channels: int, colour: Colour = "luminance") -> Tensor:
    """Step 6: kernels [n, k, k] on several channels, norms kept.

    ``luminance``: the same kernel on each channel / sqrt(C), [n, C, k, k]. ``opponent`` (three channels only): each
    kernel on brightness, red - green and yellow - blue, [3n, 3, k, k].

    Raises
    ------
    ValueError
        If the channels are not three for ``opponent``, or the colour is none of the two.
    """
    if colour == "luminance":
        mix = torch.full((1, channels), 1 / math.sqrt(channels), dtype=kernels.dtype)
    elif colour == "opponent" and channels == 3:
        mix = nn.functional.normalize(torch.tensor(_OPPONENT, dtype=kernels.dtype), dim=1)
    else:
        raise ValueError(f"colour {colour!r} on {channels} channels: luminance takes any number, opponent takes 3.")
    return (kernels[:, None, None] * mix[:, :, None, None]).flatten(0, 1)


def extend(filters: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Step 6: the first ``count`` of [n, ...]; past n, mixtures of all by random orthogonal matrices, norm 1."""
    n, parts = len(filters), [filters]
    for _ in range(-(-count // n) - 1):
        device = generator.device if generator else "cpu"
        q = nn.init.orthogonal_(torch.empty(n, n, dtype=filters.dtype, device=device), generator=generator)
        mixed = (q.to(filters.device) @ filters.flatten(1)).view_as(filters)
        parts.append(rescale(mixed, 1.0))
    return torch.cat(parts)[:count]


def rescale(filters: Tensor, norm: float) -> Tensor:
    """Step 6: every filter of [n, ...] to this L2 norm; sqrt(2) keeps the variance that ``he`` would give."""
    norms = filters.flatten(1).norm(dim=1).clamp_min(torch.finfo(filters.dtype).tiny)
    scaled: Tensor = filters * (norm / norms).view(-1, *[1] * (filters.dim() - 1))
    return scaled
