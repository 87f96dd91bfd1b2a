"""Bilateral filter whose widths are given per patch: forward and backward in Triton.

Paper: arXiv 2504.13519 (Filter2Noise). Specification: methods/filter2noise.md, section 3.4 (steps 12-15) for the
filter, section 7 for its gradient.

A program filters one row of cells; a cell is a square of pixels within one patch, so the spatial log-weights are
computed once per cell and offset, and only the range term is per pixel. Tensors in a program are [channel, cell,
pixel of the cell]. Spatial and range exponents are added, in units of log 2, before the one exp2.

The backward pass scatters nothing. A pixel's gradient is gathered from the pixels that looked at it, whose weights
are computed again; pixels near the border are also gathered from through their mirror images. So repeating gives
equal bits.
"""

# The arguments of Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import operator, refuses_cpu
from .registry import Kernel, Variant

BLOCK_PIXELS = 256  # two per thread: one block of the 32x8 pixels of four 8x8 patches keeps its halo in L1
MAX_CELL = 16  # a 16x16 cell fills the block; larger patches are split into cells
NUM_WARPS = 4
SIZES = ["height", "width", "radius"]  # one binary for all: what is registered below is what is launched


@triton.jit
def _reflect(index, size):
    """Mirror without repeating the edge, for -size < index < 2 * size - 1."""
    index = tl.abs(index)
    return tl.minimum(index, 2 * (size - 1) - index)


@triton.jit
def _mirror(which, index, first, extent: tl.constexpr, size, radius):
    """Where the tile ``index`` (``extent`` pixels from ``first``) stands in the padded axis: as itself (``which`` 0),
    mirrored at the start (1) or at the end (2). Returns its places there, which of them exist, and the first and last
    offset of pixels within the image that can see them: none (last < first) for a tile far from that border.
    """
    place = tl.where(which == 0, index, tl.where(which == 1, -index, 2 * (size - 1) - index))
    exists = (which == 0) | (place != index)  # the border pixel itself has no mirror image
    low = tl.where(which == 1, tl.maximum(first, 1), -radius)
    high = tl.where(which == 2, tl.minimum(first + extent - size, -1), radius)
    return place, exists, low, high


