"""Efficient probing's pooled cross-attention in Triton, forward and backward: few learned queries over all tokens.

Paper: arXiv 2506.10178. Specification: methods/efficient-probing.md, section 3.2 (queries pool raw tokens) and
section 7 (how it is cut). Queries are the same for every image, and tokens serve as keys and values: nothing is
projected.

Two kernels do all of it. ``probing_maps`` holds the queries of one image: scores over the tokens, piece by piece of the
channels, their softmax, or, in the backward pass, the slopes of the scores. ``probing_gather`` sums tokens by such
maps. What it costs is the bytes of the tokens: they are read twice, the maps are small.

Maps and queries are float32. Where tokens have 16 bits, a float32 number enters a product as the sum of two of theirs,
so that 16 bits (bfloat16) or 22 (float16) of it count, and matrix instructions are used.
"""

# The arguments of Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import operator, refuses_cpu
from .registry import Kernel, Variant
from .softmax import LOG2E, columns_of, online_softmax

TOKENS, PIECE = 32, 64
"""Tokens and channels of a step: 128 bytes of 16-bit tokens in a row; steps of 64 tokens spill registers."""
ROWS = 32
"""Queries of a program at most: as many as a paper's head has."""
NUM_WARPS = 4
SIZES = ["tokens", "width", "queries"]


@triton.jit
def _wide_dot(a, b, total):
    """``total + a @ b`` for a [., .] of float32 and b of any dtype, see the top of this file."""
    if b.dtype == tl.float32:
        return tl.dot(a, b, total, input_precision="ieee")
    high = a.to(b.dtype)
    low = (a - high.to(tl.float32)).to(b.dtype)
    return tl.dot(low, b, tl.dot(high, b, total))


@triton.jit
def _products(left_ptr, x_ptr, query, token, tokens, width, queries, rows: tl.constexpr, step: tl.constexpr,
              piece: tl.constexpr):  # fmt: skip
    """[M, C] @ [N, C]ᵀ for a step of tokens: float32 [rows, step]."""
    total = tl.zeros([rows, step], tl.float32)
    for first in range(0, width, piece):
        channel = first + tl.arange(0, piece)
        left = tl.load(
            left_ptr + query[:, None] * width + channel[None, :],
            mask=(query < queries)[:, None] & (channel < width)[None, :], other=0.0,
        )  # fmt: skip
        right = tl.load(
            x_ptr + token[None, :] * width + channel[:, None],
            mask=(token < tokens)[None, :] & (channel < width)[:, None], other=0.0,
        )  # fmt: skip
        total = _wide_dot(left, right, total)
    return total


