"""TempScale: attention logits divided by a temperature, in a ready-made encoder, at inference.

Paper: "Length-Induced Embedding Collapse in PLM-based Models", ACL 2025 (arXiv 2410.24200). Specification:
methods/tempscale.md, sections 3.1, 3.6 and 3.7. In every layer and head the attention is
softmax((q kᵀ / sqrt(d) + bias + mask) / tau); values, projections, pooling and normalisation stay. ``models/hooks.py``
sets it, by the table of ``models/family.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import AttnError
from ..models.hooks import edit

CHECK_TEXTS = (
    "A river divides the old town from the new one.",
    "Attention weights decide which words a sentence vector is made of, and how much of each.",
    "Seven",
)
"""The fixed texts of the self-check; a text of one token would not change, so none is that short."""


def temperature(model: nn.Module, tau: float, layers: str | Sequence[int] = "all") -> AbstractContextManager[None]:
    """Run the attention of a model at a temperature for the length of a ``with`` block: see ``edit``."""
    return edit(model, layers, temperature=tau)


def scaled(model: nn.Module, tau: float) -> AbstractContextManager[None]:
    """``temperature``, but 1 leaves even a model of unknown class, and an outer block, as they are."""
    return nullcontext() if tau == 1 else temperature(model, tau)


def self_check(model: nn.Module, encode: Callable[[Sequence[str]], NDArray[np.float32]]) -> None:
    """Section 3.7: the temperature acts on this model and leaves no trace.

    Parameters
    ----------
    model : Module
        Not scaled at the moment.
    encode : callable
        Texts to vectors [n, dim] by way of ``model``.

    Raises
    ------
    AttnError
        If 0.5 changes nothing, or the vectors before and after differ in any bit.
    """
    before = encode(CHECK_TEXTS)
    with temperature(model, 0.5):
        sharper = encode(CHECK_TEXTS)
    after = encode(CHECK_TEXTS)
    if not np.array_equal(before, after):
        raise AttnError("temperature: the model does not come back to itself after scaling; please report its class.")
    if np.array_equal(before, sharper):
        raise AttnError("temperature: scaling changes nothing in this model; please report its class.")
