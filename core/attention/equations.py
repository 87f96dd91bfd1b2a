"""What references and formulations are made of: heads, positions, masks, and softmax attention as it is printed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attention_result(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """An empty tensor like what attention of q, k and v returns: for ``opaque``."""
    return q.new_empty(*q.shape[:3], v.shape[3])


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether a gradient of one of ``tensors`` is to be recorded."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def needs_cpu_floats(q: Tensor, *_: Any, **__: Any) -> str | None:
    """``refuses`` of CPU kernels that compute in float32."""
    if q.device.type == "cpu" and accumulator(q.dtype) == torch.float32:
        return None
    return f"takes float32, bfloat16 and float16 on the CPU, not {q.dtype} on {q.device}"


def needs_triton(q: Tensor) -> str | None:
    """``refuses`` of what Triton kernels have in common."""
    if q.device.type != "cuda" or not torch.cuda.is_available():
        return f"takes tensors of a GPU that PyTorch can use, not of {q.device.type}"
    return None if importlib.util.find_spec("triton") else "needs the package triton"


def repeat_kv(x: Tensor, num_heads: int) -> Tensor:
    """Each key/value head once per query head of its group: [B, Hkv, L, D] -> [B, Hq, L, D]; a view if Hq = Hkv."""
    return x if x.shape[1] == num_heads else x.repeat_interleave(num_heads // x.shape[1], dim=1)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype softmax and sums are computed in: float32, or float64 when asked for."""
    return torch.promote_types(dtype, torch.float32)


def positions(len_q: int, len_k: int, device: torch.device | None = None) -> Tensor:
    """Absolute positions of the queries, which are the last ``len_q`` of ``len_k``: int64 [Lq]."""
    return torch.arange(len_k - len_q, len_k, device=device)


def causal_mask(len_q: int, len_k: int, device: torch.device | None = None) -> Tensor:
    """Which keys each query may see: bool [Lq, Lk]. For references and tests only: it has Lq x Lk entries."""
    return torch.arange(len_k, device=device) <= positions(len_q, len_k, device)[:, None]


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float | None = None) -> Tensor:
    """Softmax attention over the keys where ``mask`` is True, dense: what every reference ends in.

    Parameters
    ----------
    q, k, v : Tensor
        As in ``Operator``.
    mask : Tensor, bool, broadcastable to [B, Hq, Lq, Lk], or None
        None: every key.
    scale : float, optional
        Default ``D ** -0.5``.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``. Rows that see no key are zeros.
    """
    k, v = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)  # [B, Hq, Lq, Lk]
    scores = scores.to(accumulator(q.dtype))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
        scores = scores.masked_fill(~mask.any(-1, keepdim=True), 0.0)  # a row without keys must not make NaN ...
    prob = scores.softmax(-1)
    if mask is not None:
        prob = prob * mask  # ... and gives zeros
    return weighted_sum(prob.to(v.dtype), v, mask)


def weighted_sum(weight: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """``weight @ v``, where what a row does not see cannot spoil it: a weight of 0 times NaN or infinity is NaN.

    Parameters
    ----------
    weight : Tensor [..., R, n]
        0 (or NaN, in a row that is NaN whatever its values are) where ``seen`` is False.
    v : Tensor [..., n, Dv]
    seen : Tensor, bool, broadcastable to ``weight``, or None
        None: every row sees everything.

    Returns
    -------
    Tensor [..., R, Dv]. What is seen counts as in the product: NaN gives NaN, infinity gives infinity, or NaN where its
    weight is 0 or another one has the opposite sign.
    """
    out = weight @ v
    if seen is None or all_finite(out.detach()):
        return out
    bad = ~v.isfinite()
    out = weight @ v.masked_fill(bad, 0.0)
    for key in bad.any(-1).view(-1, v.shape[-2]).any(0).nonzero()[:, 0].tolist():  # few, or the input is beyond help
        value = v[..., key, None, :].masked_fill(~bad[..., key, None, :], 0.0)  # [..., 1, Dv]
        sight = seen[..., key, None]  # [..., R, 1]
        # hidden entries are filled after the product, so that neither it nor its gradient can spoil a row
        out = out + (weight[..., key, None] * value).masked_fill(~sight, 0.0)
    return out


def all_finite(x: Tensor) -> bool:
    """Whether a tensor surely holds neither NaN nor infinity; False also where its sum overflows.

    A sum is a tenth of the time that the question for each element takes.
    """
    return bool(x.sum(dtype=accumulator(x.dtype)).isfinite())


def again_where_not_finite(out: Tensor, plain: Callable[[], Tensor]) -> Tensor:
    """``out`` [..., Dv] of a fast kernel, its rows that hold NaN or infinity computed again by ``plain()``.

    Kernels multiply what a row does not see by 0, which NaN and infinity survive: such a row may be NaN for no reason.
    What a kernel owes in turn is never to hide a NaN.
    """
    if all_finite(out):
        return out
    bad = ~out.isfinite().all(-1, keepdim=True)
    return torch.where(bad, plain(), out) if bool(bad.any()) else out
