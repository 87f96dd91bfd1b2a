"""What is measured of the filters of one layer, from its weights alone.

Specification: methods/filter-design.md, section 3.5, steps 13-18, whose names these are. Everything is float64. What
has no meaning for a layer is NaN: spatial measures of 1 x 1 kernels, separability of kernels that are no matrix, the
central 3 x 3 of a kernel with even sides, cosines of a single filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...filters.layers import fans

FFT = 32
"""Points of the zero-padded transform, each axis; a larger kernel has as many as its side."""
DEAD = 1e-3
"""Of the median norm."""
DUPLICATE = 0.99
SPARSE = 0.01
"""Of the layer's largest absolute weight."""
GRAM = 128
"""From so many rows and columns on, singular values are taken from the Gram matrix."""
RESOLVED = 1e-6
"""Of the largest singular value: what a Gram matrix in float64 tells apart from 0, and a margin."""
TINY = 1e-12
CHUNK = 1024
"""Rows of the matrix of cosines at a time."""
KERNELS = 65536
"""Kernels at a time."""


@dataclass(frozen=True, slots=True)
class FilterStatistics:
    """Of one layer of O filters with K = O * C / groups kernels.

    Parameters
    ----------
    fan_in, fan_out : int
        See ``filters.layers.fans``.
    mean, std, kurtosis, least, most : float
        Of all weights; the kurtosis is 0 for a Gaussian.
    he_ratio : float
        std over that of He's rule.
    spectral_norm, cond, effective_rank, stable_rank, participation_ratio : float
        Of the matrix O x fan_in, not of the convolution; cond has a least singular value of 1e-12 at least.
    orthogonality_defect, cos_mean : float
        Of the normalised filters; 0: orthonormal.
    variance_entropy : float
        Of the kernels, at most log10 of their number of weights.
    sparse_fraction : float
        Share of kernels that are next to nothing.
    cos_max, filter_norm, dead : Tensor, shape (O,)
        Largest absolute cosine with another filter; norm; whether it is next to nothing.
    separability, centre_energy, energy_radius, dc, frequency_centroid, even_fraction : Tensor, shape (K,)
        Of each kernel, filter by filter; the radius in weights, the frequency in cycles per weight.
    """

    fan_in: int
    fan_out: int
    mean: float
    std: float
    kurtosis: float
    least: float
    most: float
    he_ratio: float
    spectral_norm: float
    cond: float
    effective_rank: float
    stable_rank: float
    participation_ratio: float
    orthogonality_defect: float
    cos_mean: float
    variance_entropy: float
    sparse_fraction: float
    cos_max: Tensor
    filter_norm: Tensor
    dead: Tensor
    separability: Tensor
    centre_energy: Tensor
    energy_radius: Tensor
    dc: Tensor
    frequency_centroid: Tensor
    even_fraction: Tensor

    @property
    def duplicates(self) -> int:
        """Filters that another one says, too, up to sign and size."""
        return int((self.cos_max > DUPLICATE).sum())

    @property
    def redundancy(self) -> float:
        """1 - effective rank / most possible; step 21."""
        return 1 - self.effective_rank / min(len(self.filter_norm), self.fan_in)

    def scalars(self) -> dict[str, float]:
        """All numbers of the layer as a whole."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if not isinstance(value, Tensor)}


def statistics(filters: Tensor, *, groups: int = 1) -> FilterStatistics:
    """Steps 13-18 of a layer.

    Parameters
    ----------
    filters : Tensor, shape (O, C / groups, *kernel)
        Finite, of a floating type; a kernel of 1 to 3 sides.
    groups : int
        For ``fan_in`` and ``fan_out`` nothing depends on it: PyTorch does not divide either by it.

    Raises
    ------
    ValueError
        If the shape is no such one, or empty.
    """
    if not 3 <= filters.ndim <= 5 or not filters.numel():
        raise ValueError(f"weights of shape {tuple(filters.shape)} are no convolution filters")
    fan_in, fan_out = fans(filters.shape, groups=groups)
    weights = filters.detach().to("cpu", torch.float64)
    matrix = weights.flatten(1)
    mean, std = matrix.mean(), matrix.std(correction=0)
    singular = singular_values(matrix)
    share = singular / singular.sum().clamp_min(TINY)
    energy = singular.square()
    cos_max, cos_mean, defect = cosines(matrix)
    norm = matrix.norm(dim=1)
    kernels = weights.flatten(0, 1)
    of_kernels = kernel_statistics(kernels)
    spatial = kernels[0].numel() > 1
    return FilterStatistics(
        fan_in, fan_out, float(mean), float(std),
        kurtosis=float(((matrix - mean) ** 4).mean() / std**4 - 3) if std > 0 else math.nan,
        least=float(matrix.min()), most=float(matrix.max()), he_ratio=float(std) / math.sqrt(2 / fan_in),
        spectral_norm=float(singular[0]), cond=float(singular[0]) / max(float(singular[-1]), TINY),
        effective_rank=float(torch.exp(-torch.xlogy(share, share).sum())),
        stable_rank=float(energy.sum() / energy[0]) if energy[0] > 0 else 0.0,
        participation_ratio=float(energy.sum() ** 2 / energy.square().sum()) if energy[0] > 0 else 0.0,
        orthogonality_defect=defect, cos_mean=cos_mean,
        variance_entropy=variance_entropy(kernels) if spatial else math.nan,
        sparse_fraction=float((kernels.flatten(1).abs().amax(1) < SPARSE * matrix.abs().max()).double().mean()),
        cos_max=cos_max, filter_norm=norm, dead=(norm < DEAD * norm.median()) | (norm == 0), **of_kernels,
    )  # fmt: skip


def singular_values(matrix: Tensor) -> Tensor:
    """Falling. Of large matrices the roots of the Gram matrix's eigenvalues, where none is too small for that."""
    if min(matrix.shape) >= GRAM:
        gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        found: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)
        if found[-1] > RESOLVED * found[0]:
            return found
    exact: Tensor = torch.linalg.svdvals(matrix)
    return exact


