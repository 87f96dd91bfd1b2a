"""Superlinear attention, steps 5 and 6 on the CPU: spans in groups, with their gradients. Same result as ``spans``."""

from __future__ import annotations

from torch import Tensor

from ..equations import again_where_not_finite
from .backward_cpu import span_gradients
from .comb import Spans
from .settings import Settings
from .spans import attend_by, chunked_attention
from .spans_cpu import span_attention


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: Spans, *, causal: bool = True, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """``spans.attend_by`` the kernels: sums in float32, and products, unless they are of bfloat16 pairs."""
    return attend_by(_forward, span_gradients, q, k, v, selection, scale, settings)


def _forward(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, gate_scale: float) -> Tensor:
    out = span_attention(q, k, v, spans, scale, gate_scale)
    return again_where_not_finite(out, lambda: chunked_attention(q, k, v, spans, scale, gate_scale))
