"""Saliency of attention: attention times the gradient of the loss with respect to it, and the score of a token.

Specification: methods/lvlms-saliency.md, sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["row", "matrix", "none"]
LEAST = 1e-9
"""What a norm is at least."""
OFFICIAL_LAYERS = (6 / 32, 7 / 32, 8 / 32)
"""Layers of the released code, 6 to 8, as shares of LLaVA-1.5's depth."""


def saliency(attention: Tensor, gradient: Tensor, *, signed: bool = False) -> Tensor:
    """S of each head: |A * G| (section 3.1, step 3).

    Parameters
    ----------
    attention : Tensor [..., R, T]
        Probabilities that multiply the values.
    gradient : Tensor [..., R, T]
        Of the loss with respect to them.
    signed : bool
        -A * G: positive where attention lowers the loss.

    Returns
    -------
    Tensor [..., R, T]
        Zero above the diagonal, since the attention of a causal model is.
    """
    product = attention * gradient
    return -product if signed else product.abs()


def row_normalised(values: Tensor) -> Tensor:
    """Each query row [..., T] divided by its L2 norm (the code's normalisation)."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / norm.clamp(min=LEAST)


def matrix_normalised(values: Tensor, norm: Tensor) -> Tensor:
    """Rows [..., T] divided by the Frobenius norm of their whole matrix (the paper's equation 5 as it is printed)."""
    return values / norm.clamp(min=LEAST)


def score(normalised: Tensor, start: int) -> Tensor:
    """Mean over layers of the mean over the keys from ``start`` on (section 3.2).

    Parameters
    ----------
    normalised : Tensor [..., L, T]
        Row of the predicting token, which is the last key.
    start : int
        The first key behind the image, S + I.

    Returns
    -------
    Tensor [...]
        1 where no key is behind the image.
    """
    if start >= normalised.shape[-1]:
        return torch.ones_like(normalised[..., 0, 0])
    return normalised[..., start:].mean((-2, -1))


def default_layers(depth: int) -> tuple[int, ...]:
    """The released code's layers 6 to 8 of 32, at the same shares of another depth."""
    return tuple(sorted({min(round(share * depth), depth - 1) for share in OFFICIAL_LAYERS}))