def cosines(matrix: Tensor) -> tuple[Tensor, float, float]:
    """Step 15: largest absolute cosine of each row with another, [O]; their mean; the orthogonality defect.

    A row of zeros has cosine 0 with all, itself among them.
    """
    count = len(matrix)
    if count < 2:
        return matrix.new_full((count,), math.nan), math.nan, math.nan
    norm = matrix.norm(dim=1, keepdim=True)
    rows = matrix / torch.where(norm > 0, norm, 1)
    largest, total, square = [], 0.0, 0.0
    for start in range(0, count, CHUNK):
        product = rows[start : start + CHUNK] @ rows.T
        here = torch.arange(len(product))
        square += float(product.square().sum() - (2 * product[here, start + here] - 1).sum())  # |N N^T - I|^2
        product[here, start + here] = 0
        product.abs_()
        largest.append(product.amax(1))
        total += float(product.sum())
    pairs = count * (count - 1)
    return torch.cat(largest), total / pairs, math.sqrt(max(square, 0.0) / pairs)


def kernel_statistics(kernels: Tensor) -> dict[str, Tensor]:
    """Step 17, [K] each, of kernels [K, *kernel]. Kernels of zeros give 0."""
    parts = [_kernels(kernels[start : start + KERNELS]) for start in range(0, len(kernels), KERNELS)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _kernels(kernels: Tensor) -> dict[str, Tensor]:
    sides = kernels.shape[1:]
    flat = kernels.flatten(1)  # [K, taps]
    unknown = flat.new_full((len(flat),), math.nan)
    if flat.shape[1] == 1:
        names = ("separability", "centre_energy", "energy_radius", "frequency_centroid", "even_fraction")
        return {**dict.fromkeys(names, unknown), "dc": flat[:, 0]}
    energy = flat.square().sum(1)
    safe = torch.where(energy > 0, energy, 1)
    squares = flat.square()
    distance = torch.cartesian_prod(*(torch.arange(side).double() - (side - 1) / 2 for side in sides))
    distance = distance.reshape(flat.shape[1], -1).square().sum(1)
    middle = _middle(sides)
    turned = kernels.flip(tuple(range(1, kernels.ndim))).flatten(1)
    matrices = len(sides) == 2 and min(sides) > 1
    return {
        "separability": largest_eigenvalue(kernels) / safe if matrices else unknown,
        "centre_energy": unknown if middle is None else torch.where(energy > 0, (squares @ middle) / safe, 0),
        "energy_radius": ((squares @ distance) / safe).sqrt(),
        "dc": flat.sum(1),
        "frequency_centroid": (flat @ frequency_form(tuple(sides)) * flat).sum(1).clamp_min(0) / safe,
        "even_fraction": torch.where(energy > 0, (1 + (flat * turned).sum(1) / safe) / 2, 0),
    }


def _middle(sides: torch.Size) -> Tensor | None:
    """1 at the central three weights along every side, [taps]; None where an even side has no such ones."""
    if any(side > 3 and side % 2 == 0 for side in sides):
        return None
    lines = [(torch.arange(side) - side // 2).abs() <= 1 if side >= 3 else torch.ones(side).bool() for side in sides]
    return torch.cartesian_prod(*lines).reshape(math.prod(sides), -1).all(1).double()


def largest_eigenvalue(kernels: Tensor) -> Tensor:
    """sigma_1^2 of matrices [K, h, w] with sides of 2 at least, [K]: in closed form up to a side of 3 (Smith, 1961)."""
    gram = kernels @ kernels.mT if kernels.shape[1] <= kernels.shape[2] else kernels.mT @ kernels
    side = gram.shape[1]
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    if side > 3:
        most: Tensor = torch.linalg.eigvalsh(gram)[:, -1]
        return most
    about = gram - (trace / side)[:, None, None] * torch.eye(side, dtype=gram.dtype)
    spread = (about.square().sum((1, 2)) / (2 * side)).sqrt()  # of a pair (a, -a): a / sqrt(2)
    if side == 2:
        return trace / 2 + math.sqrt(2) * spread
    safe = torch.where(spread > 0, spread, 1)
    half = (_determinant(about / safe[:, None, None]) / 2).clamp(-1, 1)
    return trace / 3 + 2 * spread * torch.cos(torch.acos(half) / 3)


def _determinant(m: Tensor) -> Tensor:
    """Of [K, 3, 3]; a third of the time that torch.linalg.det takes for many."""
    a, b, c = m[:, 0], m[:, 1], m[:, 2]
    found: Tensor = (a * torch.linalg.cross(b, c)).sum(1)
    return found


def frequency_form(sides: tuple[int, ...]) -> Tensor:
    """Q of step 17, [taps, taps]: k^T Q k is the sum of |F|^2 |f| over that of |F|^2 times the energy k^T k.

    With F the zero-padded transform of n points a side, sum |F|^2 |f| = sum over weights a, b of k_a k_b r(a - b), r
    the inverse transform of |f|, up to the factor n^d, which Parseval's theorem takes away again.
    """
    points = [max(FFT, side) for side in sides]
    axes = torch.meshgrid(*(torch.fft.fftfreq(n, dtype=torch.float64) for n in points), indexing="ij")
    weight = torch.fft.ifftn(torch.stack(axes).square().sum(0).sqrt()).real
    taps = torch.cartesian_prod(*(torch.arange(side) for side in sides)).reshape(math.prod(sides), -1)
    between = taps[:, None] - taps[None]  # [taps, taps, d]
    form: Tensor = weight[tuple((between[..., axis] % points[axis]) for axis in range(len(sides)))]
    return form


def variance_entropy(kernels: Tensor) -> float:
    """Step 18: entropy of the shares of variance along the principal axes of the kernels, to the base of 10."""
    flat = kernels.flatten(1)
    centred = flat - flat.mean(0)
    shares = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    shares = shares / shares.sum().clamp_min(TINY)
    return float(-torch.xlogy(shares, shares).sum() / math.log(10))
