"""TempScale: attention logits divided by a temperature, in a ready-made encoder, at inference.

Paper: "Length-Induced Embedding Collapse in PLM-based Models", ACL 2025 (arXiv 2410.24200). Specification:
methods/tempscale.md, sections 3.1, 3.6 and 3.7. In every layer and head the attention is
softmax((q kᵀ / sqrt(d) + bias + mask) / tau); values, projections, pooling and normalisation stay. ``models/family.py``
says where the logits of each family are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import AttnError, UsageError
from ..models.family import Observer, Site, _Forward, attention_modules, site

CHECK_TEXTS = (
    "A river divides the old town from the new one.",
    "Attention weights decide which words a sentence vector is made of, and how much of each.",
    "Seven",
)
"""The fixed texts of the self-check; a text of one token would not change, so none is that short."""

_ACTIVE: WeakKeyDictionary[nn.Module, tuple[Site, float]] = WeakKeyDictionary()
"""Attention modules that are scaled now, with their temperature."""


def check(tau: float) -> None:
    """Raises ``UsageError`` unless ``tau`` is a positive number."""
    if not (math.isfinite(tau) and tau > 0):
        raise UsageError(f"temperature: {tau} is not a positive number.")


@contextmanager
def temperature(model: nn.Module, tau: float, layers: str | Sequence[int] = "all") -> Iterator[None]:
    """Run the attention of a model at a temperature for the length of a ``with`` block.

    Parameters
    ----------
    model : Module
        Of transformers or open_clip; of an encoder-decoder, the encoder is meant. It must not be moved or cast inside.
    tau : float
        Positive. Below 1 sharpens the attention, 1 leaves it, to the bit.
    layers : "all", "last:K" or sequence of int
        Which layers, counted from 0, in each tower on its own.

    Raises
    ------
    UsageError
        If ``tau`` is not positive, a layer does not exist, or an attention of the model is of an unknown class.

    Notes
    -----
    Blocks nest: the inner temperature replaces the outer one (they do not multiply). On leaving, also by an exception,
    the model is as it was, to the bit. Not to be used from two threads on one model.
    """
    modules = attention_modules(model, layers)
    check(tau)
    sites = [_ACTIVE[module][0] if module in _ACTIVE else site(module) for module in modules]  # may raise, nothing done
    with ExitStack() as stack:
        for module, one in zip(modules, sites, strict=True):
            stack.callback(_leave, module, one, _ACTIVE[module][1] if module in _ACTIVE else None)
            _ACTIVE[module] = (one, tau)
            one.set(tau)
        yield


def _leave(module: nn.Module, one: Site, outer: float | None) -> None:
    """Back to the temperature of the outer block, or to the untouched module."""
    if outer is None:
        one.restore()
        del _ACTIVE[module]
    else:
        one.set(outer)
        _ACTIVE[module] = (one, outer)


def scaled(model: nn.Module, tau: float) -> AbstractContextManager[None]:
    """``temperature``, but 1 leaves even a model of unknown class, and an outer block, as they are."""
    return nullcontext() if tau == 1 else temperature(model, tau)


@contextmanager
def observed(model: nn.Module, observe: Callable[[int, Any], None]) -> Iterator[None]:
    """Show the attention probabilities of every layer as they are made; nothing is kept, nothing is changed.

    Parameters
    ----------
    model : Module
    observe : callable (layer, Tensor [B, H, Lq, Lk])

    Notes
    -----
    A ``temperature`` block must be outside this one.
    """
    with ExitStack() as stack:
        for layer, module in enumerate(attention_modules(model)):
            wrapped = _Forward(module)
            stack.callback(wrapped.restore)
            wrapped.wrap(1.0, _numbered(layer, observe))
        yield


def _numbered(layer: int, observe: Callable[[int, Any], None]) -> Observer:
    return lambda prob: observe(layer, prob)


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
