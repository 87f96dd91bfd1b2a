"""Tokens taken out while a model runs: hooks of the model, its language model and its decoder layers.

Source: methods/pruning-peers.md, sections 8.2 and 8.3. Rows of hidden states, of the rotary factors, of masks and
position ids are gathered; the model is not changed, and decoding goes on with caches of different lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...models.family import attention_places, norm_of
from .checks import CACHES, Positions, cache_of, check_call, check_choices, check_model, check_prompt, is_eager, named
from .kept import ids_at, rows_at, whole
from .moment import Moment, PruneStage
from .pixels import seen_pixels
from .prompts import Pictured, Prompts, prompts_of, same_rows
from .rows import LayerInput
from .sites import VisionLanguageSite, site_of
from .steps import CachedPrompts, Step, step_of
from .tower import Tower
from .trace import Prefill, PruneTrace
from .watch import TowerWatch

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a module, as a hook gives them back; None where they stay."""

_ACTIVE: WeakSet[nn.Module] = WeakSet()


@contextmanager
def pruned(
    model: nn.Module, stages: Sequence[PruneStage], *, positions: Positions = "keep",
    site: VisionLanguageSite | None = None, pictures: Pictured | None = None, ids: Sequence[str] | None = None,
) -> Iterator[PruneTrace]:  # fmt: skip
    """Take visual tokens out of every prompt that a model is given inside the block, its ``generate`` included.

    Parameters
    ----------
    model : Module
        A vision-language model of transformers; see ``sites.MODELS``.
    stages : sequence of PruneStage
        None: nothing is taken out, and the trace says what was there.
    positions : {"keep", "compact"}
        Tokens keep their positions, or are numbered anew.
    site : VisionLanguageSite, optional
        Of the model, where it is known.
    pictures : tuple of (tuple of Geometry) or None, optional
        Of each prompt of the batch: see ``Prompts``.
    ids : sequence of str, optional
        A name of each prompt of the batch, by which what is random is drawn, so that a prompt gets the same in any
        batch. Default: prompts are numbered through the block.

    Yields
    ------
    PruneTrace

    Raises
    ------
    UsageError
        If the model is of an unknown class or has fewer layers, or, while it runs, for what ``checks`` refuses.

    Notes
    -----
    On leaving, also by an exception, the model is as it was. A cache that was filled inside the block belongs to it:
    outside, the model does not know that rows are missing. Without a cache, every step of decoding is a prompt of its
    own, and tokens are chosen anew.
    """
    site = site or site_of(model)
    check_model(site, stages, positions)
    if model in _ACTIVE:
        raise UsageError(f"{type(model).__name__} is being pruned already. Leave that block first.")
    run = _Run(site, stages, positions, pictures, ids)
    with ExitStack() as stack:
        _ACTIVE.add(model)
        stack.callback(_ACTIVE.discard, model)
        for handle in run.hooks():
            stack.callback(handle.remove)
        if any(stage.pixels for stage in stages):
            run.pixels = stack.enter_context(seen_pixels(site.model))
        yield run.trace


