"""Which matrix product is the fast one on this processor, by what it can do: the one place that decides.

PyTorch's ``mm`` in float32 is MKL's, which takes AVX-512 on Intel's processors only; oneDNN takes it on all. A bfloat16
product is fast where the processor has one (AVX512_BF16, AMX) and emulated, many times slower, elsewhere. PyTorch's
``scaled_dot_product_attention`` packs its blocks for AMX where oneDNN may use that, and is fast there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cpu import cpu

_MULTIPLE = 16
_SMALL = 1 << 20  # multiplications; a call of oneDNN costs 8 us more than one of MKL
_FEW_AVX512, _FEW_AVX2 = 512, 4096  # keys
Product = Callable[[Tensor, Tensor], Tensor]


def float32_product() -> Product:
    """The function ``(a [M, K], b [N, K]) -> a bᵀ [M, N]`` in float32 that is the fastest here.

    Both may be strided (``b = x.mT`` for a product with ``x``); K is at least 1. It records no gradient, computes on
    the calling thread where that is set to one, and may be called from several at a time. oneDNN compiles for a
    millisecond at each new shape: let M, N and K be multiples of 16 (``whole``), so that there are few.
    """
    return _onednn if _onednn_leads() else _mm


def whole(count: int) -> int:
    """``count`` rounded up to a size that ``float32_product`` is likely to have met."""
    return -(-count // _MULTIPLE) * _MULTIPLE


def bf16_is_native() -> bool:
    """Whether the processor has products of bfloat16 (and oneDNN may use them); else they are emulated."""
    return cpu().avx512_bf16 or cpu().amx_bf16


def sdpa_is_fast(dtype: torch.dtype) -> bool:
    """Whether PyTorch's attention computes ``dtype`` by AMX, several times faster than float32 products are."""
    here = cpu()
    return (dtype == torch.bfloat16 and (here.amx_bf16 or here.mkl_amx)) or (dtype == torch.float16 and here.amx_fp16)


def sdpa_leads(dtype: torch.dtype, keys: int) -> bool:
    """Whether PyTorch's attention is at least as fast, on all of so many keys, as tiles of ``float32_product``.

    It is by AMX, and wherever both use the same products: its softmax is in the same kernel. It is on few keys, whose
    tiles are not worth the steps around them; the more so where oneDNN's products are but a little faster.
    """
    few = _FEW_AVX512 if cpu().avx512 else _FEW_AVX2
    return sdpa_is_fast(dtype) or not _onednn_leads() or keys < few


def _onednn_leads() -> bool:
    here = cpu()
    return here.avx2 and not here.intel and torch._C._has_mkldnn


def _mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b.mT)


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[0] < _MULTIPLE or a.shape[0] * b.shape[0] * b.shape[1] < _SMALL:
        return _mm(a, b)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return product
