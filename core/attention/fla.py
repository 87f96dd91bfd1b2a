"""flash-linear-attention: linear attention with decay by its chunked Triton kernels, on the terms of ``lightning``.

Package flash-linear-attention, ``fla.ops.simple_gla.chunk_simple_gla`` with one constant log decay per head. It needs a
GPU. Its tensors are [B, L, H, D]; its decay is -slope; there is no 1/sqrt(D) unless asked for.
"""

from __future__ import annotations

import importlib

from torch import Tensor

from ..opaque import opaque
from .contract import Cost, Shape, Unphased
from .equations import attention_result, repeat_kv
from .lightning.operator import Decay, rows, slopes
from .lightning.operator import cost as lightning_cost
from .lightning.operator import reference as lightning_reference


@opaque(attention_result)
def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, decay: Decay = "code",
    layer: int = 0, num_layers: int = 1,
) -> Tensor:  # fmt: skip
    """The quadratic form of lightning attention."""
    return lightning_reference(q, k, v, causal=causal, scale=scale, decay=decay, layer=layer, num_layers=num_layers)


@opaque(attention_result)
def blocked(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, decay: Decay = "code",
    layer: int = 0, num_layers: int = 1,
) -> Tensor:  # fmt: skip
    """The package's chunked kernel.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, L, D], [B, Hkv, L, D], [B, Hkv, L, Dv], on a GPU
    decay, layer, num_layers
        The slopes, as for ``lightning``; custom ones are not offered here.

    Raises
    ------
    ValueError
        If the tensors are not on a GPU, or there is no such decay.
    """
    if q.device.type == "cpu":
        raise ValueError("fla: its kernels run on a GPU only and the tensors are on the CPU. Use lightning there.")
    k, v = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    log_decay = -slopes(q.shape[1], layer=layer, num_layers=num_layers, decay=decay).to(q.device)
    chunk = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    first = (x.transpose(1, 2).contiguous() for x in (q, k, v))  # [B, L, H, D]
    out: Tensor = chunk(*first, g_gamma=log_decay, scale=1.0 if scale is None else scale)[0]
    return out.transpose(1, 2)


def cost(shape: Shape, *, decay: Decay = "code", layer: int = 0, num_layers: int = 1) -> Cost:
    """That of lightning attention with the package's chunks of 64."""
    return lightning_cost(shape, block_size=64)


OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    rows=rows,
    no_budget="its state sums up all of them.",
    causal=(True,),
    decodes=False,
    differentiable=True,
    compiled=True,
)
