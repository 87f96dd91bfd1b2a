"""flash-linear-attention: linear attention with decay by its chunked Triton kernels, on the terms of ``lightning``.

Package flash-linear-attention, ``fla.ops.simple_gla.chunk_simple_gla`` with one constant log decay per head. It needs a
GPU. Its tensors are [B, L, H, D]; its decay is -slope; there is no 1/sqrt(D) unless asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from ..choose import Formulation, Phase
from .contract import Cost, Operator, Shape
from .equations import repeat_kv
from .lightning import operator as lightning
from .lightning.decay import LayerDecay, Settings


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: LayerDecay
) -> Tensor:
    """The quadratic form of lightning attention."""
    return lightning.reference(q, k, v, causal=causal, scale=scale, settings=settings)


def _refuses(q: Tensor, *_: Any, **__: Any) -> str | None:
    if q.device.type == "cpu":
        return "its kernels run on a GPU only and the tensors are on the CPU. Use lightning there"
    return None


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: LayerDecay
) -> Tensor:
    """The package's chunked kernel; tensors on a GPU."""
    k, v = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    log_decay = -settings.rate(q.shape[1], q.device)
    chunk = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    first = (x.transpose(1, 2).contiguous() for x in (q, k, v))  # [B, L, H, D]
    out: Tensor = chunk(*first, g_gamma=log_decay, scale=1.0 if scale is None else scale)[0]
    return out.transpose(1, 2)


def cost(shape: Shape, *, settings: LayerDecay) -> Cost:
    """That of lightning attention with the package's chunks of 64."""
    return lightning.cost(shape, settings=Settings(block_size=64))


OPERATOR = Operator(
    settings=LayerDecay,
    reference=reference,
    phases=(Phase("fla", (Formulation("the package's kernel", "torch", attend, _refuses),)),),  # no kernel of ours
    cost=cost,
    rows=lightning.rows,
    no_budget="its state sums up all of them.",
    causal=(True,),
    decodes=False,
    differentiable=True,
    compiled=True,
)
