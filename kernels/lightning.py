"""Lightning attention in Triton: one sweep over the sequence, chunks in parallel, forward and for every gradient.

Paper: arXiv 2405.17381. Specification: methods/lightning.md, sections 3.2, 3.3 and 7 (the parallel form).

o_t = sum over j <= t of lam^(t-j) (q_t . k_j) v_j with lam = exp(-slope) is cut into chunks of ``CHUNK`` tokens:

1. what each chunk adds to the state, kᵀ v with the decay to the chunk's end, all chunks at once;
2. the state before each chunk, one after the other: state + (lam^m - 1) state + added, for ``m`` tokens of the chunk;
3. what each tile of queries sees of its own chunk, and of the state before it.

The output is linear in each of q, k and v, so that their gradients are sweeps of the same kind, two of them from the
right (``reverse``), where a token's own key counts as well and the state's power of lam is one lower for each token.
Only non-positive exponents appear; states and sums are float32.
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
from .softmax import columns_of, load_rows, store_rows

CHUNK = 256
"""Tokens between two states that are kept: of 128k tokens and D = Dv = 128 they take 34 MB a head."""
STEP = 32
"""Rows of the state at a time."""
STATE_BLOCK = 1024
"""Elements of the state that a program of the second kernel carries along."""
MAX_WIDTH = 128
SIZES = ["length", "heads"]


@triton.jit
def _decays(slope_ptr, head, heads):
    """Of the head of a batch item: log2(lam)."""
    log2e: tl.constexpr = 1.4426950408889634
    return -tl.load(slope_ptr + head % heads) * log2e


@triton.jit(do_not_specialize=SIZES)
def lightning_states_kernel(
    k_ptr,  # [B * H, L, D]
    v_ptr,  # [B * H, L, Dv]
    slope_ptr,  # [H] float32
    states_ptr,  # [B * H, chunks, D, Dv] float32: what each chunk adds
    length,
    heads,
    width: tl.constexpr,
    value_width: tl.constexpr,
    columns: tl.constexpr,
    value_columns: tl.constexpr,
    rows: tl.constexpr,
    chunk: tl.constexpr,
    reverse: tl.constexpr,
):
    number, head = tl.program_id(0), tl.program_id(1)
    rate = _decays(slope_ptr, head, heads)
    start = number * chunk
    stop = tl.minimum(start + chunk, length)
    k_ptr += head.to(tl.int64) * length * width
    v_ptr += head.to(tl.int64) * length * value_width
    added = tl.zeros([columns, value_columns], tl.float32)
    for at in range(start, stop, rows):
        row = at + tl.arange(0, rows)
        real = row < stop
        k = load_rows(k_ptr, row, real, width, columns)
        v = load_rows(v_ptr, row, real, value_width, value_columns)
        if reverse:
            left = row - start + 1
        else:
            left = stop - 1 - row
        fade = tl.where(real, tl.exp2(rate * left), 0.0)
        k = (k.to(tl.float32) * fade[:, None]).to(v.dtype)
        added = tl.dot(tl.trans(k), v, added, input_precision="ieee")
    item = head.to(tl.int64) * tl.num_programs(0) + number
    row = tl.arange(0, columns)
    store_rows(states_ptr + item * width * value_width, row, row < width, added, value_width, value_columns)


@triton.jit(do_not_specialize=["chunks", "heads", "size"])
def lightning_scan_kernel(
    states_ptr,  # [B * H, chunks, D * Dv] float32: what each chunk adds, afterwards the state before it
    state_ptr,  # [B * H, D * Dv] float32: before the first chunk, afterwards behind the last
    step_ptr,  # [2, H] float32: lam^m - 1 of a whole chunk and of the last one
    chunks,
    heads,
    size,
    block: tl.constexpr,
    reverse: tl.constexpr,
):
    element = tl.program_id(0) * block + tl.arange(0, block)
    head = tl.program_id(1)
    real = element < size
    states_ptr += head.to(tl.int64) * chunks * size
    state_ptr += head.to(tl.int64) * size
    whole = tl.load(step_ptr + head % heads)
    short = tl.load(step_ptr + heads + head % heads)
    state = tl.load(state_ptr + element, mask=real, other=0.0)
    for i in range(0, chunks):
        number = i
        if reverse:
            number = chunks - 1 - i
        at = states_ptr + tl.cast(number, tl.int64) * size + element
        added = tl.load(at, mask=real, other=0.0)
        tl.store(at, state, mask=real)
        state += state * tl.where(number == chunks - 1, short, whole) + added
    tl.store(state_ptr + element, state, mask=real)


@triton.jit(do_not_specialize=SIZES)
def lightning_attend_kernel(
    q_ptr,  # [B * H, L, D]
    k_ptr,
    v_ptr,
    slope_ptr,
    states_ptr,  # [B * H, chunks, D, Dv] float32: the state before each chunk
    out_ptr,  # [B * H, L, Dv]
    length,
    heads,
    width: tl.constexpr,
    value_width: tl.constexpr,
    columns: tl.constexpr,
    value_columns: tl.constexpr,
    rows: tl.constexpr,
    chunk: tl.constexpr,
    reverse: tl.constexpr,
    step: tl.constexpr,  # rows of the state at a time
):
    tile, head = tl.program_id(0), tl.program_id(1)
    rate = _decays(slope_ptr, head, heads)
    tiles: tl.constexpr = chunk // rows
    start = tile // tiles * chunk
    stop = tl.minimum(start + chunk, length)
    first = tile * rows
    row = first + tl.arange(0, rows)
    real = row < stop
    q_ptr += head.to(tl.int64) * length * width
    k_ptr += head.to(tl.int64) * length * width
    v_ptr += head.to(tl.int64) * length * value_width
    q = load_rows(q_ptr, row, real, width, columns)
    if reverse:
        before = stop - 1 - row
    else:
        before = row - start + 1
    fade = tl.where(real, tl.exp2(rate * before), 0.0)
    chunks = tl.cdiv(length, chunk)
    item = head.to(tl.int64) * chunks + tile // tiles
    states_ptr += item * width * value_width
    out = tl.zeros([rows, value_columns], tl.float32)
    for part in tl.static_range(0, columns, step):  # the whole state would not leave room for anything else
        channel = part + tl.arange(0, step)
        real_channel = channel < width
        some = tl.load(q_ptr + row[:, None] * width + channel[None, :], mask=real[:, None] & real_channel, other=0.0)
        some = (some.to(tl.float32) * fade[:, None]).to(q.dtype)
        state = load_rows(states_ptr, channel, real_channel, value_width, value_columns)
        out = tl.dot(some, state.to(q.dtype), out, input_precision="ieee")
    low, high = start, tl.minimum(first + rows, stop)
    if reverse:
        low, high = first, stop
    for at in range(low, high, rows):
        key = at + tl.arange(0, rows)
        inside = key < stop
        k = load_rows(k_ptr, key, inside, width, columns)
        v = load_rows(v_ptr, key, inside, value_width, value_columns)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [rows, rows]
        distance = row[:, None] - key[None, :]
        if reverse:
            distance = -distance
        sight = (distance >= 0) & inside[None, :]
        weights = tl.where(sight, scores * tl.exp2(rate * tl.where(sight, distance, 0)), 0.0)
        out = tl.dot(weights.to(v.dtype), v, out, input_precision="ieee")
    store_rows(out_ptr + head.to(tl.int64) * length * value_width, row, real, out, value_width, value_columns)


def refuses(q: Tensor, v: Tensor) -> str | None:
    """Why the kernels do not take these tensors, as a clause about them; None: they do."""
    if q.dtype not in (torch.float32, torch.bfloat16):
        return f"takes float32 and bfloat16, not {q.dtype}"  # float16 has no range for the state
    widest = max(q.shape[-1], v.shape[-1])
    if widest > MAX_WIDTH:
        return f"takes heads of up to {MAX_WIDTH} channels, not {widest}"
    return refuses_cpu(q, lightning_attend_kernel)


def _rows(itemsize: int, columns: int) -> int:
    """Tokens of a step: the most of those tried that spill nothing on any chip. Not timed."""
    if itemsize == 2:
        return 64
    return 32 if columns <= 64 else 16


def _fake(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor, reverse: bool = False) -> tuple[Tensor, ...]:
    return v.new_empty(v.shape), state.new_empty(state.shape, dtype=torch.float32)


def _gradient(
    needs: tuple[bool, ...], grads: tuple[Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor, slope: Tensor,
    state: Tensor, reverse: bool = False,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Sweeps of the same kind, those of k, v and the state from the other side."""
    grad, grad_last = grads[0].contiguous(), grads[1].contiguous()
    grad_q = grad_k = grad_v = grad_state = None
    if needs[0]:
        grad_q = sweep(grad, v, k, slope, state.mT, reverse)[0]
    if needs[1]:
        grad_k = sweep(v, grad, q, slope, grad_last.mT, not reverse)[0]
    if needs[2] or needs[4]:
        grad_v, grad_state = sweep(k, q, grad, slope, grad_last, not reverse)
        grad_state = grad_state.to(state.dtype)
    return grad_q, grad_k, grad_v, None, grad_state, None


