"""Looking into a model and changing what it attends to, for the length of a ``with`` block, which always restores.

``family.py`` says where the parts of each class of attention are. None of it is to be used from two threads on one
model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..errors import UsageError
from .family import Place, attention_modules, attention_places, heads_of, kv_groups_of, layout_of
from .sites import Forward, HeadFactors, KeptTokens, Site, temperature_site
from .softmax import Operands, Softmax, torch_operands

Layers = str | Sequence[int]
WHAT = ("q", "k", "v", "hidden")

_ACTIVE: WeakKeyDictionary[nn.Module, tuple[Site, float]] = WeakKeyDictionary()
"""Attention modules that are at a temperature now, and at which."""


def check_temperature(tau: float) -> None:
    """Raises ``UsageError`` unless ``tau`` is a positive number."""
    if not (math.isfinite(tau) and tau > 0):
        raise UsageError(f"temperature: {tau} is not a positive number.")


@contextmanager
def edit(
    model: nn.Module, layers: Layers = "all", *, temperature: float | None = None,
    heads: Mapping[int, Tensor] | None = None, keep: Mapping[int, Tensor] | None = None,
    bias: Mapping[int, Tensor] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Run the attention of a model changed.

    Parameters
    ----------
    model : Module
        Of transformers, timm or open_clip; of an encoder-decoder, the encoder is meant. It must not be moved or cast
        inside. ``heads``, ``keep`` and ``bias`` name layers of one tower: pass that.
    layers : "all", "last:K" or sequence of int
        Where the temperature acts, counted from 0, in each tower on its own.
    temperature : float, optional
        Positive. Attention logits are divided by it: below 1 sharpens the attention, 1 leaves it, to the bit.
    heads : mapping of layer to Tensor, shape (H,), optional
        Factors on the heads in front of the output projection; 0 takes a head out.
    keep : mapping of layer to Tensor of int64, shape (n,) or (B, n), optional
        Tokens, of those that reach the layer, that go on into it. For encoders of images whose positions are in the
        tokens already.
    bias : mapping of layer to Tensor, optional
        Added to the logits behind the temperature; broadcasts to [B, H, Lq, Lk].

    Raises
    ------
    UsageError
        If ``temperature`` is not positive, a layer does not exist, an attention is of an unknown class, or the model
        does not allow what is asked. Nothing is changed then.

    Notes
    -----
    Blocks nest: an inner temperature replaces the outer one (they do not multiply), all else adds up. On leaving, also
    by an exception, the model is as it was, to the bit.
    """
    with ExitStack() as stack:
        if temperature is not None:
            _enter_temperature(stack, attention_modules(model, layers), temperature)
        for place, factors in _chosen(model, heads, "heads"):
            stack.callback(HeadFactors(place.module, factors).restore)
        for place, index in _chosen(model, keep, "keep"):
            stack.callback(KeptTokens(place.module, place.block, index).restore)
        for place, values in _chosen(model, bias, "bias"):
            layout_of(place.module)
            wrapped = Forward(place.module)
            stack.callback(wrapped.restore)
            wrapped.wrap(partial(Softmax, bias=values))
        yield


def _enter_temperature(stack: ExitStack, modules: Sequence[nn.Module], tau: float) -> None:
    check_temperature(tau)
    sites = [_ACTIVE[m][0] if m in _ACTIVE else temperature_site(m) for m in modules]  # may raise, nothing done
    for module, site in zip(modules, sites, strict=True):
        stack.callback(_leave, module, site, _ACTIVE[module][1] if module in _ACTIVE else None)
        _ACTIVE[module] = (site, tau)
        site.set(tau)


def _leave(module: nn.Module, site: Site, outer: float | None) -> None:
    """Back to the temperature of the outer block, or to the untouched module."""
    if outer is None:
        site.restore()
        del _ACTIVE[module]
    else:
        site.set(outer)
        _ACTIVE[module] = (site, outer)


def _chosen(model: nn.Module, values: Mapping[int, Tensor] | None, what: str) -> list[tuple[Place, Tensor]]:
    """The places that ``values`` names, with what it says of each."""
    if not values:
        return []
    places = attention_places(model, sorted(values))
    if len(places) != len(values):
        raise UsageError(f"{what}: {type(model).__name__} has several towers. Pass the one that is meant.")
    return [(place, values[place.number]) for place in places]


@contextmanager
def observed(model: nn.Module, observe: Callable[[int, Any], None]) -> Iterator[None]:
    """Show the attention probabilities of every layer as they are made; nothing is kept, nothing is changed.

    Parameters
    ----------
    model : Module
    observe : callable (layer, Tensor [B, H, Lq, Lk])

    Notes
    -----
    An ``edit`` of the temperature must be outside this block.
    """
    with ExitStack() as stack:
        for layer, module in enumerate(attention_modules(model)):
            wrapped = Forward(module)
            stack.callback(wrapped.restore)
            wrapped.wrap(partial(Softmax, observe=partial(observe, layer)))
        yield


@dataclass(frozen=True, slots=True)
class Seen:
    """What one call of one attention got and its block gave, detached; None for what was not asked for.

    Parameters
    ----------
    layer : int
        Counted from 0 in its tower.
    q : Tensor [B, Hq, Lq, D]
    k, v : Tensor [B, Hkv, Lk, D]
        As the softmax sees them: behind normalisation and rotation.
    hidden : Tensor [B, L, width]
        What the block gave.
    scale : float
        Factor on q kᵀ, the temperature in it.
    mask : Tensor or None
        Broadcasts to [B, Hq, Lq, Lk]; bool (True = keep) or added.
    causal : bool
    """

    layer: int
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    hidden: Tensor | None = None
    scale: float = 1.0
    mask: Tensor | None = None
    causal: bool = False