@triton.jit(do_not_specialize=SIZES)
def probing_maps_kernel(
    query_ptr,  # [M, C] float32: the queries; backward: [B, M, C], the gradient of what was pooled
    x_ptr,  # [B, N, C]: tokens
    maps_ptr,  # [B, M, N] float32: written; backward: read
    delta_ptr,  # [B, M] float32: rowsum(dZ * Z); backward alone
    slope_ptr,  # [B, M, N] float32: backward alone, the gradient of the scores
    scale,
    tokens,
    width,
    queries,
    backward: tl.constexpr,
    rows: tl.constexpr,  # queries, rounded up
    step: tl.constexpr,
    piece: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    query = tl.program_id(1) * rows + tl.arange(0, rows)
    x_ptr += image * tokens * width
    maps_ptr += image * queries * tokens
    if backward:
        query_ptr += image * queries * width
        slope_ptr += image * queries * tokens
        delta = tl.load(delta_ptr + image * queries + query, mask=query < queries, other=0.0)
        for first in range(0, tokens, step):
            token = first + tl.arange(0, step)
            pull = _products(query_ptr, x_ptr, query, token, tokens, width, queries, rows, step, piece)
            at = query[:, None] * tokens + token[None, :]
            real = (query < queries)[:, None] & (token < tokens)[None, :]
            weight = tl.load(maps_ptr + at, mask=real, other=0.0)
            tl.store(slope_ptr + at, weight * (pull - delta[:, None]), mask=real)
    else:
        high = tl.full([rows], float("-inf"), tl.float32)
        total = tl.zeros([rows], tl.float32)
        for first in range(0, tokens, step):
            token = first + tl.arange(0, step)
            scores = scale * _products(query_ptr, x_ptr, query, token, tokens, width, queries, rows, step, piece)
            real = (query < queries)[:, None] & (token < tokens)[None, :]
            tl.store(maps_ptr + query[:, None] * tokens + token[None, :], scores, mask=real)
            _, _, high, total = online_softmax(tl.where(real, scores, float("-inf")), high, total)
        base = tl.where(high == float("-inf"), 0.0, high)
        total = tl.where(query < queries, total, 1.0)
        tl.debug_barrier()  # the scores are read by other threads than those that wrote them
        for first in range(0, tokens, step):
            token = first + tl.arange(0, step)
            at = query[:, None] * tokens + token[None, :]
            real = (query < queries)[:, None] & (token < tokens)[None, :]
            scores = tl.load(maps_ptr + at, mask=real, other=float("-inf"))
            tl.store(maps_ptr + at, tl.exp2(scores - base[:, None]) / total[:, None], mask=real)


@triton.jit(do_not_specialize=SIZES)
def probing_gather_kernel(
    maps_ptr,  # [B, M, N] float32
    x_ptr,  # [B, N, C]
    out_ptr,  # [B, M, C] float32
    tokens,
    width,
    queries,
    rows: tl.constexpr,
    step: tl.constexpr,
    piece: tl.constexpr,
):
    """Sums of tokens by maps, a piece of the channels a program."""
    image = tl.program_id(0).to(tl.int64)
    query = tl.program_id(1) * rows + tl.arange(0, rows)
    channel = tl.program_id(2) * piece + tl.arange(0, piece)
    x_ptr += image * tokens * width
    maps_ptr += image * queries * tokens
    total = tl.zeros([rows, piece], tl.float32)
    for first in range(0, tokens, step):
        token = first + tl.arange(0, step)
        weight = tl.load(
            maps_ptr + query[:, None] * tokens + token[None, :],
            mask=(query < queries)[:, None] & (token < tokens)[None, :], other=0.0,
        )  # fmt: skip
        x = tl.load(
            x_ptr + token[:, None] * width + channel[None, :],
            mask=(token < tokens)[:, None] & (channel < width)[None, :], other=0.0,
        )  # fmt: skip
        total = _wide_dot(weight, x, total)
    at = image * queries * width + query[:, None] * width + channel[None, :]
    tl.store(out_ptr + at, total, mask=(query < queries)[:, None] & (channel < width)[None, :])


def refuses(query: Tensor, x: Tensor) -> str | None:
    """Why the kernels do not take queries [M, C] and tokens [B, N, C], as a clause about them; None: they do."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes tokens of float32, bfloat16 and float16, not {x.dtype}"
    if query.dtype == torch.float64:
        return "takes queries of float32 and less, not float64"
    return refuses_cpu(x, probing_maps_kernel)


def pool(query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Each query's softmax over the tokens of each image, and the mean of the tokens by it.

    Parameters
    ----------
    query : Tensor [M, C]
        Made float32 where it is narrower.
    x : Tensor [B, N, C], float32, bfloat16 or float16

    Returns
    -------
    pooled : Tensor [B, M, C], float32
        Differentiable once, in ``query`` and ``x``. Repeating gives the same bits.
    maps : Tensor [B, M, N], float32, without gradient

    Raises
    ------
    ValueError
        If the tensors are none that ``refuses`` lets through.

    References
    ----------
    methods/efficient-probing.md, sections 3.1, 3.2 and 7; arXiv 2506.10178.
    """
    reason = refuses(query, x)
    if reason is not None:
        raise ValueError(f"efficient probing in Triton {reason}.")
    pooled, maps = _pool(query.float(), x)
    return pooled, maps.detach()


def _gradient(
    needs: tuple[bool, ...], grads: tuple[Tensor, Tensor], query: Tensor, x: Tensor, pooled: Tensor, maps: Tensor
) -> tuple[Tensor | None, ...]:
    """Of what was pooled; the maps are to be looked at, and have none."""
    grad_query, grad_x = _pool_gradient(query, x, pooled, maps, grads[0], needs[1])
    return grad_query if needs[0] else None, grad_x if needs[1] else None


def _fake(query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, width = x.shape
    return query.new_empty(batch, len(query), width), query.new_empty(batch, len(query), tokens)


@operator(_fake, gradient=_gradient, results=True)
def _pool(query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(query [M, C] float32, x [B, N, C]) -> (pooled [B, M, C], maps [B, M, N])."""
    query, x = query.contiguous(), x.contiguous()
    maps = query.new_empty(len(x), len(query), x.shape[1])
    _maps(query, x, maps)
    return _gather(maps, x), maps


@operator(
    lambda query, x, pooled, maps, grad, of_tokens: (
        query.new_empty(query.shape), x.new_empty(x.shape if of_tokens else 0),
    )
)  # fmt: skip
def _pool_gradient(
    query: Tensor, x: Tensor, pooled: Tensor, maps: Tensor, grad: Tensor, of_tokens: bool
) -> tuple[Tensor, Tensor]:
    """dS = A * (dZ xᵀ - rowsum(dZ * Z)), dU = s dS x summed over images, dX = s dSᵀ U + Aᵀ dZ (else empty)."""
    query, x, grad = query.contiguous(), x.contiguous(), grad.float().contiguous()
    slope = torch.empty_like(maps)
    _maps(grad, x, maps, (grad * pooled).sum(-1).contiguous(), slope)
    slope *= x.shape[-1] ** -0.5
    grad_query = _gather(slope, x).sum(0)
    if not of_tokens:
        return grad_query, x.new_empty(0)
    return grad_query, (slope.mT @ query + maps.mT @ grad).to(x.dtype)  # two small products: a library has them


def _maps(left: Tensor, x: Tensor, maps: Tensor, delta: Tensor | None = None, slope: Tensor | None = None) -> None:
    """Write the maps of queries ``left`` [M, C]; with ``delta`` the slopes, for ``left`` [B, M, C]."""
    batch, queries, tokens = maps.shape
    if not maps.numel():
        return
    scale = x.shape[-1] ** -0.5 * LOG2E
    constants = _constants(queries)
    with torch.cuda.device_of(x):
        probing_maps_kernel[(batch, triton.cdiv(queries, constants["rows"]))](
            left, x, maps, maps if delta is None else delta, maps if slope is None else slope, scale, tokens,
            x.shape[-1], queries, backward=slope is not None, **constants, num_warps=NUM_WARPS, num_stages=1,
        )  # fmt: skip


def _gather(maps: Tensor, x: Tensor) -> Tensor:
    """[B, M, N] and [B, N, C] -> [B, M, C], float32."""
    batch, queries, tokens = maps.shape
    width = x.shape[-1]
    out = maps.new_empty(batch, queries, width)
    constants = _constants(queries)
    if out.numel():
        grid = (batch, triton.cdiv(queries, constants["rows"]), triton.cdiv(width, constants["piece"]))
        with torch.cuda.device_of(x):
            probing_gather_kernel[grid](
                maps, x, out, tokens, width, queries, **constants, num_warps=NUM_WARPS, num_stages=1
            )
    return out


def _constants(queries: int) -> dict[str, int]:
    return {"rows": min(ROWS, columns_of(queries)), "step": TOKENS, "piece": PIECE}


def _variants(tensors: str, **constants: Any) -> tuple[Variant, ...]:
    """Tokens of each dtype; a head of 16 queries or fewer, and one of more."""
    found = []
    for dtype, queries in [("bf16", 32), ("fp16", 16), ("fp32", 32)]:
        types = {f"{name}_ptr": "*fp32:16" for name in tensors.split()} | {"x_ptr": f"*{dtype}:16"}
        types |= dict.fromkeys(SIZES, "i32") | ({"scale": "fp32"} if constants else {})
        label = f"{dtype}-m{queries}" + ("-backward" if constants.get("backward") else "")
        found.append(Variant(label, types, {**_constants(queries), **constants}, NUM_WARPS))
    return tuple(found)


_MAPS = "query maps delta slope"
KERNELS = (
    Kernel(
        "probing_maps", probing_maps_kernel,
        _variants(_MAPS, backward=False) + _variants(_MAPS, backward=True),
    ),
    Kernel("probing_gather", probing_gather_kernel, _variants("maps out")),
)  # fmt: skip