@triton.jit
def _place(channels: tl.constexpr, height, width, cell: tl.constexpr, cells: tl.constexpr, lanes: tl.constexpr):
    """Which pixels this program works on: its batch item, its cells and their pixels, and what of the tile exists."""
    cells_down, cells_across = tl.cdiv(height, cell), tl.cdiv(width, cell)
    blocks_across = tl.cdiv(cells_across, cells)
    program = tl.program_id(0)
    batch = (program // (cells_down * blocks_across)).to(tl.int64)  # 64 bits: a batch can pass 2**31 elements
    program = program % (cells_down * blocks_across)
    cell_y = program // blocks_across
    cell_x = program % blocks_across * cells + tl.arange(0, cells)[None, :, None]  # [1, N, 1]
    pixel = tl.arange(0, cell * cell)[None, None, :]
    y = cell_y * cell + pixel // cell  # [1, 1, P]
    x = cell_x * cell + pixel % cell  # [1, N, P]
    lane = tl.arange(0, lanes)[:, None, None]  # [C', 1, 1]: the channels, padded to a power of two
    inside = (y < height) & (x < width)
    return batch, cell_y, cell_x, y, x, lane, inside, inside & (lane < channels)


@triton.jit(do_not_specialize=SIZES)
def bilateral_forward_kernel(
    image_ptr,  # [B, C, H, W]
    rate_ptr,  # [B, 3, ceil(H / cell), ceil(W / cell)]: -log2(e) / (2 sigma^2) for x, y, range
    out_ptr,  # [B, C, H, W]
    total_ptr,  # [B, H, W]: the sum of weights, kept for the backward pass
    height,
    width,
    radius,  # a run-time bound: it follows the largest sigma, and a constant would compile anew at each change
    channels: tl.constexpr,
    cell: tl.constexpr,  # side of a cell in pixels
    cells: tl.constexpr,  # cells per program
    lanes: tl.constexpr,  # channels, rounded up to a power of two
):
    batch, cell_y, cell_x, y, x, lane, inside, stored = _place(channels, height, width, cell, cells, lanes)
    plane = height * width
    image_ptr += batch * channels * plane
    out_ptr += batch * channels * plane
    cells_down, cells_across = tl.cdiv(height, cell), tl.cdiv(width, cell)
    rate_ptr += batch * 3 * cells_down * cells_across + cell_y * cells_across + cell_x
    real_cell = cell_x < cells_across
    rate_x = tl.load(rate_ptr, mask=real_cell, other=0.0)  # [1, N, 1]
    rate_y = tl.load(rate_ptr + cells_down * cells_across, mask=real_cell, other=0.0)
    rate_r = tl.load(rate_ptr + 2 * cells_down * cells_across, mask=real_cell, other=0.0)

    centre = tl.load(image_ptr + lane * plane + y * width + x, mask=stored, other=0.0)  # [C', N, P]
    total = tl.zeros_like(tl.sum(centre, axis=0, keep_dims=True))  # [1, N, P]
    out = tl.zeros_like(centre)
    for dy in range(-radius, radius + 1):
        row = lane * plane + _reflect(y + dy, height) * width
        log_row = rate_y * (dy * dy)
        for dx in range(-radius, radius + 1):
            value = tl.load(image_ptr + row + _reflect(x + dx, width), mask=stored, other=0.0)
            difference = centre - value
            distance = tl.sum(difference * difference, axis=0, keep_dims=True)
            weight = tl.exp2((rate_x * (dx * dx) + log_row) + rate_r * distance)
            total += weight
            out += weight * value
    total += 1e-8  # step 15
    tl.store(out_ptr + lane * plane + y * width + x, out / total, mask=stored)
    tl.store(total_ptr + batch * plane + y * width + x, total, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def bilateral_backward_kernel(
    image_ptr,  # [B, C, H, W]
    rate_ptr,  # [B, 3, ceil(H / cell), ceil(W / cell)]
    out_ptr,  # [B, C, H, W]: the forward result y
    pull_ptr,  # [B, C, H, W]: G / sum(w), the gradient of y over the sum of weights
    grad_image_ptr,  # [B, C, H, W]; not written unless image_grad
    grad_rate_ptr,  # like rate
    height,
    width,
    radius,
    channels: tl.constexpr,
    cell: tl.constexpr,
    cells: tl.constexpr,
    lanes: tl.constexpr,
    image_grad: tl.constexpr,  # the first stage filters data, which needs no gradient: half the work
):
    ln2: tl.constexpr = 0.6931471805599453
    batch, cell_y, cell_x, y, x, lane, inside, stored = _place(channels, height, width, cell, cells, lanes)
    plane = height * width
    image_ptr += batch * channels * plane
    out_ptr += batch * channels * plane
    pull_ptr += batch * channels * plane
    grad_image_ptr += batch * channels * plane
    cells_down, cells_across = tl.cdiv(height, cell), tl.cdiv(width, cell)
    cell_plane = cells_down * cells_across
    rate_ptr += batch * 3 * cell_plane
    here = cell_y * cells_across + cell_x
    real_cell = cell_x < cells_across
    rate_x = tl.load(rate_ptr + here, mask=real_cell, other=0.0)  # [1, N, 1]
    rate_y = tl.load(rate_ptr + cell_plane + here, mask=real_cell, other=0.0)
    rate_r = tl.load(rate_ptr + 2 * cell_plane + here, mask=real_cell, other=0.0)

    offset = lane * plane + y * width + x
    centre = tl.load(image_ptr + offset, mask=stored, other=0.0)  # [C', N, P]
    out = tl.load(out_ptr + offset, mask=stored, other=0.0)
    pull = tl.load(pull_ptr + offset, mask=stored, other=0.0)
    grad_x = tl.zeros_like(tl.sum(centre, axis=0, keep_dims=True))  # [1, N, P]
    grad_y = tl.zeros_like(grad_x)
    grad_r = tl.zeros_like(grad_x)
    grad = tl.zeros_like(centre)

    # What the pixel sees. u = dL / d log w; log w = ln2 * (rate_x dx^2 + rate_y dy^2 + rate_r |x - n|^2).
    for dy in range(-radius, radius + 1):
        row = lane * plane + _reflect(y + dy, height) * width
        log_row = rate_y * (dy * dy)
        for dx in range(-radius, radius + 1):
            value = tl.load(image_ptr + row + _reflect(x + dx, width), mask=stored, other=0.0)
            difference = centre - value
            distance = tl.sum(difference * difference, axis=0, keep_dims=True)
            weight = tl.exp2((rate_x * (dx * dx) + log_row) + rate_r * distance)
            u = weight * tl.sum(pull * (value - out), axis=0, keep_dims=True)
            grad_x += u * (dx * dx)
            grad_y += u * (dy * dy)
            grad_r += u * distance
            if image_grad:
                grad += u * difference
    grad_rate_ptr += batch * 3 * cell_plane + here
    tl.store(grad_rate_ptr, ln2 * tl.sum(grad_x, axis=2, keep_dims=True), mask=real_cell)
    tl.store(grad_rate_ptr + cell_plane, ln2 * tl.sum(grad_y, axis=2, keep_dims=True), mask=real_cell)
    tl.store(grad_rate_ptr + 2 * cell_plane, ln2 * tl.sum(grad_r, axis=2, keep_dims=True), mask=real_cell)

    # Who sees the pixel: those at q = place + (dy, dx), for each of its places in the padded image.
    if image_grad:
        grad *= 2 * ln2 * rate_r
        first_x = tl.min(cell_x) * cell
        for which_y in range(3):
            place_y, real_y, first_dy, last_dy = _mirror(which_y, y, cell_y * cell, cell, height, radius)  # [1, 1, P]
            for which_x in range(3):
                place_x, real_x, first_dx, last_dx = _mirror(which_x, x, first_x, cells * cell, width, radius)
                seen = inside & real_y & real_x  # [1, N, P]
                for dy in range(first_dy, last_dy + 1):
                    q_y = place_y + dy
                    real_row = seen & (q_y >= 0) & (q_y < height)
                    row = lane * plane + q_y * width
                    row_rates = rate_ptr + q_y // cell * cells_across
                    for dx in range(first_dx, last_dx + 1):
                        q_x = place_x + dx
                        real = real_row & (q_x >= 0) & (q_x < width)  # [1, N, P]
                        rates = row_rates + q_x // cell
                        q_rate_x = tl.load(rates, mask=real, other=0.0)
                        q_rate_y = tl.load(rates + cell_plane, mask=real, other=0.0)
                        q_rate_r = tl.load(rates + 2 * cell_plane, mask=real, other=0.0)
                        real &= lane < channels
                        q = row + q_x
                        q_centre = tl.load(image_ptr + q, mask=real, other=0.0)  # [C', N, P]
                        q_out = tl.load(out_ptr + q, mask=real, other=0.0)
                        q_pull = tl.load(pull_ptr + q, mask=real, other=0.0)  # 0 where nobody looks: adds 0
                        difference = q_centre - centre
                        distance = tl.sum(difference * difference, axis=0, keep_dims=True)
                        weight = tl.exp2((q_rate_x * (dx * dx) + q_rate_y * (dy * dy)) + q_rate_r * distance)
                        u = weight * tl.sum(q_pull * (centre - q_out), axis=0, keep_dims=True)
                        grad += q_pull * weight - (2 * ln2 * q_rate_r * u) * difference
        tl.store(grad_image_ptr + offset, grad, mask=stored)


def _constants(channels: int, cell: int) -> dict[str, int]:
    """The ``tl.constexpr`` arguments that both kernels take."""
    lanes = triton.next_power_of_2(channels)
    return {"channels": channels, "cell": cell, "cells": BLOCK_PIXELS // cell**2, "lanes": lanes}


def _launch(
    kernel: Any, cell: int, radius: int, image: Tensor, rate: Tensor, *others: Tensor, **constants: bool
) -> None:
    """Start one program for every ``BLOCK_PIXELS`` pixels of ``image``."""
    batch, channels, height, width = image.shape
    constexprs = {**_constants(channels, cell), **constants}
    grid = (batch * rate.shape[2] * triton.cdiv(rate.shape[3], constexprs["cells"]),)
    with torch.cuda.device_of(image):  # Triton launches on the current device, which need not be the image's
        kernel[grid](image, rate, *others, height, width, radius, **constexprs, num_warps=NUM_WARPS, num_stages=1)


def _gradient(
    needs: tuple[bool, ...], grads: tuple[Tensor, Tensor], image: Tensor, rate: Tensor, cell: int, radius: int,
    out: Tensor, total: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Of ``_filter``; the sum of weights is for this alone and has none of its own."""
    pull = (grads[0] / total[:, None]).contiguous()  # [B, C, H, W]
    grad_image, grad_rate = _filter_gradient(image, rate, out, pull, cell, radius, needs[0])
    return grad_image if needs[0] else None, grad_rate, None, None


@operator(
    lambda image, rate, cell, radius: (image.new_empty(image.shape), image.new_empty(image[:, 0].shape)),
    gradient=_gradient, results=True,
)  # fmt: skip
def _filter(image: Tensor, rate: Tensor, cell: int, radius: int) -> tuple[Tensor, Tensor]:
    """(image [B, C, H, W], rate [B, 3, h, w]) -> the filtered image, and the sum of weights [B, H, W]."""
    image, rate = image.contiguous(), rate.contiguous()
    out, total = torch.empty_like(image), torch.empty_like(image[:, 0])
    _launch(bilateral_forward_kernel, cell, radius, image, rate, out, total)
    return out, total


@operator(
    lambda image, rate, out, pull, cell, radius, image_grad: (
        image.new_empty(image.shape if image_grad else 0), rate.new_empty(rate.shape),
    )
)  # fmt: skip
def _filter_gradient(
    image: Tensor, rate: Tensor, out: Tensor, pull: Tensor, cell: int, radius: int, image_grad: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of image (an empty tensor without ``image_grad``) and rate."""
    image, rate, out, pull = (x.contiguous() for x in (image, rate, out, pull))
    grad_image = torch.empty_like(image) if image_grad else image  # unused otherwise, but a pointer must be passed
    grad_rate = torch.empty_like(rate)
    tensors = (image, rate, out, pull, grad_image, grad_rate)
    _launch(bilateral_backward_kernel, cell, radius, *tensors, image_grad=image_grad)
    return grad_image if image_grad else image.new_empty(0), grad_rate


def _check(image: Tensor, patch_sigma: Tensor, patch_size: int, radius: int) -> None:
    """Raise ``ValueError`` for arguments that do not fit together."""
    if image.dtype != torch.float32 or patch_sigma.dtype != torch.float32:
        raise ValueError(f"image is {image.dtype}, patch_sigma {patch_sigma.dtype}: the kernel takes float32 only.")
    if image.device != patch_sigma.device:
        raise ValueError(f"image is on {image.device}, patch_sigma on {patch_sigma.device}: they must be together.")
    if image.ndim != 4 or image.shape[1] < 1:
        raise ValueError(f"image must be [B, C, H, W] with at least one channel, got {list(image.shape)}.")
    if patch_size < 1 or radius < 0:
        raise ValueError(f"patch_size must be positive and radius not negative, got {patch_size} and {radius}.")
    batch, _, height, width = image.shape
    fitting = [batch, 3, math.ceil(height / patch_size), math.ceil(width / patch_size)]
    if list(patch_sigma.shape) != fitting:
        raise ValueError(
            f"patch_sigma {list(patch_sigma.shape)} does not fit image {list(image.shape)}: "
            f"patches of {patch_size} pixels need {fitting}."
        )
    if image.numel() and radius >= min(height, width):
        raise ValueError(f"radius {radius} must be smaller than both sides of the image, {height} x {width}.")
    if math.prod(image.shape[1:]) >= 2**31:  # offsets within one image are 32-bit
        raise ValueError(f"one image of {list(image.shape[1:])} is too large for the kernel. Filter it in tiles.")
    reason = refuses_cpu(image, bilateral_forward_kernel)
    if reason is not None:
        raise ValueError(f"the bilateral kernel {reason}.")


def bilateral_filter(image: Tensor, patch_sigma: Tensor, patch_size: int, radius: int) -> Tensor:
    """Smooth images with a bilateral filter whose widths vary from patch to patch. Differentiable once.

    Parameters
    ----------
    image : Tensor, shape (B, C, H, W), float32
        Intensities, normally in [0, 1]. The channels of a pixel share one weight. Up to 4 channels are quick.
    patch_sigma : Tensor, shape (B, 3, h, w), float32
        σx and σy in pixels, σr in units of ``image``; positive, 1e-6 or more. Larger smooths more. Pixel (y, x) takes
        the values at (y // patch_size, x // patch_size), so h = ceil(H / patch_size) and w = ceil(W / patch_size).
    patch_size : int
        Side of a patch in pixels. Multiples of 8 are quickest.
    radius : int
        The window is 2 * radius + 1 pixels wide, mirrored at the borders; the method takes ceil(max(σx, σy)).

    Returns
    -------
    Tensor, shape (B, C, H, W), float32
        A weighted mean of each pixel's neighbourhood. Repeating gives the same bits, gradients included.

    Raises
    ------
    ValueError
        If a dtype is not float32, the shapes or devices do not fit, ``radius`` is not smaller than both sides, or the
        tensors are on the CPU outside Triton's interpreter.

    References
    ----------
    methods/filter2noise.md, section 3.4, steps 12-15, and section 7; arXiv 2504.13519.
    """
    _check(image, patch_sigma, patch_size, radius)
    if not image.numel():
        return image * patch_sigma.sum()  # nothing to filter, but the result still hangs in the graph
    cell = min(patch_size & -patch_size, MAX_CELL)  # the largest power of two that divides a patch
    height, width = image.shape[2:]
    rate = (-0.5 / math.log(2)) * patch_sigma.pow(-2)  # weight = 2 ** (rate * distance^2)
    split = patch_size // cell
    if split > 1:  # every cell of a patch gets the patch's values; expand's gradient adds the cells up again
        rate = rate[:, :, :, None, :, None].expand(-1, -1, -1, split, -1, split)
        rate = rate.reshape(*rate.shape[:2], rate.shape[2] * split, -1)  # [B, 3, h * split, w * split]
        rate = rate[:, :, : math.ceil(height / cell), : math.ceil(width / cell)]
    return _filter(image, rate, cell, radius)[0]


def _variants(tensors: str, **constants: Any) -> tuple[Variant, ...]:
    """Grey and colour images at the default patch size, and the largest, an odd and the finest cell."""
    types = {f"{name}_ptr": "*fp32:16" for name in tensors.split()} | dict.fromkeys(SIZES, "i32")
    suffix = "".join(f"-{name}" for name, value in constants.items() if value)
    return tuple(
        Variant(f"c{channels}-cell{cell}{suffix}", types, {**_constants(channels, cell), **constants}, NUM_WARPS)
        for channels, cell in [(1, 8), (3, 8), (1, 16), (3, 1)]
    )


_SEEN = "image rate out pull grad_image grad_rate"
KERNELS = (
    Kernel("bilateral_forward", bilateral_forward_kernel, _variants("image rate out total")),
    Kernel(
        "bilateral_backward",
        bilateral_backward_kernel,
        _variants(_SEEN, image_grad=True) + _variants(_SEEN, image_grad=False),
    ),
)