@contextmanager
def capture(model: nn.Module, layers: Layers = "all", what: Sequence[str] = ("q", "k", "v")) -> Iterator[list[Seen]]:
    """Keep what the attention of a model works on.

    Parameters
    ----------
    model : Module
        Models of transformers and timm run ``scaled_dot_product_attention`` inside, whatever they were loaded with.
    layers : "all", "last:K" or sequence of int
        Counted from 0, in each tower on its own.
    what : sequence of "q", "k", "v", "hidden"

    Yields
    ------
    list of Seen
        Grows by one with every call of an attention: one per layer and forward, more where a layer is used several
        times.

    Raises
    ------
    UsageError
        If a layer does not exist, a class is unknown, or its kernel hides what it works on (then while the model
        runs).
    """
    if not what or not set(what) <= set(WHAT):
        raise UsageError(f"what: {', '.join(what) or 'nothing'} can be captured of {', '.join(WHAT)}.")
    places = attention_places(model, layers)
    for place in places:
        layout_of(place.module)
    seen: list[Seen] = []
    tensors = [name for name in what if name != "hidden"]
    with ExitStack() as stack:
        for place in places:
            if tensors:
                _record(stack, place, partial(_keep, seen, place, tensors))
            if "hidden" in what:
                keep = partial(_keep_hidden, seen, place.number, bool(tensors))
                stack.callback(place.block.register_forward_hook(keep).remove)
        yield seen


@contextmanager
def operands(model: nn.Module, layers: Layers, record: Callable[[int, Operands], None]) -> Iterator[None]:
    """Show what the attention kernel of layers gets, call by call, where ``capture`` would keep too much of it.

    Parameters
    ----------
    model : Module
        Runs ``scaled_dot_product_attention`` inside, whatever it was loaded with.
    layers : "all", "last:K" or sequence of int
    record : callable (layer, Operands)
        With a cache, the keys are all that are in it.

    Raises
    ------
    UsageError
        As ``capture``.
    """
    places = attention_places(model, layers)
    for place in places:
        layout_of(place.module)
    with ExitStack() as stack:
        for place in places:
            _record(stack, place, partial(record, place.number))
        yield


@contextmanager
def attended(model: nn.Module, layers: Layers, attend: Callable[[int, Operands], Tensor]) -> Iterator[None]:
    """Compute the attention of layers by a function of one's own, in the place of the kernel; raises as ``capture``.

    Parameters
    ----------
    model : Module
        Runs ``scaled_dot_product_attention`` inside, whatever it was loaded with.
    attend : callable (layer, Operands) -> Tensor
        Of the shape of ``operands.q``, whose rows may be packed: the query heads of one key head as rows of one head.
    """
    places = attention_places(model, layers)
    for place in places:
        layout_of(place.module)
    with ExitStack() as stack:
        for place in places:
            _fused(stack, place, attend=partial(attend, place.number))
        yield


def _record(stack: ExitStack, place: Place, record: Callable[[Operands], None]) -> None:
    """Show ``record`` what the kernel of a module gets, call by call."""
    module: Any = place.module
    if layout_of(module).query == "in_proj_weight":  # torch's own hides its kernel: what it gets is made once more
        handle = module.register_forward_pre_hook(
            lambda module, args, kwargs: record(torch_operands(module, args, kwargs)), with_kwargs=True
        )
        stack.callback(handle.remove)
        return
    _fused(stack, place, record=record)


def _fused(stack: ExitStack, place: Place, **how: Any) -> None:
    """Run a module's ``scaled_dot_product_attention`` under a ``Softmax`` of these arguments."""
    module: Any = place.module
    config = getattr(module, "config", None)
    if (before := getattr(config, "_attn_implementation", "sdpa")) != "sdpa":
        stack.callback(setattr, config, "_attn_implementation", before)
        config._attn_implementation = "sdpa"  # type: ignore[union-attr]
    if getattr(module, "fused_attn", None) is False:
        stack.callback(setattr, module, "fused_attn", False)
        module.fused_attn = True
    wrapped = Forward(module)
    stack.callback(wrapped.restore)
    wrapped.wrap(partial(Softmax, **how), fused=True)


def _keep(seen: list[Seen], place: Place, names: Sequence[str], operands: Operands) -> None:
    groups = kv_groups_of(place.module)
    repeated = operands.k.shape[1] == heads_of(place.module)  # some kernels get each key once per query head
    tensors = {"q": operands.q, "k": operands.k, "v": operands.v}
    kept = {
        name: (tensors[name][:, ::groups] if name != "q" and repeated else tensors[name]).detach() for name in names
    }
    mask = None if operands.mask is None else operands.mask.detach()
    seen.append(Seen(place.number, **kept, scale=operands.scale, mask=mask, causal=operands.causal))


def _keep_hidden(seen: list[Seen], layer: int, joins: bool, block: nn.Module, args: Any, out: Any) -> None:
    """A forward hook: what a block gave joins what its attention saw."""
    hidden = (out[0] if isinstance(out, tuple) else out).detach()
    if joins and seen and seen[-1].layer == layer:
        seen[-1] = replace(seen[-1], hidden=hidden)
    else:
        seen.append(Seen(layer, hidden=hidden))
