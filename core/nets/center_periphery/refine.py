"""What is done to one feature map: PPR (centre), NCM (periphery), and their fusion.

Specification: methods/astigmatism.md, sections 3.3 to 3.5, steps 10 to 15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Fusion = Literal["paper", "keep"]
SMALLEST_NORM = 1e-8


@dataclass(frozen=True, slots=True)
class Centre:
    """PPR of B maps: cosines with the class prototypes [B, K, h, w], weights of the same shape, mask [B, h, w] of 0 and
    1, and the positive map [B, C, h, w]."""

    similarity: Tensor
    weights: Tensor
    mask: Tensor
    positive: Tensor


@dataclass(frozen=True, slots=True)
class Periphery:
    """NCM of B maps: cosine with the background prototype and mask [B, h, w], and the negative map [B, C, h, w]."""

    similarity: Tensor
    mask: Tensor
    negative: Tensor


def cosines(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine of every cell of [B, C, h, w] with every row of [K, C], [B, K, h, w]; norms of at least 1e-8.

    One product of matrices: a broadcast would be K times as large as the map.
    """
    rows = prototypes / prototypes.norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM)
    norms = features.norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM)
    out: Tensor = torch.einsum("bchw,kc->bkhw", features, rows) / norms
    return out


def centre(
    features: Tensor, prototypes: Tensor, *, gamma: Tensor | float, threshold: float, temperature: float,
    known: Tensor | None = None,
) -> Centre:  # fmt: skip
    """PPR, steps 10 to 12.

    Parameters
    ----------
    features : Tensor [B, C, h, w]
    prototypes : Tensor [K, C]
    gamma : Tensor or float
        What the injection is multiplied by.
    threshold : float
        A cell is foreground where its largest cosine is above it.
    temperature : float
        Of the softmax over classes.
    known : Tensor of bool [K], optional
        Classes that have a prototype; others are given no weight and make no cell foreground.
    """
    similarity = cosines(features, prototypes)
    offered = similarity if known is None else similarity.masked_fill(~known[:, None, None], -torch.inf)
    mask = (offered.detach().amax(1) > threshold).to(features.dtype)
    if known is not None and not known.any():
        weights = torch.zeros_like(similarity)
    else:
        weights = (offered / temperature).softmax(1)
    injected = torch.einsum("bkhw,kc->bchw", weights, prototypes)
    return Centre(similarity, weights, mask, (features + gamma * injected) * mask[:, None])


def periphery(features: Tensor, prototype: Tensor, *, gamma: Tensor | float, threshold: float) -> Periphery:
    """NCM, step 13; see ``centre``. ``prototype`` is [C]."""
    similarity = cosines(features, prototype[None])[:, 0]
    mask = (similarity.detach() > threshold).to(features.dtype)
    return Periphery(similarity, mask, (features + gamma * prototype[:, None, None]) * mask[:, None])


def fuse(
    features: Tensor, front: Centre | None, back: Periphery | None, *, fusion: Fusion = "keep", exclusive: bool = False
) -> Tensor:
    """Steps 14 and 15: the sum of both maps.

    Parameters
    ----------
    features : Tensor [B, C, h, w]
    front, back : Centre, Periphery or None
        None: without that module, as if its mask were empty.
    fusion : {"keep", "paper"}
        What becomes of cells in neither mask: they stay as they are, or become 0. Cells in both are counted twice.
    exclusive : bool
        Cells in both follow the larger cosine instead.
    """
    nothing = torch.zeros_like(features[:, 0])
    positive, negative = front.positive if front else 0 * features, back.negative if back else 0 * features
    in_front, in_back = front.mask if front else nothing, back.mask if back else nothing
    if exclusive and front and back:
        # the weight of a class without a prototype is 0, and its cosine is no reason to be foreground
        likeness = front.similarity.masked_fill(front.weights == 0, -torch.inf).amax(1)
        first = (likeness >= back.similarity).to(features.dtype)
        both = in_front * in_back
        in_front, in_back = in_front - both * (1 - first), in_back - both * first
        positive, negative = positive * in_front[:, None], negative * in_back[:, None]
    fused = positive + negative
    if fusion == "keep":
        fused = fused + features * ((1 - in_front) * (1 - in_back))[:, None]
    return fused
