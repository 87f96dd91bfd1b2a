"""Sparsifiner: every query attends to the keys that a learned low-rank predictor names for it. Vision, not causal.

Paper: CVPR 2023, arXiv 2303.13755. Specification: methods/sparsifiner.md, sections 3.1, 3.2 and 7.
The predictor is in ``predictor``, the modules that train it in ``sparsifiner_vit``. Without a trained
predictor a random one is used: the time is that of the method, the keys mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...opaque import opaque, own_dtypes
from ...threads import run
from ..contract import Condition, Cost, Golden, Shape, Unphased
from ..equations import accumulator, attention_result, masked_attention, repeat_kv
from ..tokens.attend import TokenSelection, sparse_topk_attention
from ..tokens.top_k import top_k_positions
from .attend_cpu import attend_lists, select_rows
from .predictor import ConnectivityPredictor, Rules, ScaleRule, key_budget, random_predictor, sparse_coefficients

_ROWS = 256  # queries of one piece of work; fixed, so that results do not depend on the number of threads
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class SparsifinerSelection:
    """A ``Selection``: ``lists`` for queries that have a prediction; the class token's query, if any, sees all keys.

    ``lists.indices`` int32 [B, Hq, R, K], R = N - ``first_row``.
    """

    lists: TokenSelection
    first_row: int

    @property
    def useful(self) -> int:
        """Distinct pairs attended to, over batch, heads and queries."""
        batch, heads = self.lists.indices.shape[:2]
        return self.lists.useful + batch * heads * self.first_row * self.lists.len_k

    @property
    def executed(self) -> int:
        """Pairs whose score is computed: there is no padding."""
        return self.useful

    @property
    def searched(self) -> int:
        """Reduced queries times pooled keys. The guess at all N keys that follows reads no key."""
        return self.lists.searched

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: what the queries ``rows`` (int64 [R]) attend to."""
        if not self.lists.indices.shape[2]:
            return torch.ones(
                *self.lists.indices.shape[:2], len(rows), self.lists.len_k, dtype=torch.bool, device=rows.device
            )
        mask = self.lists.mask((rows - self.first_row).clamp_min(0))
        return mask | (rows < self.first_row)[:, None].to(mask.device)


@dataclass(frozen=True)
class _Plan:
    """What the choice of keys needs: ``query`` [B, H, R, c] (scaled), ``pooled`` [B, H, c, n], ``basis`` [n, N]."""

    rules: Rules
    budget: int
    query: Tensor
    pooled: Tensor
    basis: Tensor

    @classmethod
    def make(cls, q: Tensor, k: Tensor, rules: Rules, predictor: ConnectivityPredictor, budget: int) -> _Plan:
        """Steps 1, 2 and 4."""
        return cls(rules, budget, *_reduced(q, k, rules, predictor))

    @property
    def topk(self) -> int:
        """Basis vectors of a query's prediction."""
        return min(self.rules.topk_coef, self.basis.shape[0])

    def pieces(self) -> list[tuple[int, int, int]]:
        """(batch entry, head, first row) of all pieces of work."""
        batch, heads, rows, _ = self.query.shape
        return [(b, h, start) for b in range(batch) for h in range(heads) for start in range(0, rows, _ROWS)]

    def choose(self, b: int, h: int, start: int, index: NDArray[np.int32], first: int) -> None:
        """Steps 3-7 of one piece, float32 on the CPU, into rows ``first``.. of ``index`` [., K]."""
        coef, approx = np.empty(self.basis.shape[0], np.float32), np.empty(self.basis.shape[1], np.float32)
        keys = np.empty(len(approx) + 1, np.int32)
        stop = min(start + _ROWS, self.query.shape[2])
        query, pooled = self.query[b, h].numpy(), self.pooled[b, h].numpy()
        select_rows()(query, pooled, self.basis.numpy(), self.topk, index, coef, approx, keys, start, stop, first)

    def chosen(self, b: int, h: int, start: int) -> Tensor:
        """Steps 3-7 of one piece, in torch: int32 [rows, K]."""
        coef = (self.query[b, h, start : start + _ROWS] @ self.pooled[b, h]).softmax(-1)
        return top_k_positions(sparse_coefficients(coef, self.rules) @ self.basis, self.budget)


