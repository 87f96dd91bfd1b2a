"""Analytic banks of k x k kernels: cosines, Gabor, edges, blobs, wavelets, rings, plane waves.

Specification: methods/filter-design.md, section 3.3, steps 3-5. All are float64, [n, k, k], rows y down, columns x
right, centred at (k - 1) / 2. The specification gives steps 3 and 4 in full; of step 5 it names the banks, so that
their scales, written relative to k, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def grid(size: int) -> tuple[Tensor, Tensor]:
    """Coordinates (x, y) of a kernel's taps about its geometric centre: two of [k, k]."""
    if size < 1:
        raise ValueError(f"kernels of side {size}: at least 1.")
    line = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def unit(kernels: Tensor) -> Tensor:
    """Mean 0 and L2 norm 1 per kernel of [n, k, k]; those that vanish without their mean are left out."""
    centred = kernels - kernels.mean((-2, -1), keepdim=True)
    norm = centred.flatten(1).norm(dim=1)
    keep = norm > 1e-8
    kept: Tensor = centred[keep] / norm[keep, None, None]
    return kept


def separable(basis: Tensor) -> tuple[Tensor, Tensor]:
    """All outer products of the rows of ``basis`` [k, k], by rising u + v, then u: kernels [k^2, k, k], (u, v)."""
    k = len(basis)
    order = sorted(((u, v) for u in range(k) for v in range(k)), key=lambda pair: (sum(pair), pair[0]))
    index = torch.tensor(order)  # [k^2, 2]
    return basis[index[:, 0], :, None] * basis[index[:, 1], None, :], index


def dct(size: int) -> Tensor:
    """Step 3: the orthonormal DCT-II set [k^2, k, k]; the first kernel is constant."""
    n, u = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)[:, None]
    scale = torch.full((size, 1), math.sqrt(2 / size), dtype=torch.float64)
    scale[0] = math.sqrt(1 / size)
    return separable(scale * torch.cos(math.pi * (2 * n + 1) * u / (2 * size)))[0]