@operator(_fake, gradient=_gradient)
def sweep(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Lightning attention of whole sequences, and the state behind them.

    Parameters
    ----------
    q, k, v : Tensor [B, H, L, D], [B, H, L, D], [B, H, L, Dv]
        float32 or bfloat16, one dtype; D and Dv up to ``MAX_WIDTH``.
    slope : Tensor [H], float32
        lam = exp(-slope); not negative.
    state : Tensor [B, H, D, Dv], float32
        Before the first token (``reverse``: from behind the last one); not changed.
    reverse : bool
        From the last token to the first.

    The operator ``attn::kernels_lightning_sweep``; differentiable in q, k, v and state, not in slope.

    Returns
    -------
    out : Tensor [B, H, L, Dv], dtype of ``q``.
    last : Tensor [B, H, D, Dv], float32
        The state behind the last token (``reverse``: before the first one).

    Raises
    ------
    ValueError
        If the tensors are none that ``refuses`` lets through.

    References
    ----------
    methods/lightning.md, sections 3.2, 3.3 and 7; arXiv 2405.17381.
    """
    reason = refuses(q, v)
    if reason is not None:
        raise ValueError(f"lightning attention in Triton {reason}.")
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    batch, heads, length, width = q.shape
    value_width = v.shape[3]
    out, last = torch.empty_like(v), state.to(torch.float32).clone(memory_format=torch.contiguous_format)
    if not out.numel() or not width:
        return out.zero_(), last
    slope = slope.to(torch.float32).contiguous()
    chunks = triton.cdiv(length, CHUNK)
    states = last.new_empty(batch, heads, chunks, width, value_width)
    sizes = torch.tensor([CHUNK, length - (chunks - 1) * CHUNK], device=q.device)
    step = torch.expm1(-slope * sizes[:, None]).contiguous()  # [2, H]; rounding lam^m itself would bend a slow decay
    rows = _rows(q.itemsize, max(columns_of(width), columns_of(value_width)))
    widths: dict[str, Any] = {
        "width": width, "value_width": value_width,
        "columns": columns_of(width), "value_columns": columns_of(value_width),
        "rows": rows, "chunk": CHUNK, "reverse": reverse,
    }  # fmt: skip
    with torch.cuda.device_of(q):
        lightning_states_kernel[(chunks, batch * heads)](
            k, v, slope, states, length, heads, **widths, num_warps=8, num_stages=1
        )
        size = width * value_width
        lightning_scan_kernel[(triton.cdiv(size, STATE_BLOCK), batch * heads)](
            states, last, step, chunks, heads, size, block=STATE_BLOCK, reverse=reverse, num_warps=4, num_stages=1
        )
        lightning_attend_kernel[(triton.cdiv(length, rows), batch * heads)](
            q,
            k,
            v,
            slope,
            states,
            out,
            length,
            heads,
            **widths,
            step=min(STEP, widths["columns"]),
            num_warps=8,
            num_stages=1,
        )
    return out, last


def _variants(tensors: str, **more: int) -> tuple[Variant, ...]:
    """What the wrapper launches for heads of 64 and 128 channels, from both sides."""
    found = []
    for dtype, width, reverse in [("bf16", 64, False), ("bf16", 128, True), ("fp32", 64, True), ("fp32", 128, False)]:
        types = {f"{name}_ptr": f"*{'fp32' if name in ('slope', 'states') else dtype}:16" for name in tensors.split()}
        constants = {
            "width": width, "value_width": width, "columns": width, "value_columns": width,
            "rows": _rows(4 if dtype == "fp32" else 2, width), "chunk": CHUNK, "reverse": reverse, **more,
        }  # fmt: skip
        label = f"{dtype}-d{width}" + ("-reverse" if reverse else "")
        found.append(Variant(label, types | dict.fromkeys(SIZES, "i32"), constants, 8, 1))
    return tuple(found)


_SCAN = {"states_ptr": "*fp32:16", "state_ptr": "*fp32:16", "step_ptr": "*fp32:16"}
KERNELS = (
    Kernel("lightning_states", lightning_states_kernel, _variants("k v slope states")),
    Kernel(
        "lightning_scan",
        lightning_scan_kernel,
        tuple(
            Variant(
                "reverse" if reverse else "forward",
                _SCAN | dict.fromkeys(("chunks", "heads", "size"), "i32"),
                {"block": STATE_BLOCK, "reverse": reverse},
            )
            for reverse in (False, True)
        ),
    ),
    Kernel("lightning_attend", lightning_attend_kernel, _variants("q k v slope states out", step=STEP)),
)
