"""The bilateral filter and its gradients on the CPU: numba kernels over rows of patches, float32, one channel.

The inner loops run along an image row, so that LLVM turns them into vector code; the exponents of the spatial and of
the range weight are summed before one exponential. The backward pass recomputes the weights. It scatters the image
gradient into one slab per row of patches and adds the slabs in a fixed order: the thread count changes no bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from ...jit import FASTMATH, exp_negative, kernel
from ...threads import bands, run

Array = np.ndarray[Any, np.dtype[np.float32]]
_ZERO, _ONE, _TWO, _HALF, _EPS = (np.float32(c) for c in (0, 1, 2, 0.5, 1e-8))


@njit(fastmath=FASTMATH, error_model="numpy")
def _log_weights(sigma: Array, row: int, patch_size: int, radius: int, spatial: Array, inverse: Array) -> None:
    """For one row of patches, per pixel column: spatial log weights of |dy|, |dx| <= r, and 1 / (2 σr²)."""
    side = radius + 1
    for patch in range(sigma.shape[2]):
        a = -_HALF / (sigma[0, row, patch] * sigma[0, row, patch])
        b = -_HALF / (sigma[1, row, patch] * sigma[1, row, patch])
        c = _HALF / (sigma[2, row, patch] * sigma[2, row, patch])
        for x in range(patch * patch_size, (patch + 1) * patch_size):
            inverse[x] = c
        for dy in range(side):
            for dx in range(side):
                value = a * np.float32(dx * dx) + b * np.float32(dy * dy)
                for x in range(patch * patch_size, (patch + 1) * patch_size):
                    spatial[dy * side + dx, x] = value


@njit(fastmath=FASTMATH, error_model="numpy")
def _add_tap(
    centre: Array, neighbour: Array, spatial: Array, inverse: Array, numerator: Array, total: Array, width: int
) -> None:
    """One neighbour of a whole image row."""
    for x in range(width):
        n = neighbour[x]
        d = centre[x] - n
        w = exp_negative(spatial[x] - d * d * inverse[x])
        total[x] += w
        numerator[x] += w * n


@kernel("void(float32[:,::1],float32[:,:,::1],int64,int64,float32[:,::1],float32[:,::1],int64,int64)")
def _forward(
    padded: Array, sigma: Array, patch_size: int, radius: int, out: Array, total: Array, start: int, stop: int
) -> None:
    """Patch rows start..stop-1 of the filtered image ``out`` [H, W] and of the sum of weights ``total`` [H, W]."""
    width, side = out.shape[1], radius + 1
    spatial, inverse = np.empty((side * side, width), np.float32), np.empty(width, np.float32)
    for row in range(start, stop):
        _log_weights(sigma, row, patch_size, radius, spatial, inverse)
        for y in range(row * patch_size, (row + 1) * patch_size):
            centre, numerator, weights = padded[y + radius, radius : radius + width], out[y], total[y]
            for x in range(width):  # the pixel itself has weight 1
                numerator[x] = centre[x]
                weights[x] = _ONE + _EPS
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    if dy != 0 or dx != 0:
                        neighbour = padded[y + radius + dy, radius + dx : radius + dx + width]
                        tap = spatial[abs(dy) * side + abs(dx)]
                        _add_tap(centre, neighbour, tap, inverse, numerator, weights, width)
            for x in range(width):
                numerator[x] /= weights[x]


@njit(fastmath=FASTMATH, error_model="numpy")
def _sigma_tap(
    centre: Array, neighbour: Array, spatial: Array, inverse: Array, filtered: Array, scaled: Array, sums: Array,
    dx: np.float32, dy: np.float32, width: int,
) -> None:  # fmt: skip
    """Sums of u dx², u dy², u d² where u = w G (n - y) / total is the gradient of the log weight."""
    along_x, along_y, along_r = sums[0], sums[1], sums[2]
    for x in range(width):
        n = neighbour[x]
        d = centre[x] - n
        d2 = d * d
        u = exp_negative(spatial[x] - d2 * inverse[x]) * scaled[x] * (n - filtered[x])
        along_x[x] += u * dx
        along_y[x] += u * dy
        along_r[x] += u * d2


@njit(fastmath=FASTMATH, error_model="numpy")
def _full_tap(
    centre: Array, neighbour: Array, spatial: Array, inverse: Array, filtered: Array, scaled: Array, sums: Array,
    dx: np.float32, dy: np.float32, to_neighbour: Array, to_centre: Array, width: int,
) -> None:  # fmt: skip
    """``_sigma_tap`` and the gradients of the neighbour's and the centre's intensity."""
    along_x, along_y, along_r = sums[0], sums[1], sums[2]
    for x in range(width):
        n = neighbour[x]
        d = centre[x] - n
        d2 = d * d
        v = exp_negative(spatial[x] - d2 * inverse[x]) * scaled[x]
        u = v * (n - filtered[x])
        along_x[x] += u * dx
        along_y[x] += u * dy
        along_r[x] += u * d2
        t = _TWO * inverse[x] * u * d
        to_neighbour[x] += v + t
        to_centre[x] -= t


@kernel(
    "void(float32[:,::1],float32[:,:,::1],int64,int64,float32[:,::1],float32[:,::1],float32[:,::1],float32[:,:,::1],"
    "float32[:,:,::1],int64,int64)"
)
def _backward(
    padded: Array, sigma: Array, patch_size: int, radius: int, out: Array, total: Array, grad: Array, grad_sigma: Array,
    slabs: Array, start: int, stop: int,
) -> None:  # fmt: skip
    """Patch rows start..stop-1 of ``grad_sigma`` [3, h, w] and, unless empty, ``slabs`` [h, ps + 2r, W + 2r]."""
    width, side, with_image = out.shape[1], radius + 1, slabs.shape[0] > 0
    spatial, inverse = np.empty((side * side, width), np.float32), np.empty(width, np.float32)
    sums, scaled, to_centre = np.empty((3, width), np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for row in range(start, stop):
        _log_weights(sigma, row, patch_size, radius, spatial, inverse)
        for s in range(3):
            for x in range(width):
                sums[s, x] = _ZERO
        if with_image:
            for y in range(patch_size + 2 * radius):
                for x in range(width + 2 * radius):
                    slabs[row, y, x] = _ZERO
        for line in range(patch_size):
            y = row * patch_size + line
            centre = padded[y + radius, radius : radius + width]
            for x in range(width):
                scaled[x] = grad[y, x] / total[y, x]
                to_centre[x] = scaled[x]  # the pixel is its own neighbour, with weight 1
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    if dy == 0 and dx == 0:
                        continue
                    neighbour = padded[y + radius + dy, radius + dx : radius + dx + width]
                    tap = spatial[abs(dy) * side + abs(dx)]
                    dx2, dy2 = np.float32(dx * dx), np.float32(dy * dy)
                    if with_image:
                        target = slabs[row, line + radius + dy, radius + dx : radius + dx + width]
                        _full_tap(
                            centre, neighbour, tap, inverse, out[y], scaled, sums, dx2, dy2, target, to_centre, width
                        )
                    else:
                        _sigma_tap(centre, neighbour, tap, inverse, out[y], scaled, sums, dx2, dy2, width)
            if with_image:
                target = slabs[row, line + radius, radius : radius + width]
                for x in range(width):
                    target[x] += to_centre[x]
        for patch in range(sigma.shape[2]):
            for s in range(3):
                value = _ZERO
                for x in range(patch * patch_size, (patch + 1) * patch_size):
                    value += sums[s, x]
                grad_sigma[s, row, patch] = value / sigma[s, row, patch] ** 3


@kernel("void(float32[:,:,::1],int64,int64,float32[:,::1])")
def _gather(slabs: Array, patch_size: int, radius: int, grad_image: Array) -> None:
    """Add the slabs where they overlap, then fold the gradient of the reflected border back onto the image."""
    height, width = grad_image.shape
    lines = np.zeros((height + 2 * radius, width + 2 * radius), np.float32)
    for row in range(slabs.shape[0]):
        for line in range(slabs.shape[1]):
            for x in range(width + 2 * radius):
                lines[row * patch_size + line, x] += slabs[row, line, x]
    for y in range(1, radius + 1):
        for x in range(width + 2 * radius):
            lines[radius + y, x] += lines[radius - y, x]
            lines[radius + height - 1 - y, x] += lines[radius + height - 1 + y, x]
    for y in range(height):
        line = lines[radius + y]
        for x in range(1, radius + 1):
            line[radius + x] += line[radius - x]
            line[radius + width - 1 - x] += line[radius + width - 1 + x]
        for x in range(width):
            grad_image[y, x] = line[radius + x]


def forward(padded: Tensor, sigma: Tensor, patch_size: int, radius: int, out: Tensor, total: Tensor) -> None:
    """Filter ``padded`` [B, H + 2r, W + 2r] with ``sigma`` [B, 3, h, w]; writes ``out`` and ``total`` [B, 1, H, W]."""
    function = _forward()
    calls = [
        (padded[b].numpy(), sigma[b].numpy(), patch_size, radius, out[b, 0].numpy(), total[b, 0].numpy(), *band)
        for b in range(padded.shape[0])
        for band in bands(sigma.shape[2])
    ]
    run(function, calls)


def backward(
    padded: Tensor, sigma: Tensor, patch_size: int, radius: int, out: Tensor, total: Tensor, grad: Tensor,
    grad_sigma: Tensor, grad_image: Tensor | None,
) -> None:  # fmt: skip
    """Write ``grad_sigma`` [B, 3, h, w] and, unless None, ``grad_image`` [B, 1, H, W] from ``grad`` [B, 1, H, W]."""
    function = _backward()
    batch, _, rows, _ = sigma.shape
    slab_shape = (rows, patch_size + 2 * radius, padded.shape[-1]) if grad_image is not None else (0, 0, 0)
    slabs = [torch.empty(slab_shape).numpy() for _ in range(batch)]
    calls = []
    for b in range(batch):
        arrays = [t[b, 0].numpy() for t in (out, total, grad)]
        for band in bands(rows):
            calls.append(
                (
                    padded[b].numpy(),
                    sigma[b].numpy(),
                    patch_size,
                    radius,
                    *arrays,
                    grad_sigma[b].numpy(),
                    slabs[b],
                    *band,
                )
            )
    run(function, calls)
    if grad_image is not None:
        run(_gather(), [(slabs[b], patch_size, radius, grad_image[b, 0].numpy()) for b in range(batch)])


def smooth(image: Tensor, patch_sigma: Tensor, patch_size: int, radius: int) -> Tensor:
    """As ``bilateral.reference`` for float32 images [B, 1, H, W]; differentiable in the first two."""
    out: Tensor = _Smooth.apply(image, patch_sigma, patch_size, radius)  # type: ignore[no-untyped-call]
    return out


class _Smooth(torch.autograd.Function):
    """Forward keeps y and the sum of weights; backward recomputes the weights from them."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, patch_sigma: Tensor, patch_size: int, radius: int) -> Tensor:
        padded = F.pad(image, (radius,) * 4, mode="reflect")[:, 0].contiguous()  # [B, H + 2r, W + 2r]
        sigma = patch_sigma.contiguous()
        out = torch.empty(image.shape, dtype=image.dtype)
        total = torch.empty(image.shape, dtype=image.dtype)
        forward(padded, sigma, patch_size, radius, out, total)
        ctx.save_for_backward(padded, sigma, out, total)
        ctx.patch_size, ctx.radius = patch_size, radius
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:  # type: ignore[override]
        padded, sigma, out, total = ctx.saved_tensors
        grad_image = torch.empty(out.shape, dtype=out.dtype) if ctx.needs_input_grad[0] else None
        grad_sigma = torch.empty(sigma.shape, dtype=sigma.dtype)
        backward(padded, sigma, ctx.patch_size, ctx.radius, out, total, grad.contiguous(), grad_sigma, grad_image)
        return grad_image, grad_sigma, None, None
