"""Filters learned from image patches without labels: PCA, spherical k-means, Sanger's rule.

Specification: methods/filter-design.md, section 3.4, steps 8-11. Patch order and normalisation are in ``patches``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import normalize as to_unit

from ..errors import UsageError, did_you_mean
from .banks import extend, rescale
from .patches import normalise, patches, pca, zca

CHUNK = 16_384
"""Patches whose similarity to all centroids is held at once."""


def spherical_kmeans(
    x: Tensor, centroids: Tensor, *, iterations: int = 10, generator: torch.Generator | None = None
) -> tuple[Tensor, list[float]]:
    """Step 10: each patch keeps its projection on one centroid only; the centroids follow, damped.

    Parameters
    ----------
    x : Tensor, shape (P, D)
        Whitened patches.
    centroids : Tensor, shape (K, D)
        The start; made unit rows.
    iterations : int
    generator : Generator, optional
        Draws the patch that takes the place of a centroid to which none belongs.

    Returns
    -------
    centroids : Tensor, shape (K, D), unit rows
    errors : list of float
        Mean squared distance of the patches to their projections, one per iteration.

    References
    ----------
    Coates & Ng 2012; methods/filter-design.md, section 3.4, step 10.
    """
    d = to_unit(centroids.to(x.dtype), dim=1)
    errors = []
    for _ in range(iterations):
        owner, value = torch.empty(len(x), dtype=torch.long, device=x.device), x.new_zeros(len(x))
        for start in range(0, len(x), CHUNK):
            similarity = x[start : start + CHUNK] @ d.T  # [p, K]
            own = similarity.abs().argmax(1)
            owner[start : start + CHUNK] = own
            value[start : start + CHUNK] = similarity.gather(1, own[:, None])[:, 0]
        moved = d.index_add(0, owner, value[:, None] * x)
        members = torch.zeros(len(d), device=x.device).index_add_(0, owner, (value != 0).float())
        for k in (members == 0).nonzero()[:, 0].tolist():
            device = generator.device if generator else "cpu"
            patch = x[int(torch.randint(len(x), (), generator=generator, device=device))]
            moved[k] = patch if patch.any() else d[k]
        d = to_unit(moved, dim=1)
        errors.append((x - value[:, None] * d[owner]).square().sum(1).mean().item())
    return d, errors


def sanger(x: Tensor, start: Tensor, eta: float) -> Tensor:
    """Step 11: W += eta (y x^T - tril(y y^T) W) with y = W x, over the rows of ``x`` in turn.

    Parameters
    ----------
    x : Tensor, shape (P, D)
    start : Tensor, shape (K, D)
    eta : float
        Step; diverges where eta * ``|x|``^2 is not well below 1.

    Returns
    -------
    Tensor, shape (K, D). Its rows tend to the leading eigenvectors; with K = 1 this is Oja's rule.
    """
    w = start.to(x.dtype).clone()
    for row in x:
        y = (w @ row)[:, None]  # [K, 1]
        w += eta * y * (row - (y * w).cumsum(0))  # tril(y y^T) W, row by row, is y times a running sum
    return w


def _by_pca(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    rows, values = pca(x)
    return rows[values > 1e-6 * values[0]][:count]


def _by_kmeans(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    whitening = zca(x)
    start = torch.randn(count, x.shape[1], dtype=x.dtype, generator=generator, device=_home(generator)).to(x.device)
    return spherical_kmeans(whitening(x), start, generator=generator)[0] @ whitening.matrix


def _by_sanger(x: Tensor, count: int, generator: torch.Generator | None, *, updates: int = 20_000) -> Tensor:
    """Filters past the rank of the patches would only fade away, so that no more than that are learned."""
    values = pca(x)[1]
    count = min(count, int((values > 1e-6 * values[0]).sum()))
    order = torch.randperm(len(x), generator=generator, device=_home(generator))[:updates].to(x.device)
    start = torch.randn(count, x.shape[1], dtype=x.dtype, generator=generator, device=_home(generator)).to(x.device)
    # |x|^2 is at most D: the step of the golden vectors (0.005 at D = 75), kept as far from divergence at any other D
    return sanger((x - x.mean(0))[order], to_unit(start, dim=1), eta=0.375 / x.shape[1])


def _home(generator: torch.Generator | None) -> torch.device:
    return generator.device if generator else torch.device("cpu")


LEARNERS: Mapping[str, Callable[[Tensor, int, torch.Generator | None], Tensor]] = MappingProxyType(
    {"pca": _by_pca, "zca-kmeans": _by_kmeans, "sanger": _by_sanger}
)
"""Normalised patches [P, D], filters wanted -> filters [up to count, D], by the names of ``INITIALISERS``."""


def learn_bank(
    images: Tensor, *, method: str, size: int | tuple[int, int], count: int, stride: int = 2, limit: int = 100_000,
    force: bool = False, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Learn a bank of filters from images.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
        In [0, 1], or standardised: ``patches.CONTRAST``, which calms flat patches, is small then.
    method : {"pca", "zca-kmeans", "sanger"}
    size : int or (int, int)
        Sides of the filters in pixels.
    count : int
        Filters wanted. Where ``pca`` and ``sanger`` have fewer components, mixtures of them follow (`banks.extend`).
    stride, limit
        See `patches.patches`.
    force : bool
        Learn from fewer than 2 D patches, whose covariance has no full rank.
    generator : Generator, optional
        For the choice of patches and the start.

    Returns
    -------
    Tensor, shape (count, C, height, width), float32, each filter of norm 1

    Raises
    ------
    UsageError
        For an unknown method.
    ValueError
        If the patches are too few, or all of them are flat.

    References
    ----------
    methods/filter-design.md, section 3.4.
    """
    if method not in LEARNERS:
        hint = did_you_mean(method, LEARNERS) or f"Known: {', '.join(LEARNERS)}."
        raise UsageError(f"no way to learn filters named {method!r}. {hint}")
    if count < 1:
        raise ValueError(f"a bank of {count} filters: at least 1.")
    x = normalise(patches(images, size, stride=stride, limit=limit, generator=generator))
    if len(x) < 2 * x.shape[1] and not force:
        raise ValueError(f"{len(x)} patches for {x.shape[1]} dimensions: at least {2 * x.shape[1]} are needed.")
    if not (x.var(0, correction=0) > 1e-12).any():
        raise ValueError("the images are flat: filters cannot be learned from them.")
    high, wide = (size, size) if isinstance(size, int) else size
    filters = LEARNERS[method](x, count, generator).reshape(-1, images.shape[1], high, wide)
    return extend(rescale(filters, 1.0), count, generator).float()
