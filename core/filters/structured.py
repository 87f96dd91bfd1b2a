"""Structured start values: orthogonal, delta-orthogonal, Dirac, ICNR, sparse.

Specification: methods/filter-design.md, section 3.1. All functions see one group as [O, C, *kernel], the layout of
``layers.Layer.filters``. An even kernel's centre is index k // 2 (section 9, 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def orthogonal(weight: Tensor, *, gain: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Orthonormal rows of [O, C * taps] (columns where O is larger), times ``gain``; fills ``weight`` in place.

    The matrix is orthogonal, the convolution with it is not: its norm can reach sqrt(taps) (section 9, 3).
    """
    return nn.init.orthogonal_(weight, gain=gain, generator=generator)


def at_centre(matrix: Tensor, kernel: Sequence[int]) -> Tensor:
    """Kernels that are 0 but for their centre: [O, C] -> [O, C, *kernel]."""
    out = matrix.new_zeros(*matrix.shape, *kernel)
    index: tuple[slice | int, ...] = (slice(None), slice(None), *(side // 2 for side in kernel))
    out[index] = matrix
    return out


def delta_orthogonal(
    out_channels: int, in_channels: int, kernel: Sequence[int], *, gain: float = 1.0,
    generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """An orthogonal map between channels at the kernel's centre; with circular padding it keeps every norm.

    Returns
    -------
    Tensor, shape (out_channels, in_channels, *kernel), ``dtype``

    Raises
    ------
    ValueError
        If there are fewer output than input channels: no such map keeps norms.

    References
    ----------
    Xiao et al., ICML 2018; methods/filter-design.md, section 3.1.
    """
    if out_channels < in_channels:
        raise ValueError(
            f"delta-orthogonal from {in_channels} to {out_channels} channels: the outputs must not be fewer. "
            "Use orthogonal there."
        )
    square = torch.empty(out_channels, out_channels, dtype=dtype, device=generator.device if generator else "cpu")
    q = nn.init.orthogonal_(square, generator=generator)
    return gain * at_centre(q[:, :in_channels], kernel)


def dirac(out_channels: int, in_channels: int, kernel: Sequence[int], *, gain: float = 1.0) -> Tensor:
    """W[i, i, centre] = gain for i < min(O, C), else 0: filters past the input channels stay 0."""
    return gain * at_centre(torch.eye(out_channels, in_channels), kernel)


def icnr(base: Tensor, factor: int) -> Tensor:
    """Each filter ``factor``^2 times in a row, so that a pixel shuffle by ``factor`` starts as nearest neighbour.

    Parameters
    ----------
    base : Tensor, shape (O / factor^2, C, *kernel)
    factor : int
        Of the pixel shuffle.

    Returns
    -------
    Tensor, shape (O, C, *kernel)

    References
    ----------
    Aitken et al., arXiv 1707.02937; methods/filter-design.md, section 3.1.
    """
    if factor < 1:
        raise ValueError(f"a pixel shuffle by {factor} does not exist: the factor is at least 1.")
    return base.repeat_interleave(factor**2, dim=0)


def sparse(
    weight: Tensor, *, nonzeros: int = 15, gain: float = math.sqrt(2), generator: torch.Generator | None = None
) -> Tensor:
    """Normal weights at ``nonzeros`` random places of every filter, of variance gain^2 / nonzeros; in place.

    Where a filter has no more inputs than that, all its weights are drawn.

    References
    ----------
    Martens, ICML 2010 (15 of them); methods/filter-design.md, section 3.1.
    """
    if nonzeros < 1:
        raise ValueError(f"{nonzeros} non-zero weights per filter: at least 1.")
    rows = weight.flatten(1)  # [O, F]
    keep = min(nonzeros, rows.shape[1])
    chosen = torch.rand(rows.shape, generator=generator, device=rows.device).topk(keep, dim=1).indices  # [O, keep]
    values = torch.empty(chosen.shape, dtype=rows.dtype, device=rows.device)
    nn.init.normal_(values, std=gain / math.sqrt(keep), generator=generator)
    return weight.copy_(torch.zeros_like(rows).scatter_(1, chosen, values).view_as(weight))
