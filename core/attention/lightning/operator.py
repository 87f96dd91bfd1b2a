"""Lightning attention: causal linear attention with an exponential decay per head, no softmax and no denominator.

Paper: arXiv 2405.17381 (ICML 2024). Specification: methods/lightning.md, sections 3.1-3.4 and 8.
o_t = sum over j <= t of lam^(t-j) (q_t . k_j) v_j, lam = exp(-slope); or, by a state S_t = lam S_(t-1) + k_t v_t^T,
o_t = q_t^T S_t. There is no 1/sqrt(D) either: ``scale`` is 1 unless given.
The state is the true one after every block, a short last one too (the published kernel's is not), so that a prefill
can be continued token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...choose import Formulation
from ...opaque import opaque
from ..checks import check_qkv
from ..contract import Condition, Cost, Golden, Operator, Shape
from ..equations import accumulator, positions, repeat_kv, weighted_sum
from .block import BLOCK, SWEEP, final_state, linear_attention
from .decay import LayerDecay, Settings, checked
from .sweep import decayed

_ROWS_CHUNK = 4096  # keys at a time in ``rows``: 256 rows x 4096 keys x 8 bytes = 8 MB a head


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: LayerDecay
) -> Tensor:
    """Section 3.1 as printed: (q k^T * lam^(t-j), lower triangle) v."""
    rate = settings.rate(q.shape[1], q.device)
    k, v = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    accum = accumulator(q.dtype)
    rows, cols = positions(q.shape[2], k.shape[2], q.device), torch.arange(k.shape[2], device=q.device)
    distance = rows[:, None] - cols  # [Lq, Lk]
    weight = torch.exp(-rate.to(accum)[:, None, None] * distance.clamp(min=0)) * (distance >= 0)  # [Hq, Lq, Lk]
    scores = ((q @ k.mT) * (1.0 if scale is None else scale)).to(accum).masked_fill(distance < 0, 0.0)
    return weighted_sum((scores * weight).to(v.dtype), v, distance >= 0)


def recurrent(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The recurrence, one ``decode_step`` per token: out [B, Hq, L, Dv] and the last state. For tests and decoding."""
    check_qkv(q, k, v)
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=accumulator(q.dtype))
    out = []
    for t in range(q.shape[2]):
        token = slice(t, t + 1)
        step, state = decode_step(q[:, :, token], k[:, :, token], v[:, :, token], slope, state)
        out.append(step)
    return torch.cat(out, dim=2) if out else v.new_empty(*q.shape[:3], v.shape[3]), state


