"""Filter2Noise's attention: one head of width 8 over some thousand patches, without the N×N matrix.

Specification: methods/filter2noise.md, section 3.3, steps 7 and 8. On the CPU in float32 a fused kernel runs
(``attention_centred``); elsewhere PyTorch's fused attention is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...choose import Formulation, Phase

WIDTH = 8


def attention(q: Tensor, k: Tensor, v: Tensor, *, backend: str = "auto") -> Tensor:
    """softmax(q k^T / sqrt(D)) v in memory that grows with N, not N^2.

    Parameters
    ----------
    q, k, v : Tensor, shape (B, N, 8), float32 or float64
        Any width is accepted; 8 is fast.
    backend : {"auto", "reference", "torch", "cpu"}
        ``cpu``: a fused kernel for float32 on the CPU. ``torch``: PyTorch's fused attention. ``reference`` forms the
        matrix, in any dtype. ``auto``: the first of these that takes the tensors.

    Returns
    -------
    Tensor, shape and dtype of ``v``.

    Raises
    ------
    ValueError
        If the backend is not known, or cannot take these tensors. The message says why.

    References
    ----------
    methods/filter2noise.md, section 3.3, steps 7 and 8.
    """
    out: Tensor = ATTENTION(q, k, v, backend=backend)
    return out


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Steps 7 and 8 with the matrix, in any dtype."""
    scores: Tensor = q @ k.mT * q.shape[-1] ** -0.5  # [B, N, N]
    return scores.softmax(-1) @ v


def fused_by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's fused attention."""
    pad = -q.shape[-1] % 16  # a head of 16 reaches the tensor cores and the CPU's vector path
    scale = q.shape[-1] ** -0.5
    q, k, v = (F.pad(t, (0, pad))[:, None] for t in (q, k, v))  # [B, 1, N, 16]
    out: Tensor = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out[:, 0, :, : v.shape[-1] - pad]


def _refuses(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    if q.device.type == "cpu" and q.dtype == torch.float32 and q.shape[-1] == WIDTH and q.shape == k.shape == v.shape:
        return None
    shapes = ", ".join(str(list(x.shape)) for x in (q, k, v))
    return f"takes float32 CPU tensors [B, N, {WIDTH}] of one shape, not {q.dtype} on {q.device}, {shapes}"


ATTENTION = Phase(
    "attention of Filter2Noise",
    (
        Formulation("centred, numba", "cpu", "attn.core.denoise.filter2noise.attention_centred:centred", _refuses),
        Formulation("fused, torch", "torch", fused_by_torch),
        Formulation("the matrix", "reference", reference),
    ),
)