class _Run:
    """The state of a ``pruned`` block."""

    def __init__(
        self, site: VisionLanguageSite, stages: Sequence[PruneStage], positions: Positions,
        pictures: Pictured | None, ids: Sequence[str] | None,
    ) -> None:  # fmt: skip
        self.ids, self.seen = ids, 0
        layers = [stage.tower for stage in stages if stage.tower is not None]
        self.watch = TowerWatch(site, [layer for some in layers for layer in some]) if layers else None
        self.site, self.positions, self.pictures, self.trace = site, positions, pictures, PruneTrace()
        self.stages = {stage.layer: stage for stage in stages}
        once = 0 in self.stages and self.stages[0].renumber and not site.has_grid_positions
        self.anew_in_front = positions == "compact" or once
        self.places = attention_places(site.text) if any(stage.attention for stage in stages) else []
        self.choosing = False  # a method may run the model itself
        self.pixels: dict[str, Tensor] = {}
        self.forget()

    def forget(self) -> None:
        """No call of the model is being made."""
        self.begun = False
        self.prompts: Prompts | None = None  # of a prefill
        self.step: Step | None = None  # of decoding
        self.inputs: dict[int, LayerInput] = {}

    def hooks(self) -> Iterator[Any]:
        site, base = self.site, self.site.model.base_model
        yield site.model.register_forward_pre_hook(self.outside, with_kwargs=True)
        yield base.register_forward_pre_hook(self.begin, with_kwargs=True)
        yield base.register_forward_hook(self.end, always_call=True)
        yield site.text.register_forward_pre_hook(self.text, with_kwargs=True)
        for number, layer in enumerate(site.layers):
            yield layer.register_forward_pre_hook(partial(self.layer, number), with_kwargs=True)
        for stage in self.stages.values():
            if "previous" in stage.attention:
                module = self.places[stage.layer - 1].module
                yield module.register_forward_pre_hook(partial(self.attention, stage.layer - 1), with_kwargs=True)
        if self.watch is not None:
            yield from self.watch.hooks()

    # -- hooks, in the order in which they are called

    def outside(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model with its head."""
        if not self.choosing:
            check_call(named(model, args, kwargs))

    def begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: is this a prefill with visual tokens, or a step of decoding?"""
        if self.choosing:
            return
        self.forget()
        self.begun = True
        call = named(model, args, kwargs)
        cache = cache_of(call)
        if cache is not None and cache.get_seq_length():
            self.step = step_of(self.site, call, cache)
            return
        check_prompt(self.site, call)
        prompts = prompts_of(self.site, call, self.pictures)
        if not any(prompts.counts):
            return
        prompts.compact = self.positions == "compact"
        self.prompts = prompts
        self.everything = self.rows = whole(prompts)  # of which the second are left
        self.cached = CachedPrompts(self.rows.length, self.positions, self.anew_in_front)
        self.given: dict[str, Any] = {}  # what layers get instead of the language model's own
        prefill = Prefill(prompts.counts, self.rows.length, notes=prompts.notes, offers=prompts.offers)
        self.trace.prefills.append(prefill)

    def end(self, model: Any, args: tuple[Any, ...], output: Any) -> None:
        if not self.choosing:
            self.forget()

    def text(self, text: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Before the language model: the choice in front of it, and its mask."""
        if self.choosing:
            return None
        if not self.begun:
            raise UsageError(f"{type(text).__name__} was called by itself: visual tokens are known to the model only.")
        if self.step is not None:
            return args, {**kwargs, **self.step.in_text(kwargs)}
        if self.prompts is None:
            return None
        embeds: Tensor = kwargs["inputs_embeds"]
        self.prompts.embeds = embeds
        self.prompts.ids = self._names(self.prompts, embeds)
        uncached = {name: value for name, value in kwargs.items() if name not in CACHES} | {"use_cache": False}
        self.prompts.again = partial(text, *args, **uncached)
        if self.watch is not None:
            self.prompts.tower = Tower(self.site, self.watch.taken(), self.prompts.input_ids)
        if 0 not in self.stages:
            return None
        ids: Tensor | None = kwargs.get("position_ids")
        following = self._following(0, embeds, self.site.rotary(embeds, ids))
        embeds, index = self._chosen(self.stages[0], embeds, None, following)
        kwargs["inputs_embeds"] = embeds
        if index is not None:
            own = self.rows.slots if ids is None else ids_at(ids, index)
            ids = self.rows.renumbered() if self.anew_in_front else own
            # without a mask, gaps between positions are taken for packed sequences
            kwargs |= {"position_ids": ids, "attention_mask": self.rows.alive.long()}
        return args, kwargs

    def layer(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Before a decoder layer: the choice in front of it, and what belongs to the rows that are left."""
        if self.choosing:
            return None
        if self.step is not None:
            return args, {**kwargs, **self.step.in_layer(number, args[0])}
        if self.prompts is None:
            return None
        hidden: Tensor = args[0]
        cache = cache_of(kwargs)
        if number == 0 and cache is not None:
            self.cached.stay_with(cache)
        if number and number in self.stages:
            hidden = self._stage(number, hidden, {**kwargs, **self.given}, cache)
        self._record(number)
        return (hidden, *args[1:]), {**kwargs, **self.given}

    def attention(self, number: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the attention of a layer whose rows will be asked for."""
        if self.prompts is not None and not self.choosing:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.inputs[number] = LayerInput(module, hidden.detach(), kwargs["position_embeddings"])

    # -- a prefill

    def _stage(self, number: int, hidden: Tensor, kwargs: dict[str, Any], cache: Any) -> Tensor:
        """The hidden states that go into a layer behind the choice in front of it; sets what all layers get from it."""
        stage = self.stages[number]
        previous = self.inputs.pop(number - 1, None)
        if previous is not None and cache is not None:
            previous = replace(previous, keys=cache.layers[number - 1].keys)
        following = self._following(number, hidden, kwargs["position_embeddings"])
        hidden, index = self._chosen(stage, hidden, previous, following)
        if index is None:
            return hidden
        if self.positions == "compact":
            rotary = self.site.rotary(hidden, self.rows.renumbered())
        else:
            cos, sin = kwargs["position_embeddings"]
            rotary = rows_at(cos, index), rows_at(sin, index)
        ids = kwargs.get("position_ids")
        self.given = {
            "position_embeddings": rotary,
            "attention_mask": self.rows.mask(is_eager(self.site), hidden.dtype),
            "position_ids": None if ids is None else ids_at(ids, index),
        }
        return hidden

    def _following(self, number: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> LayerInput | None:
        """What the attention of a layer would get, if the stage in front of it looks at it."""
        if "next" not in self.stages[number].attention:
            return None
        place = self.places[number]
        with torch.no_grad():
            return LayerInput(place.module, norm_of(place)(hidden), rotary)

    def _chosen(
        self, stage: PruneStage, hidden: Tensor, previous: LayerInput | None, following: LayerInput | None
    ) -> tuple[Tensor, Tensor | None]:
        """The rows of ``hidden`` that stay, and where they were, [B, m]; None where all do."""
        assert self.prompts is not None
        rows, prompts = self.rows, self.prompts
        moment = Moment(
            stage.layer, prompts, hidden.detach(), rows.numbers, rows.places(prompts), rows.slots, rows.alive, previous,
            following,
        )  # fmt: skip
        if stage.pixels:
            prompts.pixels = dict(self.pixels)
            self.pixels.clear()
        self.choosing = True
        try:
            with torch.no_grad():
                choices = stage.choose(moment)
        finally:
            self.choosing = False
        check_choices(stage.layer, choices, rows.numbers, prompts.compact)
        self.trace.last.choices[stage.layer] = choices
        self.rows, index = rows.after(prompts, choices)
        if index is not None:
            hidden = rows_at(hidden, index)
        if any(choice.features is not None for choice in choices):
            hidden = hidden.clone()
            for sample, (places, choice) in enumerate(zip(self.rows.places(prompts), choices, strict=True)):
                if choice.features is not None:
                    features = choice.features.to(hidden.dtype)
                    changed = (features != hidden[sample, places]).any(-1)
                    self.trace.last.merged.setdefault(sample, set()).update(choice.keep[changed].tolist())
                    hidden[sample, places] = features
        return hidden, index

    def _names(self, prompts: Prompts, embeds: Tensor) -> tuple[str, ...]:
        """Of the prompts of a batch; beams of one prompt share a name."""
        if self.ids is None:
            first, self.seen = self.seen, self.seen + prompts.samples
            return tuple(str(first + row) for row in same_rows(prompts.input_ids, embeds))
        if not self.ids or prompts.samples % len(self.ids):
            raise UsageError(f"ids: {len(self.ids)} names for {prompts.samples} prompts.")
        return tuple(name for name in self.ids for _ in range(prompts.samples // len(self.ids)))

    def _record(self, number: int) -> None:
        self.cached.layers.append(None if self.rows is self.everything else self.rows)
        prefill = self.trace.last
        prefill.visual.append(self.rows.visual)
        prefill.tokens.append(self.rows.counts)
        if number == self.site.depth - 1:
            prefill.slots = self.rows.slots.masked_fill(~self.rows.alive, -1)
