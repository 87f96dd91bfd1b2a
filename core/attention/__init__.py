"""Attention operators: one file each, one contract (DESIGN.md, section 4), one door.

>>> import torch
>>> from attn.core.attention import attention
>>> q = k = v = torch.randn(1, 2, 100, 64)
>>> attention("dense", q, k, v, causal=True).shape
torch.Size([1, 2, 100, 64])
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from torch import Tensor

    from ..choose import Backend
    from .sequences import Lengths, Padding
from .registry import OPERATORS


def operators() -> tuple[str, ...]:
    """The names of all operators."""
    return tuple(OPERATORS)


@overload
def attention(
    name: str, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, return_lse: Literal[False] = False, **given: Any
) -> Tensor: ...
@overload
def attention(
    name: str, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, return_lse: Literal[True], **given: Any
) -> tuple[Tensor, Tensor]: ...
def attention(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
    grid: tuple[int, int] | None = None,
    backend: Backend = "auto",
    lengths: Lengths | None = None,
    padding: Padding | None = None,
    cu_seqlens: Lengths | None = None,
    return_lse: bool = False,
    **params: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run one attention operator.

    Parameters
    ----------
    name : str
        One of ``operators()``.
    q : Tensor [B, Hq, Lq, D]
        float32, bfloat16, float16 or float64. The queries are the last Lq of the Lk positions.
    k : Tensor [B, Hkv, Lk, D]
        Hkv divides Hq (grouped-query heads).
    v : Tensor [B, Hkv, Lk, Dv]
    causal : bool
        Whether a query sees only keys up to its own position. An operator may be able to do only one of the two.
    scale : float, optional
        Factor on q·kᵀ; None: the operator's own default, ``D ** -0.5`` unless its documentation says otherwise.
    grid : (int, int), optional
        Height and width of the token map, row-major; required by vision operators.
    backend : {"auto", "reference", "torch", "cpu", "triton", "blocked"}
        ``reference``: the equations, dense, with quadratic memory. ``torch``, ``cpu``, ``triton``: plain PyTorch in
        linear memory, the CPU kernels, the Triton kernels; where one of an operator's phases has no such form, that
        phase runs as with ``auto``. ``blocked``: ``torch`` or ``cpu``. ``auto``: the fastest that takes the tensors.
    lengths : int64 Tensor [B] or sequence of int, optional
        Valid keys of each row of a padded batch, for causal attention; the result is that of one call per sequence, and
        zeros for padding, whose values are never read. The queries are still the last Lq of the Lk positions; with
        right padding those at positions below the length are valid.
    padding : {"left", "right"}, optional
        At which end of a row the padding is; needed with ``lengths``.
    cu_seqlens : int32 or int64 Tensor [N + 1] or sequence of int, optional
        Boundaries of N sequences packed into one row (B = 1, Lq = Lk), from 0 to Lk; as one call per sequence.
    return_lse : bool
        Also return the natural log-sum-exp of the scaled scores a query attends to; ``dense`` and operators over blocks
        of keys have it.
    **params
        The operator's parameters, such as ``mask_k=1024`` for ``hip``.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype and device of ``q``; with ``return_lse`` also a Tensor [B, Hq, Lq], float32 (float64
    for float64), minus infinity where a query attends to no key.

    Notes
    -----
    ``torch.autocast`` changes nothing: products are computed in the dtype of q, k and v, sums and softmax in float32
    (float64 for float64), so that an operator chooses the same keys in it as outside. Convert q, k and v for a smaller
    dtype. ``torch.compile`` and ``torch.export`` see one node, and give the same result; its gradient computes the
    forward pass again. The transforms of ``torch.func`` are not supported: take ``torch.autograd``.

    Raises
    ------
    ValueError
        If the tensors do not fit together, or ask for what the operator cannot do, or a parameter is unknown or out of
        range, or the operator has no such backend, or none that takes the tensors. The message names the shapes and
        the remedy.
    UsageError
        If there is no such operator, or it needs a package that is not installed.

    References
    ----------
    DESIGN.md, section 4. The operator's own file names its paper and specification.

    Examples
    --------
    >>> import torch
    >>> q, k, v = (torch.randn(1, 2, 300, 64) for _ in range(3))
    >>> attention("window+sink", q, k, v, causal=True, window=64).shape
    torch.Size([1, 2, 300, 64])
    >>> batch = (torch.randn(2, 2, 300, 64) for _ in range(3))
    >>> attention("hip", *batch, causal=True, lengths=[300, 120], padding="left").shape
    torch.Size([2, 2, 300, 64])
    """
    import torch

    from ..opaque import own_dtypes
    from .checks import check_backend, check_call, check_gradients, check_lse, check_qkv

    if torch.compiler.is_compiling():
        from .traced import TRACED

        operator = TRACED[name] if name in TRACED else OPERATORS[name].resolve()
    else:
        operator = OPERATORS[name].resolve()
    check_qkv(q, k, v)
    check_call(name, operator, q, k, causal=causal, grid=grid, params=params)
    check_gradients(name, operator, q, k, v, backend)
    check_backend(name, operator, backend)
    if lengths is not None or cu_seqlens is not None or padding is not None:
        from .sequences import divided, one_call_each

        if operator.grid or not causal:
            raise ValueError(f"{name}: lengths and cu_seqlens are for causal attention. Call once per sequence.")
        call = functools.partial(attention, name, causal=True, scale=scale, backend=backend, return_lse=return_lse)
        whole: Tensor = one_call_each(call, q, k, v, divided(q, k, lengths, padding, cu_seqlens), params)
        return whole
    if grid is not None:
        params["grid"] = grid
    with own_dtypes(q.device.type):
        out: Tensor | tuple[Tensor, Tensor]
        if return_lse:
            check_lse(name, operator, backend)
            out = operator.with_lse(q, k, v, causal=causal, scale=scale, backend=backend, **params)
        elif backend == "reference":
            out = operator.reference(q, k, v, causal=causal, scale=scale, **params)
        else:
            out = operator.blocked(q, k, v, causal=causal, scale=scale, backend=backend, **params)
    return out
