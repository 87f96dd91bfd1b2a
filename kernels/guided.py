"""The attention-guided fast guided filter of FSG-Net in Triton, forward.

Paper: arXiv 2501.18921. Specification: methods/fsg-net.md, section 3.2 (steps 7-11) and section 7 (how it is cut).

Three passes over maps whose channels lie together: the coefficients of the local linear model (all window sums of a
pixel in registers; nothing but A and b is written), their window means, and the upsampling, which interpolates both
where it needs them, so that no map of the full resolution is made but the result. All sums are float32: squares of
maps overflow float16.
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

PIXELS, MAX_CHANNELS = 32, 32
"""Of a program: a row of pixels, and channels that lie together (128 bytes of float32)."""
NUM_WARPS = 4
SIZES = ["height", "width", "out_height", "out_width", "channels"]  # one binary for all sizes


@triton.jit
def _tile(height, width, channels, pixels: tl.constexpr, lanes: tl.constexpr):
    """This program's image, the rows and columns of its pixels [P], its channels [C'] and what of them exists."""
    blocks = tl.cdiv(height * width, pixels)
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)  # 64 bits: a batch can pass 2**31 elements
    pixel = program % blocks * pixels + tl.arange(0, pixels)
    lane = tl.program_id(1) * lanes + tl.arange(0, lanes)
    real = pixel < height * width
    return image, pixel // width, pixel % width, lane, real, real[:, None] & (lane < channels)[None, :]


@triton.jit(do_not_specialize=SIZES)
def guided_coefficients_kernel(
    low_ptr,  # [B, h, w, C]
    target_ptr,  # [B, h, w, C]
    attention_ptr,  # [B, h, w]
    total_ptr,  # [B] float32: the sum of |attention| + 1e-12, of the image or of the batch
    slope_ptr,  # [B, h, w, C] float32: A
    offset_ptr,  # [B, h, w, C] float32: b
    height,
    width,
    channels,
    eps,
    radius: tl.constexpr,
    pixels: tl.constexpr,
    lanes: tl.constexpr,
):
    image, y, x, lane, real, stored = _tile(height, width, channels, pixels, lanes)
    plane = height * width
    low_ptr += image * plane * channels
    target_ptr += image * plane * channels
    attention_ptr += image * plane
    total = tl.load(total_ptr + image)
    count = tl.zeros([pixels], tl.float32)  # N
    sum_a = tl.zeros([pixels], tl.float32)
    ax = tl.zeros([pixels, lanes], tl.float32)
    ay = tl.zeros([pixels, lanes], tl.float32)
    aax = tl.zeros([pixels, lanes], tl.float32)  # of a^2 x y
    aaxx = tl.zeros([pixels, lanes], tl.float32)
    tax = tl.zeros([pixels, lanes], tl.float32)  # of a^2 x; over the total it is step 8's sum of t a x
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            inside = real & (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
            place = (y + dy) * width + x + dx
            mask = inside[:, None] & (lane < channels)[None, :]
            a = tl.abs(tl.load(attention_ptr + place, mask=inside, other=0.0).to(tl.float32)) + 1e-12
            a = tl.where(inside, a, 0.0)
            at = place[:, None] * channels + lane[None, :]
            low = a[:, None] * tl.load(low_ptr + at, mask=mask, other=0.0).to(tl.float32)
            target = a[:, None] * tl.load(target_ptr + at, mask=mask, other=0.0).to(tl.float32)
            count += inside.to(tl.float32)
            sum_a += a
            ax += low
            ay += target
            aax += low * target
            aaxx += low * low
            tax += a[:, None] * low
    tax /= total
    sum_a = tl.where(real, sum_a, 1.0)
    count = tl.maximum(count, 1.0)  # a pixel that is none has no window
    slope = (aax - tax * ay) / (tl.abs(aaxx - tax * ax) + count[:, None] * eps)  # step 9: N cancels elsewhere
    offset = (ay - slope * ax) / sum_a[:, None]  # step 10
    at = image * plane * channels + (y * width + x)[:, None] * channels + lane[None, :]
    tl.store(slope_ptr + at, slope, mask=stored)
    tl.store(offset_ptr + at, offset, mask=stored)


@triton.jit(do_not_specialize=SIZES)
def guided_mean_kernel(
    slope_ptr,  # [B, h, w, C] float32
    offset_ptr,  # [B, h, w, C] float32
    slope_mean_ptr,  # [B, h, w, C] float32
    offset_mean_ptr,  # [B, h, w, C] float32
    height,
    width,
    channels,
    radius: tl.constexpr,
    pixels: tl.constexpr,
    lanes: tl.constexpr,
):
    """Step 7 of both coefficients: means over the window, cut at the border."""
    image, y, x, lane, real, stored = _tile(height, width, channels, pixels, lanes)
    start = image * height * width * channels
    slope = tl.zeros([pixels, lanes], tl.float32)
    offset = tl.zeros([pixels, lanes], tl.float32)
    count = tl.zeros([pixels], tl.float32)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            inside = real & (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
            mask = inside[:, None] & (lane < channels)[None, :]
            at = start + ((y + dy) * width + x + dx)[:, None] * channels + lane[None, :]
            slope += tl.load(slope_ptr + at, mask=mask, other=0.0)
            offset += tl.load(offset_ptr + at, mask=mask, other=0.0)
            count += inside.to(tl.float32)
    count = tl.maximum(count, 1.0)  # a pixel that is none has no window
    at = start + (y * width + x)[:, None] * channels + lane[None, :]
    tl.store(slope_mean_ptr + at, slope / count[:, None], mask=stored)
    tl.store(offset_mean_ptr + at, offset / count[:, None], mask=stored)


@triton.jit
def _between(place, size, out_size):
    """Bilinear, corners aligned: where a pixel of the large map lies in the small one. First, second, share of it."""
    at = place.to(tl.float32) * ((size - 1).to(tl.float32) / tl.maximum(out_size - 1, 1).to(tl.float32))
    first = tl.minimum(at.to(tl.int32), size - 1)
    return first, tl.minimum(first + 1, size - 1), at - first.to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def guided_upsample_kernel(
    slope_ptr,  # [B, h, w, C] float32
    offset_ptr,  # [B, h, w, C] float32
    high_ptr,  # [B, H, W, C]
    out_ptr,  # [B, H, W, C]
    height,
    width,
    out_height,
    out_width,
    channels,
    pixels: tl.constexpr,
    lanes: tl.constexpr,
):
    """Step 11: A * guide + b, both interpolated."""
    image, y, x, lane, _, stored = _tile(out_height, out_width, channels, pixels, lanes)
    top, bottom, down = _between(y, height, out_height)
    left, right, across = _between(x, width, out_width)
    start = image * height * width * channels
    at = image * out_height * out_width * channels + (y * out_width + x)[:, None] * channels + lane[None, :]
    slope = tl.zeros([pixels, lanes], tl.float32)
    offset = tl.zeros([pixels, lanes], tl.float32)
    for corner in tl.static_range(4):
        row = top if corner < 2 else bottom
        column = left if corner % 2 == 0 else right
        share = (1 - down if corner < 2 else down) * (1 - across if corner % 2 == 0 else across)
        place = start + (row * width + column)[:, None] * channels + lane[None, :]
        slope += share[:, None] * tl.load(slope_ptr + place, mask=stored, other=0.0)
        offset += share[:, None] * tl.load(offset_ptr + place, mask=stored, other=0.0)
    high = tl.load(high_ptr + at, mask=stored, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (slope * high + offset).to(out_ptr.dtype.element_ty), mask=stored)


def refuses(low: Tensor, target: Tensor, high: Tensor, attention: Tensor) -> str | None:
    """Why the kernels do not take these tensors, as a clause about them; None: they do."""
    for x in (low, target, high, attention):
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"takes float32, bfloat16 and float16, not {x.dtype}"
    if math.prod(high.shape[1:]) >= 2**31:  # offsets within one image are 32-bit
        return f"takes images of less than 2**31 numbers, not of {list(high.shape[1:])}"
    return refuses_cpu(low, guided_coefficients_kernel)


def _fake(
    low: Tensor, target: Tensor, high: Tensor, attention: Tensor, batch_coupled: bool, radius: int, eps: float
) -> Tensor:
    return torch.empty_like(high, memory_format=torch.channels_last)


@operator(_fake)
def guided_filter(
    low: Tensor, target: Tensor, high: Tensor, attention: Tensor, batch_coupled: bool, radius: int, eps: float
) -> Tensor:
    """Bring ``target`` to the resolution of the guide ``high`` along its edges. Without gradients.

    The operator ``attn::kernels_guided_guided_filter``.

    Parameters
    ----------
    low, target : Tensor, shape (B, C, h, w)
        float32, bfloat16 or float16, computed in float32. Channels last is quickest: it is copied to that otherwise.
    high : Tensor, shape (B, C, H, W)
    attention : Tensor, shape (B, 1, h, w)
    batch_coupled : bool
        Normalise the attention over the batch, not the image.
    radius, eps : int, float
        As in ``attn.core.segment.fsgnet.guided.guided_filter``.

    Returns
    -------
    Tensor, shape (B, C, H, W), dtype of ``high``, channels last

    Raises
    ------
    ValueError
        If the tensors are none that ``refuses`` lets through.

    References
    ----------
    methods/fsg-net.md, sections 3.2 and 7; arXiv 2501.18921.
    """
    reason = refuses(low, target, high, attention)
    if reason is not None:
        raise ValueError(f"the guided filter in Triton {reason}.")
    low, target, high = (x.permute(0, 2, 3, 1).contiguous() for x in (low, target, high))  # [B, h, w, C]
    attention = attention.contiguous()
    batch, height, width, channels = low.shape
    out_height, out_width = high.shape[1:3]
    total = (attention.float().abs() + 1e-12).sum((1, 2, 3))  # [B]
    if batch_coupled:
        total = total.sum().expand(batch).contiguous()
    out = torch.empty_like(high)
    if not out.numel():
        return out.permute(0, 3, 1, 2)
    coefficients = [low.new_empty(low.shape, dtype=torch.float32) for _ in range(4)]
    constants = _constants(channels)
    planes = triton.cdiv(channels, constants["lanes"])
    grid = (batch * triton.cdiv(height * width, PIXELS), planes)
    with torch.cuda.device_of(low):
        guided_coefficients_kernel[grid](
            low, target, attention, total, *coefficients[:2], height, width, channels, eps, radius=radius,
            **constants, num_warps=NUM_WARPS, num_stages=1,
        )  # fmt: skip
        guided_mean_kernel[grid](
            *coefficients, height, width, channels, radius=radius, **constants, num_warps=NUM_WARPS, num_stages=1
        )
        guided_upsample_kernel[(batch * triton.cdiv(out_height * out_width, PIXELS), planes)](
            *coefficients[2:], high, out, height, width, out_height, out_width, channels, **constants,
            num_warps=NUM_WARPS, num_stages=1,
        )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def _constants(channels: int) -> dict[str, int]:
    return {"pixels": PIXELS, "lanes": min(MAX_CHANNELS, triton.next_power_of_2(channels))}


def _variants(maps: str, others: str, integers: str, **constants: Any) -> tuple[Variant, ...]:
    """Few channels and many, in float32 and bfloat16; ``others`` are float32 always."""
    found = []
    for dtype, channels in [("fp32", 32), ("fp32", 8), ("bf16", 32)]:
        types = {f"{name}_ptr": f"*{dtype}:16" for name in maps.split()}
        types |= {f"{name}_ptr": "*fp32:16" for name in others.split()} | dict.fromkeys(integers.split(), "i32")
        types |= {"eps": "fp32"} if "total" in others else {}
        found.append(Variant(f"{dtype}-c{channels}", types, {**_constants(channels), **constants}, NUM_WARPS))
    return tuple(found)


KERNELS = (
    Kernel(
        "guided_coefficients", guided_coefficients_kernel,
        _variants("low target attention", "total slope offset", "height width channels", radius=2),
    ),
    Kernel(
        "guided_mean", guided_mean_kernel,
        _variants("", "slope offset slope_mean offset_mean", "height width channels", radius=2),
    ),
    Kernel(
        "guided_upsample", guided_upsample_kernel,
        _variants("high out", "slope offset", "height width out_height out_width channels"),
    ),
)  # fmt: skip