def _reduced(
    q: Tensor, k: Tensor, rules: Rules, predictor: ConnectivityPredictor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``query``, ``pooled`` and ``basis`` of a plan, without gradient."""
    with torch.no_grad(), own_dtypes(q.device.type):
        query, pooled = predictor.reduced(q, repeat_kv(k, q.shape[1]), rules)
        return query.contiguous(), pooled.contiguous(), predictor.basis(rules, query.dtype).contiguous()


def _settings(
    q: Tensor, k: Tensor, *, keep_ratio: float = 0.25, reduce_n: int = 6, reduce_c: int = 2, topk_coef: int = 8,
    basis_threshold: float = 0.02, scale_rule: ScaleRule = "code", class_token: bool = True,
    predictor: ConnectivityPredictor | None = None, seed: int = 0,
) -> tuple[Rules, ConnectivityPredictor, int]:  # fmt: skip
    """Rules, predictor and keys per query. Raises ``ValueError`` for parameters out of range."""
    rules, budget = _rules(k, keep_ratio, topk_coef, basis_threshold, scale_rule, class_token)
    if predictor is None:
        predictor = random_predictor(k.shape[2], k.shape[3], reduce_n, reduce_c, seed, q.device)
    return rules, predictor, budget


def _rules(
    k: Tensor, keep_ratio: float, topk_coef: int, basis_threshold: float, scale_rule: ScaleRule, class_token: bool
) -> tuple[Rules, int]:
    """Rules and keys per query. Raises ``ValueError`` for parameters out of range."""
    if topk_coef < 1:
        raise ValueError(f"topk_coef is {topk_coef}: it must be positive.")
    rules = Rules(topk_coef, basis_threshold=basis_threshold, scale_rule=scale_rule, class_token=class_token)
    return rules, key_budget(k.shape[2], keep_ratio)


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, **params: Any
) -> Tensor:
    """The equations, dense: predict, keep the best keys of each query, attend to them. ``params`` as in ``blocked``."""
    rules, predictor, _ = _settings(q, k, **params)
    keep_ratio = params.get("keep_ratio", 0.25)
    with own_dtypes(q.device.type):
        mask = predictor(q, repeat_kv(k, q.shape[1]), rules, keep_ratio=keep_ratio).mask
        return masked_attention(q, k, v, mask, scale=scale)


def blocked(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, keep_ratio: float = 0.25,
    reduce_n: int = 6, reduce_c: int = 2, topk_coef: int = 8, basis_threshold: float = 0.02,
    scale_rule: ScaleRule = "code", class_token: bool = True, predictor: ConnectivityPredictor | None = None,
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """Sparsifiner attention without any N x N tensor.

    Parameters
    ----------
    q, k, v : Tensor
        As in ``attention``; Lq = Lk = N. Heads that share keys choose for themselves.
    causal : bool
        False.
    scale : float, optional
        Of the attention; default ``D ** -0.5``.
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

    Returns
    -------
    Tensor [B, Hq, N, Dv], dtype of ``q``. Gradients reach q, k and v through the attention; the choice has none.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the predictor was made for another N or D.

    References
    ----------
    methods/sparsifiner.md, sections 3.1, 3.2 and 7(c).
    """
    query = pooled = basis = None
    if predictor is not None:
        rules, _ = _rules(k, keep_ratio, topk_coef, basis_threshold, scale_rule, class_token)
        query, pooled, basis = _reduced(q, k, rules, predictor)
    return _predicted(
        q, k, v, query, pooled, basis, scale, keep_ratio, reduce_n, reduce_c, topk_coef, basis_threshold, scale_rule,
        class_token, seed,
    )  # fmt: skip


@opaque(attention_result)
def _predicted(
    q: Tensor, k: Tensor, v: Tensor, query: Tensor | None, pooled: Tensor | None, basis: Tensor | None,
    scale: float | None, keep_ratio: float, reduce_n: int, reduce_c: int, topk_coef: int, basis_threshold: float,
    scale_rule: ScaleRule, class_token: bool, seed: int,
) -> Tensor:  # fmt: skip
    """``blocked``, with what the predictor made of q and k: ``_reduced``. None: the untrained predictor."""
    rules, budget = _rules(k, keep_ratio, topk_coef, basis_threshold, scale_rule, class_token)
    if query is None or pooled is None or basis is None:
        predictor = random_predictor(k.shape[2], k.shape[3], reduce_n, reduce_c, seed, q.device)
        query, pooled, basis = _reduced(q, k, rules, predictor)
    plan = _Plan(rules, budget, query, pooled, basis)
    if not _fast(q, k, v):
        return attend(q, k, v, _lists(q, k, plan), scale=scale)
    work = _Attention(q, k, v, plan.rules.first_row, scale)

    def piece(b: int, h: int, start: int) -> None:
        index = np.empty((min(_ROWS, plan.query.shape[2] - start), plan.budget), dtype=np.int32)
        plan.choose(b, h, start, index, 0)
        work.piece(b, h, start, index, 0)

    run(piece, plan.pieces())
    return work.out.to(q.dtype)


def select(
    q: Tensor, k: Tensor, *, causal: bool = False, scale: float | None = None, **params: Any
) -> SparsifinerSelection:
    """First phase of ``blocked``: the key lists of all queries, 4 bytes x keys per query and head."""
    return _lists(q, k, _Plan.make(q, k, *_settings(q, k, **params)))


def _lists(q: Tensor, k: Tensor, plan: _Plan) -> SparsifinerSelection:
    """``select`` by a plan."""
    batch, heads, rows, _ = plan.query.shape
    index = torch.empty(batch, heads, rows, plan.budget, dtype=torch.int32, device=q.device)
    if plan.basis.dtype == torch.float32 and q.device.type == "cpu":
        lists = index.numpy()
        run(lambda b, h, start: plan.choose(b, h, start, lists[b, h], start), plan.pieces())
    else:
        for b, h, start in plan.pieces():
            index[b, h, start : start + _ROWS] = plan.chosen(b, h, start)
    searched = batch * heads * rows * plan.basis.shape[0]
    return SparsifinerSelection(TokenSelection(index, heads, k.shape[2], searched), plan.rules.first_row)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: SparsifinerSelection, *, causal: bool = False,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Second phase of ``blocked``."""
    first = selection.first_row
    if _fast(q, k, v):
        work = _Attention(q, k, v, first, scale)
        lists = selection.lists.indices.numpy()
        starts = range(0, q.shape[2] - first, _ROWS)
        pieces = [(b, h, start) for b in range(q.shape[0]) for h in range(q.shape[1]) for start in starts]
        run(lambda b, h, start: work.piece(b, h, start, lists[b, h], start), pieces)
        return work.out.to(q.dtype)
    keys, values = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    rest = sparse_topk_attention(q[:, :, first:], keys, values, selection.lists.indices, scale)
    return torch.cat([masked_attention(q[:, :, :first], k, v, None, scale=scale), rest], 2)


class _Attention:
    """Attention over lists, float32 on the CPU: ``out`` [B, Hq, N, Dv] has the class token's row from the start."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, first_row: int, scale: float | None) -> None:
        self.q, self.k, self.v = (x.detach().to(torch.float32).contiguous() for x in (q, k, v))
        self.first_row, self.group = first_row, q.shape[1] // k.shape[1]
        self.factor = np.float32((q.shape[-1] ** -0.5 if scale is None else scale) * _LOG2_E)
        self.out = torch.empty(*q.shape[:3], v.shape[3])
        self.out[:, :, :first_row] = masked_attention(self.q[:, :, :first_row], self.k, self.v, None, scale=scale)

    def piece(self, b: int, h: int, start: int, index: NDArray[np.int32], first: int) -> None:
        """At most ``_ROWS`` queries from the ``start``-th that has a list, which is row ``first`` of ``index``."""
        score, row = np.empty(index.shape[1], np.float32), start + self.first_row
        kv, stop = h // self.group, min(row + _ROWS, self.q.shape[2])
        attend_lists()(
            self.q[b, h].numpy(), self.k[b, kv].numpy(), self.v[b, kv].numpy(), index, self.out[b, h].numpy(), score,
            self.factor, row, stop, first,
        )  # fmt: skip


def _fast(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernels can do it: on the CPU, in float32 inside, without gradients."""
    graph = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return q.device.type == "cpu" and accumulator(q.dtype) == torch.float32 and not graph


def cost(
    shape: Shape, *, keep_ratio: float = 0.25, reduce_n: int = 6, reduce_c: int = 2, topk_coef: int = 8,
    class_token: bool = True, **params: Any,
) -> Cost:  # fmt: skip
    """Prediction for ``blocked`` with an untrained predictor."""
    heads, tokens, dim = shape.batch * shape.num_heads, shape.len_k, shape.head_dim
    pooled, channels = max(1, tokens // reduce_n), max(1, dim // reduce_c)
    budget = key_budget(tokens, keep_ratio)
    predict = 2 * tokens * dim * channels + 2 * tokens * channels * pooled  # reduced q, k; coefficients and pooling
    predict += tokens * min(topk_coef, pooled) * tokens
    attended = budget + int(class_token) * (tokens - budget) / tokens
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
OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    select=select,
    attend=attend,
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