def gabor_parameters(size: int, directions: int = 4, gamma: float = 0.5) -> Tensor:
    """Step 4: theta, lambda, psi, sigma, gamma of each kernel, [4 * directions, 5]; loops lambda, theta, psi."""
    rows = [
        (math.pi * i / directions, wavelength, psi, 0.56 * wavelength, gamma)
        for wavelength in (size / 2, size / 1.25)
        for i in range(directions)
        for psi in (0.0, math.pi / 2)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def gabor(size: int, directions: int = 4, gamma: float = 0.5) -> Tensor:
    """Step 4: the Gabor bank, mean 0 and norm 1."""
    x, y = grid(size)
    theta, wavelength, psi, sigma, ratio = gabor_parameters(size, directions, gamma).T[:, :, None, None]
    along = x * theta.cos() + y * theta.sin()
    across = -x * theta.sin() + y * theta.cos()
    envelope = torch.exp(-(along**2 + ratio**2 * across**2) / (2 * sigma**2))
    return unit(envelope * torch.cos(2 * math.pi * along / wavelength + psi))


def _padded(kernels: Sequence[Sequence[Sequence[float]]], size: int) -> Tensor:
    """3 x 3 kernels in the middle of k x k zeros (about index k // 2)."""
    if size < 3:
        raise ValueError(f"3 x 3 kernels do not fit into {size} x {size}.")
    out = torch.zeros(len(kernels), size, size, dtype=torch.float64)
    start = size // 2 - 1
    out[:, start : start + 3, start : start + 3] = torch.tensor(kernels, dtype=torch.float64)
    return out


def sobel(size: int) -> Tensor:
    """Step 5: Sobel along x and y, Scharr along x and y."""
    pairs = []
    for side, middle in ((1.0, 2.0), (3.0, 10.0)):
        along_x = [[-w, 0.0, w] for w in (side, middle, side)]
        pairs += [along_x, [list(row) for row in zip(*along_x, strict=True)]]
    return unit(_padded(pairs, size))


def laplacian(size: int) -> Tensor:
    """Step 5: the five-point Laplacian."""
    return unit(_padded([[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]], size))


def _scales(size: int) -> tuple[float, float]:
    return size / 8, size / 5


def log(size: int, sigmas: Sequence[float] | None = None) -> Tensor:
    """Step 5: Laplacian of Gaussian at each sigma, in pixels (default k / 8, k / 5)."""
    x, y = grid(size)
    r2 = x**2 + y**2
    return unit(torch.stack([(r2 / s**2 - 2) * torch.exp(-r2 / (2 * s**2)) for s in sigmas or _scales(size)]))


def gaussian(size: int, sigmas: Sequence[float] | None = None) -> Tensor:
    """Step 5: Gaussian derivatives up to order 2 (1, x, y, xx, xy, yy) at each sigma: a steerable set per order."""
    x, y = grid(size)
    out = []
    for s in sigmas or _scales(size):
        u, v = x / s, y / s
        g = torch.exp(-(u**2 + v**2) / 2)
        out += [g, -u * g, -v * g, (u**2 - 1) * g, u * v * g, (v**2 - 1) * g]
    return unit(torch.stack(out))


def _power_of_two(size: int) -> None:
    if size < 2 or size & (size - 1):
        raise ValueError(f"Haar and Hadamard kernels have sides 2, 4, 8, ..., not {size}. Use dct.")


def haar(size: int) -> Tensor:
    """Step 5: the orthonormal Haar set [k^2, k, k], coarse to fine; k a power of two."""
    _power_of_two(size)
    basis = torch.ones(1, 1, dtype=torch.float64)
    while len(basis) < size:
        pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
        basis = torch.cat([torch.kron(basis, pair[:1]), torch.kron(torch.eye(len(basis)).double(), pair[1:])])
    return separable(basis)[0]


def hadamard(size: int) -> Tensor:
    """Step 5: the orthonormal Walsh-Hadamard set [k^2, k, k] by rising number of sign changes; k a power of two."""
    _power_of_two(size)
    basis = torch.ones(1, 1, dtype=torch.float64)
    while len(basis) < size:
        basis = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), basis) / math.sqrt(2)
    changes = (basis[:, 1:] * basis[:, :-1] < 0).sum(1)
    return separable(basis[changes.argsort()])[0]


def schmid(size: int) -> Tensor:
    """Step 5: Schmid's 13 rings cos(pi tau r / sigma) exp(-r^2 / (2 sigma^2)); her sigmas are shrunk by k / 25."""
    x, y = grid(size)
    r = torch.hypot(x, y)
    pairs = [(2, 1), *((4, t) for t in (1, 2)), *((6, t) for t in (1, 2, 3)), *((8, t) for t in (1, 2, 3))]
    pairs += [(10, t) for t in (1, 2, 3, 4)]
    out = []
    for sigma, tau in pairs:
        s = sigma * size / 25
        out.append(torch.cos(math.pi * tau * r / s) * torch.exp(-(r**2) / (2 * s**2)))
    return unit(torch.stack(out))


def leung_malik(size: int, directions: int = 6) -> Tensor:
    """Step 5: edges and bars, three times as long as wide, in six directions and two widths; blobs of both signs."""
    x, y = grid(size)
    out = []
    for s in _scales(size):
        for i in range(directions):
            t = math.pi * i / directions
            u, v = (x * math.cos(t) + y * math.sin(t)) / s, (y * math.cos(t) - x * math.sin(t)) / (3 * s)
            g = torch.exp(-(u**2 + v**2) / 2)
            out += [-u * g, (u**2 - 1) * g]
    return torch.cat([unit(torch.stack(out)), log(size), gaussian(size)[::6]])


def fourier(size: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Step 5: ``count`` plane waves of random phase, frequencies uniform in the disc of 0.5 cycles per pixel."""
    x, y = grid(size)
    draws = torch.rand(3, count, 1, 1, dtype=torch.float64, generator=generator)
    frequency, angle, phase = 0.5 * draws[0].sqrt(), 2 * math.pi * draws[1], 2 * math.pi * draws[2]
    wave = frequency * (x * angle.cos() + y * angle.sin())  # [n, k, k], in cycles
    return unit(torch.cos(2 * math.pi * wave + phase))
