"""Sparsifiner: every query attends to the keys that a learned low-rank predictor names for it. Vision, not causal.

Paper: CVPR 2023, arXiv 2303.13755. Specification: methods/sparsifiner.md, sections 3.1, 3.2 and 7(c).
The predictor is in ``predictor``, the modules that train it in ``sparsifiner_vit``. Without a trained
predictor a random one is used: the time is that of the method, the keys mean nothing. No N x N tensor is made.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, Phase, choose
from ...opaque import opaque, own_dtypes
from ..contract import Condition, Cost, Golden, Operator, Shape
from ..equations import (
    accumulator,
    attention_result,
    masked_attention,
    needs_cpu_floats,
    repeat_kv,
    wants_gradient,
)
from ..tokens.attend import LISTS, sparse_topk_attention
from .predictor import ConnectivityPredictor, Rules, ScaleRule, key_budget, random_predictor
from .selection import ReducedOperands, SparsifinerSelection, lists


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """How many keys, and who names them.

    Parameters
    ----------
    keep_ratio : float
        Share of the keys a query attends to, in (0, 1].
    reduce_n, reduce_c : int
        Of the untrained predictor: N // reduce_n basis vectors, D // reduce_c channels. Larger: cheaper, coarser.
    topk_coef : int
        Basis vectors that make up the prediction of one query.
    basis_threshold : float
        Entries of the basis up to this are 0.
    scale_rule : {"code", "dim"}
        Scale of the prediction: number of heads, as in the official code, or reduced width, to the -1/2.
    class_token : bool
        Token 0 is a class token, whose query attends to all keys.
    predictor : ConnectivityPredictor, optional
        A trained one (``reduce_n``, ``reduce_c`` and ``seed`` then mean nothing). None: untrained, made from ``seed``.
    seed : int

    Raises
    ------
    ValueError
        If a parameter is out of range. Of the phases: if the predictor was made for another N or D.
    """

    keep_ratio: float = 0.25
    reduce_n: int = 6
    reduce_c: int = 2
    topk_coef: int = 8
    basis_threshold: float = 0.02
    scale_rule: ScaleRule = "code"
    class_token: bool = True
    predictor: ConnectivityPredictor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.topk_coef < 1:
            raise ValueError(f"topk_coef is {self.topk_coef}: it must be positive.")
        key_budget(1, self.keep_ratio)
        _ = self.rules

    @property
    def rules(self) -> Rules:
        """How a prediction becomes lists."""
        return Rules(
            self.topk_coef, basis_threshold=self.basis_threshold, scale_rule=self.scale_rule,
            class_token=self.class_token,
        )  # fmt: skip

    def predictor_for(self, k: Tensor) -> ConnectivityPredictor:
        """The trained one, or one for the sizes of k, on its device."""
        if self.predictor is not None:
            return self.predictor
        return random_predictor(k.shape[2], k.shape[3], self.reduce_n, self.reduce_c, self.seed, k.device)


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, settings: Settings
) -> Tensor:
    """The equations, dense: predict, keep the best keys of each query, attend to them."""
    predictor = settings.predictor_for(k)
    with own_dtypes(q.device.type):
        mask = predictor(q, repeat_kv(k, q.shape[1]), settings.rules, keep_ratio=settings.keep_ratio).mask
        return masked_attention(q, k, v, mask, scale=scale)


def _reduced(
    q: Tensor, k: Tensor, rules: Rules, predictor: ConnectivityPredictor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Steps 1, 2 and 4: ``query``, ``pooled`` and ``basis`` of ``ReducedOperands``, without gradient."""
    with torch.no_grad(), own_dtypes(q.device.type):
        query, pooled = predictor.reduced(q, repeat_kv(k, q.shape[1]), rules)
        return query.contiguous(), pooled.contiguous(), predictor.basis(rules, query.dtype).contiguous()


