"""The contract of an attention operator: shapes, what an operator can do, what it costs, which keys it chose.

An operator's file ends in ``OPERATOR = Operator(settings=..., reference=..., phases=..., cost=..., ...)``. What every
operator refuses stands in ``checks``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..choose import BACKENDS, Phase
from ..opaque import outside_graphs
from .fields import one_node, parameters_of, with_settings


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
class Golden:
    """Vectors of the official implementation: their folder below tests/golden/vectors, and who compares ours with them.

    ``check`` is ``"module:function"``: ``function(stem, arrays)`` yields a ``golden.Check`` per quantity of the file
    ``stem`` of ``files``.
    """

    folder: str
    check: str
    files: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Operator:
    """One attention operator.

    ``q: [B, Hq, Lq, D]``, ``k: [B, Hkv, Lk, D]``, ``v: [B, Hkv, Lk, Dv]``; Hkv divides Hq; the queries are the last Lq
    of Lk positions. All functions take by keyword ``causal`` and ``scale`` (None: the operator's own default), vision
    operators also ``grid=(h, w)``, and ``settings``; those of an ``Operator`` also take the fields of the settings one
    by one (``with_settings``).

    Parameters
    ----------
    settings : frozen dataclass
        The operator's parameters with their defaults; raises ``ValueError`` for what is out of range.
    reference : callable (q, k, v, *, causal, scale, ...) -> out [B, Hq, Lq, Dv]
        The equations, dense and obvious, on the inputs' device; in float64 it is the truth.
    phases : tuple of Phase
        One, ``attend(q, k, v, ...)``, where nothing is chosen; else ``select(q, k, ...) -> Selection`` and then
        ``attend(q, k, v, selection, ...)``. Together they are the same result in linear memory. Each has its
        formulations in order of preference: a new kernel is one more.
    cost : callable (Shape, settings) -> Cost
        Prediction from sizes alone.
    fused : callable (q, k, v, *, backend, ...) or None
        Runs both phases piece by piece, so that no whole selection is held, as one node of a graph.
    whole : callable (q, k, v, *, backend, ...) or None
        Runs the phases in its own way, visible to a graph: where a setting is a module, or the engine is PyTorch's.
        None: one phase after the other, as one node of a graph.
    rows : callable or None
        ``rows(q, k, v, rows, *, causal, scale, ...)``: the operator's exact result for the queries ``rows`` (int64
        [R]) -> [B, Hq, R, Dv] in float32 or float64, for operators that do not approximate softmax attention. None:
        softmax attention is the truth.
    decoder : callable or None
        ``decoder(q, k, v, *, scale, ...) -> step``: with keys and values of the whole cache prepared outside the clock,
        ``step()`` computes the last query's output, and ``cost`` at Lq = 1 is that of the step alone. None: ``blocked``
        with Lq = 1 is the decode step.
    session : callable or None
        ``session(scale=..., ...)``: a decoder that keeps its choice of keys between steps; its ``step(q, k, v)`` takes
        the newest query and the whole cache.
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
    returns_lse : bool
        Whether its last phase takes ``return_lse=True`` and then also returns the log-sum-exp of the scaled scores that
        a query attends to: [B, Hq, Lq], minus infinity for one that attends to none.
    exact : bool
        It leaves nothing out: an error above rounding is a fault.
    compiled : bool
        It compiles for minutes, or needs a package or a GPU: measured when named, or with --peers.
    small : mapping
        Parameters with which it leaves something out at 256 tokens, for the tests over all operators.
    golden : Golden or None
        Vectors of the official implementation.

    Attributes
    ----------
    blocked : callable (q, k, v, *, causal, scale, backend, ...) -> out
        All phases; one node of a graph unless ``whole`` is given.
    select, attend : callables or None
        The phases by themselves; around them a graph is left. ``select`` is None where nothing is chosen.
    backends : frozenset of str
        What ``backend`` may be.
    """

    settings: type[Any]
    reference: Callable[..., Tensor]
    phases: tuple[Phase, ...]
    cost: Callable[..., Cost]
    fused: Callable[..., Tensor] | None = None
    whole: Callable[..., Tensor] | None = None
    rows: Callable[..., Tensor] | None = None
    decoder: Callable[..., Callable[[], Tensor]] | None = None
    session: Callable[..., Any] | None = None
    at_budget: Callable[[int, Shape], dict[str, Any]] | None = None
    decode_only: frozenset[str] = frozenset()
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    no_budget: str = "it attends to every key."
    causal: tuple[bool, ...] = (True, False)
    grid: bool = False
    decodes: bool = True
    differentiable: bool = False
    returns_lse: bool = False
    exact: bool = False
    compiled: bool = False
    small: Mapping[str, Any] = field(default_factory=dict)
    golden: Golden | None = None
    blocked: Callable[..., Tensor] = field(init=False)
    select: Callable[..., Any] | None = field(init=False)
    attend: Callable[..., Tensor] = field(init=False)
    backends: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        keywords = with_settings(self.settings)
        offered = {name for name in BACKENDS if any(phase.offers(name) for phase in self.phases)}
        *select, attend = (outside_graphs(keywords(phase)) for phase in self.phases)  # a selection is no tensor
        made: dict[str, Any] = {
            "backends": frozenset(offered | {"reference"}),
            "select": select[0] if select else None,
            "attend": attend,
            "cost": keywords(self.cost),
            "rows": self.rows and keywords(self.rows),
            "decoder": self.decoder and keywords(self.decoder),
            "session": self.session and keywords(self.session),
        }
        if self.whole:
            made |= {"blocked": keywords(self.whole), "reference": keywords(self.reference)}
        else:
            made |= {"blocked": self._as_one_node("blocked", self.fused or self._run)}
            made |= {"reference": self._as_one_node("reference", self.reference)}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
        return self.blocked(q, k, v, **arguments)

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, *, backend: str = "auto", return_lse: bool = False, **arguments: Any
    ) -> Any:  # fmt: skip
        """One phase after the other. ``backend`` binds the phases that have it."""
        *select, attend = self.phases
        selection = [phase(q, k, backend=_bound(phase, backend), **arguments) for phase in select]
        if return_lse:
            arguments["return_lse"] = True
        return attend(q, k, v, *selection, backend=_bound(attend, backend), **arguments)

    @outside_graphs
    def with_lse(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
        """``blocked``, and the log-sum-exp with it, where ``returns_lse``; around it a graph is left."""
        if not torch.is_grad_enabled():
            q, k, v = q.detach(), k.detach(), v.detach()
        run = with_settings(self.settings)(self.whole or self._run)
        out, lse = run(q, k, v, return_lse=True, **arguments)
        return out, lse

    def _as_one_node(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        options: dict[str, tuple[Any, ...]] = {"causal": (bool, *self.causal[: len(self.causal) % 2])}
        if self.grid:
            options["grid"] = (tuple[int, int],)
        options["scale"] = (float | None, None)
        if name == "blocked":
            options["backend"] = (str, "auto")
        return one_node(function, self.settings, name=name, module=self.reference.__module__, options=options)

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The operator's own parameters, by name: the fields of its settings."""
        return parameters_of(self.settings)

    def check_effects(self, name: str, given: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for a parameter of ``given`` that would have no effect beside the others."""
        every = {key: parameter.default for key, parameter in self.parameters.items()} | dict(given)
        for parameter, (needed, holds) in self.conditions.items():
            if parameter in given and not holds(every):
                raise ValueError(
                    f"{name}: {parameter} would have no effect without {needed}. Leave it out, or add that."
                )


def _bound(phase: Phase, backend: str) -> str:
    """What ``backend`` means for one phase: a kernel for one of two is forced where it is."""
    return backend if backend == "blocked" or phase.offers(backend) else "auto"


def shape_of(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, grid: tuple[int, int] | None = None) -> Shape:
    """The sizes of a call."""
    return Shape(
        q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], causal, q.itemsize, grid
    )
