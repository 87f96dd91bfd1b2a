"""Superlinear attention, gradients of steps 5 and 6, fast: the groups of the forward pass, five products each.

The softmax of a span and its window is split in two by their shares of its mass. With the share and the gate in two
numbers per span, c0 = gate * share and c1 = c0 * (grad . output of the joint softmax), spans and windows are alike:
dS = P (c0 grad . v - c1) and the weight of a value is c0 P, P the softmax of the span by itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...jit import exp2_negative, kernel
from ...threads import bands, kernels_own_the_threads, run
from .spans_cpu import ROWS, Head, gates, heads_of

if TYPE_CHECKING:
    from .comb import Spans

Array = np.ndarray[Any, Any]
_PORTIONS = 16  # each sums key gradients of its own; a fixed number, so that sums do not depend on the threads
_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel(
    "void(float32[:,::1],int32[:,::1],float32[::1],float32[::1],float32[:,::1],float32[:,::1],float32[::1],float32[::1],"
    "float32[:,::1],int64,int64)"
)
def _coefficients(
    partial: Array, place: Array, top: Array, total: Array, gate: Array, grad: Array, c0: Array, c1: Array,
    d_score: Array, start: int, stop: int,
) -> None:  # fmt: skip
    """``c0``, ``c1`` [N] of the spans of rows start..stop-1, and the gradient of the gates' logits [Lq, k]."""
    count = gate.shape[1]
    for row in range(start, stop):
        near, g = place[row, count], grad[row]
        own = _ZERO
        if near >= 0:
            for d in range(g.shape[0]):
                own += g[d] * partial[near, d]
            own /= total[near]
        n0, n1, mean = _ZERO, _ZERO, _ZERO
        for j in range(count):
            far, factor = place[row, j], gate[row, j]
            far_share, delta = _ZERO, own
            if far >= 0:
                other = _ZERO
                for d in range(g.shape[0]):
                    other += g[d] * partial[far, d]
                other /= total[far]
                far_share = _ONE
                if near >= 0:
                    highest = max(top[near], top[far])
                    a = exp2_negative(top[near] - highest) * total[near]
                    b = exp2_negative(top[far] - highest) * total[far]
                    far_share = b / (a + b)
                delta = far_share * other + (_ONE - far_share) * own
                c0[far] = factor * far_share
                c1[far] = c0[far] * delta
            n0 += factor * (_ONE - far_share)
            n1 += factor * (_ONE - far_share) * delta
            d_score[row, j] = delta
            mean += factor * delta
        if near >= 0:
            c0[near], c1[near] = n0, n1
        for j in range(count):
            d_score[row, j] = gate[row, j] * (d_score[row, j] - mean)


@kernel(
    "void(float32[:,::1],float32[:,::1],int32[::1],int32[::1],int64,float32[::1],float32[::1],float32[::1],float32[::1])"
)
def _gradients(
    scores: Array,
    products: Array,
    start: Array,
    stop: Array,
    first: int,
    top: Array,
    total: Array,
    c0: Array,
    c1: Array,
) -> None:
    """Scores [R, N] to c0 P and ``products``, grad . v, to dS, inside each row's span; 0 outside."""
    for row in range(scores.shape[0]):
        lo, hi = start[row] - first, stop[row] - first
        for line in (scores[row], products[row]):
            line[:lo] = _ZERO
            line[hi:] = _ZERO
        s, p = scores[row][lo:hi], products[row][lo:hi]
        highest, share, a, b = top[row], _ONE / total[row], c0[row], c1[row]
        for i in range(s.shape[0]):
            weight = share * exp2_negative(s[i] - highest)
            s[i] = a * weight
            p[i] = weight * (a * p[i] - b)


@kernel("void(float32[:,::1],int32[:,::1],float32[:,::1],int64,int64)")
def _sum_spans(parts: Array, place: Array, out: Array, start: int, stop: int) -> None:
    """Rows start..stop-1 of ``out``: sums over the spans of a query, in the order of their scores."""
    for row in range(start, stop):
        o = out[row]
        for d in range(o.shape[0]):
            o[d] = _ZERO
        for j in range(place.shape[1]):
            if place[row, j] >= 0:
                p = parts[place[row, j]]
                for d in range(o.shape[0]):
                    o[d] += p[d]