def _reduced_result(
    q: Tensor, k: Tensor, reduce_n: int, reduce_c: int, topk_coef: int, basis_threshold: float, scale_rule: ScaleRule,
    class_token: bool, seed: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    (batch, heads, tokens, dim), dtype = q.shape, accumulator(q.dtype)
    rank, channels = max(1, tokens // reduce_n), max(1, dim // reduce_c)
    shapes = (batch, heads, tokens - int(class_token), channels), (batch, heads, channels, rank), (rank, tokens)
    query, pooled, basis = (q.new_empty(shape, dtype=dtype) for shape in shapes)
    return query, pooled, basis


@opaque(_reduced_result)
def _reduced_untrained(
    q: Tensor, k: Tensor, reduce_n: int, reduce_c: int, topk_coef: int, basis_threshold: float, scale_rule: ScaleRule,
    class_token: bool, seed: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``_reduced`` by the untrained predictor, which no graph could make."""
    rules = Rules(topk_coef, basis_threshold=basis_threshold, scale_rule=scale_rule, class_token=class_token)
    return _reduced(q, k, rules, random_predictor(k.shape[2], k.shape[3], reduce_n, reduce_c, seed, q.device))


def select(
    q: Tensor, k: Tensor, *, causal: bool = False, scale: float | None = None, settings: Settings, engine: Formulation
) -> SparsifinerSelection:
    """The key lists of all queries, 4 bytes x keys per query and head. They have no gradient."""
    rules = settings.rules
    parts = _reduced(q, k, rules, settings.predictor_for(k))
    operands = ReducedOperands(rules, key_budget(k.shape[2], settings.keep_ratio), *parts)
    return operands.selection(engine.function(operands))


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: SparsifinerSelection, *, causal: bool = False,
    scale: float | None = None, settings: Settings | None = None, engine: Formulation,
) -> Tensor:  # fmt: skip
    """Over the lists, by the engine that all operators over lists have; differentiable."""
    first, keys, values = selection.first_row, repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    rest = sparse_topk_attention(q[:, :, first:], keys, values, selection.lists.indices, scale, engine)
    return torch.cat([masked_attention(q[:, :, :first], k, v, None, scale=scale), rest], 2)


def _refuses(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> str | None:
    return needs_cpu_floats(q) or ("has no gradients" if wants_gradient(q, k, v) else None)


KEYS = Phase(
    "sparsifiner",
    (
        Formulation("keys, numba", "cpu", "attn.core.attention.sparsifiner.attend_cpu:lists", needs_cpu_floats),
        Formulation("keys, torch", "torch", lists),
    ),
)
"""``lists(operands) -> int32 [B, H, R, K]``."""
ATTEND = Phase(
    "sparsifiner",
    (
        Formulation("rows, numba", "cpu", "attn.core.attention.sparsifiner.attend_cpu:attend", _refuses),
        *LISTS.used_by("sparsifiner", attend).formulations,
    ),
)


def _lists_first(
    q: Tensor, k: Tensor, v: Tensor, operands: ReducedOperands, scale: float | None, *, backend: str
) -> Tensor:
    """All lists, then attention over them."""
    selection = operands.selection(choose(KEYS, (operands.query,), backend).function(operands))
    out: Tensor = choose(ATTEND, (q, k, v), backend).function(q, k, v, selection, scale=scale)
    return out


FUSED = Phase(
    "sparsifiner",
    (
        Formulation("piece by piece, numba", "cpu", "attn.core.attention.sparsifiner.attend_cpu:fused", _refuses),
        Formulation("lists first, numba", "cpu", functools.partial(_lists_first, backend="cpu"), needs_cpu_floats),
        Formulation("lists first, torch", "torch", functools.partial(_lists_first, backend="torch")),
    ),
)
"""``fused(q, k, v, operands, scale) -> out``."""


def whole(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, settings: Settings,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Both phases. Gradients reach q, k and v through the attention; the choice has none."""
    rules = settings.rules
    if settings.predictor is not None:
        query, pooled, basis = _reduced(q, k, rules, settings.predictor)
    else:
        query, pooled, basis = _reduced_untrained(
            q.detach(), k.detach(), settings.reduce_n, settings.reduce_c, settings.topk_coef,
            settings.basis_threshold, settings.scale_rule, settings.class_token, settings.seed,
        )  # fmt: skip
    budget = key_budget(k.shape[2], settings.keep_ratio)
    return _over_lists(
        q, k, v, query, pooled, basis, scale, budget, settings.topk_coef, settings.class_token, backend
    )  # fmt: skip


@opaque(attention_result)
def _over_lists(
    q: Tensor, k: Tensor, v: Tensor, query: Tensor, pooled: Tensor, basis: Tensor, scale: float | None, budget: int,
    topk_coef: int, class_token: bool, backend: str,
) -> Tensor:  # fmt: skip
    """``whole`` behind the predictor, one node of a graph."""
    operands = ReducedOperands(Rules(topk_coef, class_token=class_token), budget, query, pooled, basis)
    out: Tensor = FUSED(q, k, v, operands, scale, backend=backend)
    return out


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """With an untrained predictor."""
    keep_ratio, topk_coef = settings.keep_ratio, settings.topk_coef
    heads, tokens, dim = shape.batch * shape.num_heads, shape.len_k, shape.head_dim
    pooled, channels = max(1, tokens // settings.reduce_n), max(1, dim // settings.reduce_c)
    budget = key_budget(tokens, keep_ratio)
    predict = 2 * tokens * dim * channels + 2 * tokens * channels * pooled  # reduced q, k; coefficients and pooling
    predict += tokens * min(topk_coef, pooled) * tokens
    attended = budget + int(settings.class_token) * (tokens - budget) / tokens
    flops = 2 * heads * (predict + tokens * attended * (dim + shape.value_dim))
    width = dim + shape.value_dim
    moved = heads * tokens * width + shape.batch * shape.num_kv_heads * tokens * width  # q and out; k and v
    gathered = 4 * heads * tokens * (attended * width + min(topk_coef, pooled) * tokens)  # keys, values, basis vectors
    return Cost(flops, moved * shape.itemsize + 4 * 2 * tokens * pooled + gathered, pooled, attended)


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """A quarter of the visited keys are pooled ones, or a sixth of all keys, as published, where that is fewer."""
    reduce_n = max(6, -(-4 * shape.len_k // max(1, keys)))
    attended = min(shape.len_k, max(1, keys - shape.len_k // reduce_n))
    return {"keep_ratio": attended / shape.len_k, "reduce_n": reduce_n}


_UNTRAINED = Condition("an untrained predictor (predictor=None)", lambda params: params["predictor"] is None)
OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(KEYS.used_by("sparsifiner", select), ATTEND),
    cost=cost,
    whole=whole,
    at_budget=at_budget,
    causal=(False,),
    decodes=False,
    conditions=dict.fromkeys(("reduce_n", "reduce_c", "seed"), _UNTRAINED),
    differentiable=True,
    small={"reduce_n": 8},
    golden=Golden(
        "sparsifiner",
        "attn.core.attention.sparsifiner.golden:check",
        ("attention_eval", "attention_recon", "losses", "tiny_model"),
    ),
)