@opaque(lambda q, v, state, **_: (q.new_empty(*q.shape[:3], v.shape[3]), state.new_empty(state.shape)))
def decode_step(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: a rank-1 update of the state and a product of the query with it.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, 1, D], [B, Hkv, 1, D], [B, Hkv, 1, Dv]
        The new token.
    slope : Tensor, one entry per query head
    state : Tensor [B, Hq, D, Dv], float32 or float64
        From ``lightning_attention(..., return_state=True)``; not changed.

    Returns
    -------
    out [B, Hq, 1, Dv] in q's dtype, and the state after the token.
    """
    heads = q.shape[1]
    k, v = (repeat_kv(x, heads).to(state.dtype) for x in (k, v))
    state = decayed(state, slope.to(state.dtype).reshape(heads, 1, 1), 1) + k.mT * v  # [B, Hq, D, Dv]
    return (q.to(state.dtype) @ state).to(q.dtype), state


def lightning_attention(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor | None = None, *, scale: float = 1.0, state: Tensor | None = None,
    return_state: bool = False, mask: Tensor | None = None, lengths: Sequence[int] | None = None,
    block_size: int = BLOCK, backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Causal linear attention with decay, block by block, with gradients for q, k, v and the state.

    Parameters
    ----------
    q : Tensor [B, Hq, Lq, D]
        Queries, the last Lq of the Lk positions.
    k, v : Tensor [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
        Hkv divides Hq. Any D and Dv.
    slope : Tensor, one entry per query head, optional
        lam = exp(-slope), not negative; larger forgets faster. None: no decay. Has no gradient.
    scale : float
        Factor on q.k.
    state : Tensor [B, Hq, D, Dv], optional
        Sum of lam^distance k v^T over everything before the first key. None: zeros.
    return_state : bool
        Also return the state after the last key, float32 (float64 for float64 inputs).
    mask : Tensor, bool [B, Lk], optional
        False: a padded position, whose key and value count as zero (left padding). True: keep.
    lengths : sequence of int, optional
        Several sequences packed behind each other along L; the state is reset at the start of each.
    block_size : int
        Tokens per block; changes speed and rounding only.
    backend : {"auto", "triton", "torch"}
        As of ``attn.attention``.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``, and with ``return_state`` the state [B, Hq, D, Dv].

    Raises
    ------
    ValueError
        If shapes do not fit together, a slope is negative, ``lengths`` does not sum to L or comes with a state.

    References
    ----------
    methods/lightning.md, sections 3.2, 3.3 and 8; arXiv 2405.17381.

    Examples
    --------
    >>> import torch
    >>> q = k = v = torch.randn(1, 4, 300, 64)
    >>> out, state = lightning_attention(q, k, v, slopes(4), return_state=True)
    >>> out.shape, state.shape
    (torch.Size([1, 4, 300, 64]), torch.Size([1, 4, 64, 64]))
    """
    check_qkv(q, k, v)
    len_q, len_k = q.shape[2], k.shape[2]
    if len_q > len_k:
        raise ValueError(f"{len_q} queries but {len_k} keys; the queries are the last of the key positions.")
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; it must be at least 1 (128 is a good one).")
    if mask is not None:
        if mask.shape != (q.shape[0], len_k) or mask.dtype != torch.bool:
            raise ValueError(f"mask is {mask.dtype} {list(mask.shape)}; bool [{q.shape[0]}, {len_k}] is needed.")
        k, v = (x.masked_fill(~mask[:, None, :, None], 0.0) for x in (k, v))  # not a product: padding may be NaN
    if scale != 1.0:
        q = q * scale
    if lengths is None:
        out, state = _attend(q, k, v, slope, state, block_size, backend)
        return (out, state) if return_state else out
    sizes = list(lengths)
    if state is not None or return_state or len_q != len_k or sum(sizes) != len_k or min(sizes, default=1) < 0:
        raise ValueError(
            f"lengths {sizes} must sum to {len_k}, with as many queries ({len_q}) and no state: "
            "call once per sequence to pass states."
        )
    parts = zip(q.split_with_sizes(sizes, 2), k.split_with_sizes(sizes, 2), v.split_with_sizes(sizes, 2), strict=True)
    outs = [_attend(*part, slope, None, block_size, backend)[0] for part in parts]
    return torch.cat(outs, dim=2) if outs else q.new_empty(*q.shape[:3], v.shape[3])