class Portion(NamedTuple):
    """Some groups of a head, and the gradients of the keys first .. first + len(d_k) - 1 from them."""

    edges: Array
    first: int
    d_k: Tensor
    d_v: Tensor


@torch.inference_mode()
def _some_groups(head: Head, grad: Tensor, c0: Array, c1: Array, parts: Tensor, portion: Portion) -> None:
    """Query gradients of the portion's spans into ``parts`` [N, D], key and value gradients into the portion."""
    torch.set_num_threads(1)
    weights, plan = _gradients(), head.plan
    widest = int((portion.edges[:, 3] - portion.edges[:, 2]).max())
    rows_q, rows_g = torch.empty(ROWS, head.q.shape[1]), torch.empty(ROWS, grad.shape[1])
    buffer = torch.empty(2, ROWS * widest)
    for lo, hi, first, last in portion.edges.tolist():
        size, width = hi - lo, last - first
        q = torch.index_select(head.q, 0, head.row[lo:hi], out=rows_q[:size])
        g = torch.index_select(grad, 0, head.row[lo:hi], out=rows_g[:size])
        scores, products = (x[: size * width].view(size, width) for x in buffer)
        torch.mm(q, head.k[first:last].T, out=scores)
        torch.mm(g, head.v[first:last].T, out=products)
        weights(
            scores.numpy(), products.numpy(), plan.start[lo:hi], plan.stop[lo:hi], first, head.top[lo:hi],
            head.total[lo:hi], c0[lo:hi], c1[lo:hi],
        )  # fmt: skip
        torch.mm(products, head.k[first:last], out=parts[lo:hi])
        portion.d_k[first - portion.first : last - portion.first].addmm_(products.T, q)
        portion.d_v[first - portion.first : last - portion.first].addmm_(scores.T, g)


def span_gradients(
    grad: Tensor, spans: Spans, scale: float, gate_scale: float, q_search: Tensor, k_search: Tensor, q: Tensor,
    k: Tensor, v: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q_search, k_search, q, k, v, float32, from ``grad`` [B, Hq, Lq, Dv]; arguments as in the forward."""
    d_search, d_anchor, d_q, d_k, d_v = totals = [torch.zeros(x.shape) for x in (q_search, k_search, q, k, v)]
    gate, len_q = gates(spans, gate_scale), q.shape[2]
    coefficients, sum_spans = _coefficients(), _sum_spans()
    _gradients()
    with kernels_own_the_threads():
        for at, kv, head in heads_of(q.detach(), k.detach(), v.detach(), spans, scale):
            g, place, edges = grad[at].float().contiguous(), head.plan.place, head.plan.edges
            c0, c1 = np.empty_like(head.top), np.empty_like(head.top)
            d_score = torch.empty(gate.shape[2:])
            arrays = (head.partial.numpy(), place, head.top, head.total, gate[at].numpy(), g.numpy(), c0, c1)
            run(coefficients, [(*arrays, d_score.numpy(), *band) for band in bands(len_q, 64)])
            parts, portions = torch.empty(len(c0), q.shape[3]), []
            for mine in np.array_split(edges, max(1, min(len(edges), _PORTIONS))):
                if len(mine):
                    first, count = int(mine[:, 2].min()), int(mine[:, 3].max() - mine[:, 2].min())
                    own = Portion(mine, first, torch.zeros(count, k.shape[3]), torch.zeros(count, v.shape[3]))
                    portions.append(own)
            run(_some_groups, [(head, g, c0, c1, parts, portion) for portion in portions])
            run(sum_spans, [(parts.numpy(), place, d_q[at].numpy(), *band) for band in bands(len_q, 64)])
            for portion in portions:
                d_k[kv][portion.first : portion.first + len(portion.d_k)] += portion.d_k
                d_v[kv][portion.first : portion.first + len(portion.d_v)] += portion.d_v
            anchors, d_score = spans.anchors[at].long().clamp_min(0), gate_scale * d_score
            for j in range(anchors.shape[1]):
                share = d_score[:, j, None]
                d_search[at] += share * k_search[kv][anchors[:, j]].float()
                d_anchor[kv].index_add_(0, anchors[:, j], share * q_search[at].float())
    d_q *= scale
    d_k *= math.log(2)  # head.q carries log2 e
    return totals
