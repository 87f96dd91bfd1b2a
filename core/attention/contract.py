"""The contract of an attention operator: shapes, what an operator can do, what it costs, which keys it chose.

An operator's file ends in ``OPERATOR = Operator(reference=..., blocked=..., cost=..., ...)``. ``check_qkv`` is the one
place where arguments are refused, before any formulation is chosen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import did_you_mean
from ..opaque import outside_graphs

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Shape(NamedTuple):
    """Sizes of one call: batch, query heads, key/value heads, queries, keys, head dimensions of q/k and of v.

    ``grid`` is the (height, width) of the token map for vision operators.
    """

    batch: int
    num_heads: int
    num_kv_heads: int
    len_q: int
    len_k: int
    head_dim: int
    value_dim: int
    causal: bool = False
    itemsize: int = 4
    grid: tuple[int, int] | None = None

    @property
    def pairs(self) -> int:
        """Query-key pairs that dense attention computes, over batch and heads; causal: only visible ones."""
        pairs = self.len_q * self.len_k
        if self.causal:
            pairs -= self.len_q * (self.len_q - 1) // 2
        return self.batch * self.num_heads * pairs


class Cost(NamedTuple):
    """What one call of ``blocked`` is expected to do; multiply-add = 2, softmax not counted.

    Parameters
    ----------
    flops, bytes : float
        All floating point operations; memory traffic: every input read once, the output written once, and what is
        gathered again.
    searched, attended : float
        Mean number of keys per query whose score is computed to choose (a pooled key counts as one) and to attend.
    """

    flops: float
    bytes: float
    searched: float
    attended: float


class Selection(Protocol):
    """Which keys each query attends to, as an operator's ``select`` found it; its layout is the operator's business.

    ``useful``, ``executed`` and ``searched`` are totals over batch, heads and queries: distinct query-key pairs
    attended to; pairs whose score ``attend`` computes, block padding included; scores computed by ``select``.
    """

    @property
    def useful(self) -> int: ...
    @property
    def executed(self) -> int: ...
    @property
    def searched(self) -> int: ...

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: what the queries ``rows`` (int64 [R]) attend to, causality applied."""
        ...


class Condition(NamedTuple):
    """``needed`` says what a parameter has no effect without; ``holds`` whether all parameters together have it."""

    needed: str
    holds: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Operator:
    """One attention operator.

    ``q: [B, Hq, Lq, D]``, ``k: [B, Hkv, Lk, D]``, ``v: [B, Hkv, Lk, Dv]``; Hkv divides Hq; the queries are the last Lq
    of Lk positions. All functions take ``causal`` and ``scale`` (None: the operator's own default), vision operators
    also ``grid=(h, w)``, and then the operator's parameters by keyword.

    Parameters
    ----------
    reference : callable (q, k, v, *, causal, scale, ...) -> out [B, Hq, Lq, Dv]
        The equations, dense and obvious; in float64 it is the truth.
    blocked : callable, same signature
        The same result in linear memory, fast on the CPU. Its keyword-only parameters are the operator's parameters.
    cost : callable (Shape, ...) -> Cost
        Prediction from sizes alone.
    select, attend : callables or None
        The two phases of ``blocked``: ``select(q, k, *, causal, scale, ...) -> Selection`` and
        ``attend(q, k, v, selection, *, causal, scale, ...) -> out``; ``attend`` takes only the parameters that the
        selection does not hold (``attend_parameters``). None where nothing is chosen.
    rows : callable or None
        ``rows(q, k, v, rows, *, causal, scale, ...)``: the operator's exact result for the queries ``rows`` (int64
        [R]) -> [B, Hq, R, Dv] in float32 or float64, for operators that do not approximate softmax attention. None:
        softmax attention is the truth.
    decoder : callable or None
        ``decoder(q, k, v, *, scale, ...) -> step``: with keys and values of the whole cache prepared outside the clock,
        ``step()`` computes the last query's output, and ``cost`` at Lq = 1 is that of the step alone. None: ``blocked``
        with Lq = 1 is the decode step.
    at_budget : callable or None
        ``at_budget(keys, Shape) -> dict`` of parameters with which a query visits about ``keys`` keys, search included.
    decode_only : frozenset of str
        Parameters that only ``decoder`` uses.
    conditions : mapping of parameter to Condition
        What must hold for a parameter to have an effect: `attn bench` refuses one that is set without it. Library calls
        may pass the settings of all modes at once.
    no_budget : str
        Why there is no ``at_budget``, as a sentence about "it".
    causal : tuple of bool
        Which of causal and not causal it can do.
    grid : bool
        A vision operator: needs ``grid``, and Lq = Lk = h * w.
    decodes : bool
        Whether Lq < Lk is allowed.
    differentiable : bool
        Whether ``blocked`` has gradients for q, k and v.
    """

    reference: Callable[..., Tensor]
    blocked: Callable[..., Tensor]
    cost: Callable[..., Cost]
    select: Callable[..., Any] | None = None
    attend: Callable[..., Tensor] | None = None
    rows: Callable[..., Tensor] | None = None
    decoder: Callable[..., Callable[[], Tensor]] | None = None
    at_budget: Callable[[int, Shape], dict[str, Any]] | None = None
    decode_only: frozenset[str] = frozenset()
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    no_budget: str = "it attends to every key."
    causal: tuple[bool, ...] = (True, False)
    grid: bool = False
    decodes: bool = True
    differentiable: bool = False

    def __post_init__(self) -> None:
        for name in ("select", "attend"):  # a selection is no tensor: around the phases a graph has to be left
            if (phase := getattr(self, name)) is not None:
                object.__setattr__(self, name, outside_graphs(phase))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
        return self.blocked(q, k, v, **arguments)

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The operator's own parameters, by name, from ``blocked``'s signature."""
        own = inspect.signature(self.blocked, eval_str=True).parameters
        return {
            name: parameter
            for name, parameter in own.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("causal", "scale", "grid")
        }

    def check_effects(self, name: str, given: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for a parameter of ``given`` that would have no effect beside the others."""
        every = {key: parameter.default for key, parameter in self.parameters.items()} | dict(given)
        for parameter, (needed, holds) in self.conditions.items():
            if parameter in given and not holds(every):
                raise ValueError(
                    f"{name}: {parameter} would have no effect without {needed}. Leave it out, or add that."
                )

    @cached_property
    def attend_parameters(self) -> frozenset[str]:
        """The keyword arguments that ``attend`` takes."""
        return frozenset(inspect.signature(self.attend).parameters if self.attend else ())


