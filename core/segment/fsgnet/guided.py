"""The attention-guided fast guided filter of FSG-Net.

Paper: arXiv 2501.18921 (2025), after AG-Net (2019). Specification: methods/fsg-net.md, section 3.2; step numbers are
its numbers. Differs from the official code in two ways: means come from average pooling, which holds float32 to 3e-7
where the official cumulative sums need float64 (section 7); and step 8 is taken per image unless ``batch_coupled``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS, EPS = 2, 1e-2


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned: [B, C, h, w] -> [B, C, *size]. All of the network's resizing."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """``resize`` to the size of ``like``."""
    return resize(x, (like.shape[2], like.shape[3]))


def window_mean(x: Tensor, radius: int = RADIUS) -> Tensor:
    """Step 7, m(x): mean over the (2r+1)² window, cut at the border. [B, C, h, w] -> the same."""
    return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def window_count(size: tuple[int, int], radius: int = RADIUS, *, like: Tensor) -> Tensor:
    """Step 7, N: pixels in each window. -> [1, 1, h, w]"""

    def along(length: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        return (place + radius).clamp(max=length - 1) - (place - radius).clamp(min=0) + 1

    return (along(size[0])[:, None] * along(size[1])).to(like.dtype)[None, None]


def coefficients(
    low: Tensor, target: Tensor, attention: Tensor, *, radius: int = RADIUS, eps: float = EPS,
    batch_coupled: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Steps 8-10: A and b of the local linear model ``target ~ A * low + b``. All [B, C, h, w]."""
    a = attention.abs() + 1e-12  # [B, 1, h, w]
    t = a / (a.sum() if batch_coupled else a.sum((1, 2, 3), keepdim=True))
    count = window_count((low.shape[2], low.shape[3]), radius, like=low)
    al = a * low
    m_a = window_mean(a, radius)
    m_ax, m_ay = window_mean(al, radius), window_mean(a * target, radius)
    m_aax, m_aaxx = window_mean(al * a * target, radius), window_mean(al * al, radius)
    n_tax = count * window_mean(t * al, radius)
    slope = (m_aax - n_tax * m_ay) / ((m_aaxx - n_tax * m_ax).abs() + eps)
    return slope, (m_ay - slope * m_ax) / m_a


def guided_filter(
    low: Tensor, target: Tensor, high: Tensor, attention: Tensor, *, radius: int = RADIUS, eps: float = EPS,
    batch_coupled: bool = False,
) -> Tensor:  # fmt: skip
    """Bring ``target`` to the resolution of the guide ``high`` along its edges, weighted by an attention map.

    Parameters
    ----------
    low, target : Tensor, shape (B, C, h, w), float32 or float64
        The guide at low resolution, and what is to be upsampled. Half precision is computed in float32: the products
        of squares overflow float16 (section 9, pitfall 7).
    high : Tensor, shape (B, C, H, W)
        The guide at the resolution wanted.
    attention : Tensor, shape (B, 1, h, w)
        Weights of the pixels; their sign is ignored.
    radius : int
        Of the window, in pixels of ``low``; larger smooths more.
    eps : float, dimensionless
        Guards flat guides: larger gives a smoother copy of ``target``.
    batch_coupled : bool
        Normalise the attention over the whole batch as the official code does, instead of per image.

    Returns
    -------
    Tensor, shape (B, C, H, W), dtype of ``high``.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a side of ``low`` is not larger than the window ``2 * radius + 1``.

    References
    ----------
    methods/fsg-net.md, section 3.2, steps 7-11; arXiv 2501.18921.
    """
    h, w = low.shape[-2:]
    if target.shape != low.shape or high.shape[:2] != low.shape[:2]:
        raise ValueError(f"low {list(low.shape)}, target {list(target.shape)} and high {list(high.shape)} do not fit.")
    if attention.shape != (low.shape[0], 1, h, w):
        raise ValueError(f"attention is {list(attention.shape)}, must be {[low.shape[0], 1, h, w]}.")
    if min(h, w) <= 2 * radius + 1:
        raise ValueError(f"low is {h} x {w}: both sides must be larger than the window of {2 * radius + 1}.")
    dtype = high.dtype
    with torch.autocast(low.device.type, enabled=False):
        if dtype in (torch.float16, torch.bfloat16):
            low, target, high, attention = low.float(), target.float(), high.float(), attention.float()
        slope, offset = coefficients(low, target, attention, radius=radius, eps=eps, batch_coupled=batch_coupled)
        slope, offset = window_mean(slope, radius), window_mean(offset, radius)
        size = (high.shape[2], high.shape[3])
        return (resize(slope, size) * high + resize(offset, size)).to(dtype)  # step 11