def _attend_result(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """Empty tensors like ``_attend``'s: for ``opaque``."""
    state = q.new_empty(*q.shape[:2], q.shape[3], v.shape[3], dtype=accumulator(q.dtype))
    return q.new_empty(*q.shape[:3], v.shape[3]), state


@opaque(_attend_result)
def _attend(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor | None, state: Tensor | None, block_size: int, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """One sequence per sample: the state of the keys before the first query, then the block form."""
    batch, heads, len_q, dim = q.shape
    shape, accum = (batch, heads, dim, v.shape[3]), accumulator(q.dtype)
    if state is not None and state.shape != shape:
        raise ValueError(f"state {list(state.shape)} does not fit: {list(shape)} is needed.")
    rate = q.new_zeros(heads, dtype=accum) if slope is None else checked(slope, heads, q.device).to(accum)
    state = q.new_zeros(shape, dtype=accum) if state is None else state.to(accum)
    past = k.shape[2] - len_q
    if past:
        state = final_state(k[:, :, :past], v[:, :, :past], rate, state)
        k, v = k[:, :, past:], v[:, :, past:]
    return linear_attention(q, k, v, rate, state, block_size, backend)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings,
    engine: Formulation,
) -> Tensor:  # fmt: skip
    """``lightning_attention`` with the slopes of the settings."""
    rate = settings.rate(q.shape[1], q.device)
    out = lightning_attention(
        q, k, v, rate, scale=1.0 if scale is None else scale, block_size=settings.block_size, backend=engine.backend
    )
    return cast(Tensor, out)


def rows(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, *, causal: bool = True, scale: float | None = None,
    settings: LayerDecay,
) -> Tensor:  # fmt: skip
    """The quadratic formula for the queries ``rows`` (int64 [R]), in chunks of keys -> [B, Hq, R, Dv].

    In float32 or float64, whatever q's dtype: what the bench measures the error of ``blocked`` against.
    """
    heads, accum = q.shape[1], accumulator(q.dtype)
    rate = settings.rate(heads, q.device).to(accum)[:, None, None]
    at = positions(q.shape[2], k.shape[2], q.device)[rows]  # [R]
    chosen = q[:, :, rows].to(accum) * (1.0 if scale is None else scale)
    out = chosen.new_zeros(*chosen.shape[:3], v.shape[3])
    for start in range(0, k.shape[2], _ROWS_CHUNK):
        keys, values = (repeat_kv(x[:, :, start : start + _ROWS_CHUNK], heads).to(accum) for x in (k, v))
        distance = at[:, None] - torch.arange(start, start + keys.shape[2], device=q.device)
        weight = torch.exp(-rate * distance.clamp(min=0)) * (distance >= 0)  # [Hq, R, chunk]
        scores = (chosen @ keys.mT).masked_fill(distance < 0, 0.0)
        out += weighted_sum(scores * weight, values, distance >= 0)
    return out


class LightningDecoder:
    """Decode step by step with the state kept, which a step updates by what the cache has gained. Section 3.3.

    Parameters
    ----------
    scale : float, optional
        Default 1.
    **params
        Fields of ``Settings``.

    Examples
    --------
    >>> import torch
    >>> q = k = v = torch.randn(1, 2, 300, 64)
    >>> decoder = LightningDecoder()
    >>> for length in (298, 299, 300):
    ...     out = decoder.step(q[:, :, length - 1 : length], k[:, :, :length], v[:, :, :length])
    >>> out.shape
    torch.Size([1, 2, 1, 64])
    """

    def __init__(self, *, scale: float | None = None, settings: Settings | None = None, **params: Any) -> None:
        self._settings, self._scale = settings or Settings(**params), 1.0 if scale is None else scale
        self._state: Tensor | None = None
        self._length = 0

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The newest query ``q`` [B, Hq, 1, D] against the whole cache ``k``, ``v``, its own key included."""
        rate = self._settings.rate(q.shape[1], q.device).to(accumulator(q.dtype))
        state, gained = self._state, slice(self._length, k.shape[2] - 1)
        if state is None:
            state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=rate.dtype)
        if gained.start < gained.stop:
            state = final_state(k[:, :, gained], v[:, :, gained], rate, state)
        out, self._state = decode_step(q * self._scale, k[:, :, -1:], v[:, :, -1:], rate, state)
        self._length = k.shape[2]
        return out


def decoder(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, settings: Settings) -> Callable[[], Tensor]:
    """The state of all keys but the last is computed here; ``step()`` is one ``decode_step``."""
    accum = accumulator(q.dtype)
    rate = settings.rate(q.shape[1], q.device).to(accum)
    state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=accum)
    state = final_state(k[:, :, :-1], v[:, :, :-1], rate, state)
    token = (q[:, :, -1:] * (1.0 if scale is None else scale), k[:, :, -1:], v[:, :, -1:])
    return lambda: decode_step(*token, rate, state)[0]


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7: per token 2b(D + Dv) inside its block, half of it above the diagonal, and 4 D Dv for the state.

    A single query is a decode step, as in ``decoder``: the state is there, read and written once.
    """
    heads, kv_heads = shape.batch * shape.num_heads, shape.batch * shape.num_kv_heads
    width, state = shape.head_dim + shape.value_dim, shape.head_dim * shape.value_dim
    if shape.len_q == 1:
        traffic = (heads + kv_heads) * width * shape.itemsize + 2 * heads * state * max(4, shape.itemsize)
        return Cost(4.0 * heads * state, float(traffic), 0.0, 1.0)
    block = min(settings.block_size, shape.len_q)
    flops = 2.0 * heads * (shape.len_q * (block * width + state) + shape.len_k * state)
    elements = width * (heads * shape.len_q + kv_heads * shape.len_k)
    return Cost(flops, float(elements * shape.itemsize), 0.0, float(block))


_BY_LAYER = Condition("decay='code' or 'paper'", lambda params: params["decay"] in ("code", "paper"))
OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(SWEEP.used_by("lightning", attend),),
    cost=cost,
    rows=rows,
    decoder=decoder,
    session=LightningDecoder,
    no_budget="its state sums up all of them.",
    causal=(True,),
    conditions={"layer": _BY_LAYER, "num_layers": _BY_LAYER},
    differentiable=True,
    exact=True,
    golden=Golden(
        "lightning",
        "attn.core.attention.lightning.golden:check",
        ("op_l0", "op_l12_ragged", "op_lastlayer_6heads", "slopes", "srmsnorm"),
    ),
)