def shape_of(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, grid: tuple[int, int] | None = None) -> Shape:
    """The sizes of a call."""
    return Shape(
        q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], causal, q.itemsize, grid
    )


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ``ValueError`` unless q, k, v fit together, with their shapes and the remedy."""
    shapes = f"Shapes q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}."
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"q, k, v need four dimensions [batch, heads, length, head_dim]. {shapes}")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k and v differ in batch, heads or length. {shapes}")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q and k differ in batch. {shapes}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k differ in head_dim. {shapes}")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"k has {k.shape[1]} heads, q has {q.shape[1]}: q's heads must be a multiple of k's. {shapes}")
    if not q.shape[3] or not v.shape[3]:
        raise ValueError(f"head_dim is 0. {shapes}")
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"q, k, v must share one dtype of {names}; got {q.dtype}, {k.dtype}, {v.dtype}.")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k, v are on different devices: {q.device}, {k.device}, {v.device}.")


def check_call(
    name: str, operator: Operator, q: Tensor, k: Tensor, *, causal: bool, grid: tuple[int, int] | None,
    params: Mapping[str, Any],
) -> None:  # fmt: skip
    """Raise ``ValueError`` for what this operator cannot do, before any formulation is chosen."""
    len_q, len_k = q.shape[2], k.shape[2]
    if causal not in operator.causal:
        raise ValueError(f"{name} is {'not ' if causal else 'only '}causal: pass causal={not causal}.")
    if len_q > len_k:
        raise ValueError(f"{name}: {len_q} queries but {len_k} keys; the queries are the last of the key positions.")
    if len_q < len_k and not operator.decodes:
        raise ValueError(f"{name} needs as many queries as keys; got {len_q} and {len_k}.")
    if operator.grid:
        if grid is None:
            raise ValueError(f"{name} works on a token map: pass grid=(height, width).")
        if grid[0] * grid[1] != len_k:
            raise ValueError(f"{name}: grid {grid[0]}x{grid[1]} has {grid[0] * grid[1]} tokens, k has {len_k}.")
    elif grid is not None:
        raise ValueError(f"{name} takes no grid.")
    for parameter in params:
        if parameter not in operator.parameters:
            known = ", ".join(operator.parameters) or "none"
            hint = did_you_mean(parameter, operator.parameters) or f"Known: {known}."
            raise ValueError(f"{name} has no parameter {parameter!r}. {hint}")


def check_gradients(name: str, operator: Operator, q: Tensor, k: Tensor, v: Tensor, backend: str) -> None:
    """Raise ``ValueError`` where gradients are wanted of an operator that has none: no result without its graph."""
    wanted = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if wanted and not operator.differentiable and backend != "reference":
        raise ValueError(f"{name} has no gradients: call it under torch.no_grad(), or with backend='reference'.")


def attention_result(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """An empty tensor like what attention of q, k and v returns: for ``opaque``."""
    return q.new_empty(*q.shape[:3], v.shape[3])


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
    if seen is None or bool(out.detach().isfinite().all()):
        return out
    bad = ~v.isfinite()
    out = weight @ v.masked_fill(bad, 0.0)
    for key in bad.any(-1).view(-1, v.shape[-2]).any(0).nonzero()[:, 0].tolist():  # few, or the input is beyond help
        value = v[..., key, None, :].masked_fill(~bad[..., key, None, :], 0.0)  # [..., 1, Dv]
        sight = seen[..., key, None]  # [..., R, 1]
        # hidden entries are filled after the product, so that neither it nor its gradient can spoil a row
        out = out + (weight[..., key, None] * value).masked_fill(~sight, 0.0)
    return out


def again_where_not_finite(out: Tensor, plain: Callable[[], Tensor]) -> Tensor:
    """``out`` [..., Dv] of a fast kernel, its rows that hold NaN or infinity computed again by ``plain()``.

    Kernels multiply what a row does not see by 0, which NaN and infinity survive: such a row may be NaN for no reason.
    What a kernel owes in turn is never to hide a NaN.
    """
    bad = ~out.isfinite().all(-1, keepdim=True)
    return torch.where(bad, plain(), out) if bool(bad.any()) else out
