"""Tokens taken out while a model runs: hooks of the model, its language model and its decoder layers.

Source: methods/pruning-peers.md, sections 8.2 and 8.3. Rows of hidden states, of the rotary factors, of masks and
position ids are gathered; the model is not changed, and decoding goes on with caches of different lengths.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...models.family import Place, attention_places, norm_of
from .moment import Moment, PruneStage, TokenChoice
from .prompts import Pictured, Prompts, prompts_of
from .rows import LayerInput
from .sites import VisionLanguageSite, site_of
from .tower import Tower
from .trace import Prefill, PruneTrace
from .watch import TowerWatch

Positions = Literal["keep", "compact"]
_CACHES = ("cache", "past_key_values")


@dataclass(slots=True)
class Rows:
    """Which rows of the prompts are left.

    Parameters
    ----------
    slots : Tensor of int64 [B, n]
        Of each row, its place in the prompt.
    alive : Tensor of bool [B, n]
        What is no padding. Rows in front of shorter prompts are copies of the first.
    numbers : tuple of Tensor of int64
        The visual tokens of each prompt that are there.
    """

    slots: Tensor
    alive: Tensor
    numbers: tuple[Tensor, ...]

    def after(self, prompts: Prompts, choices: Sequence[TokenChoice]) -> tuple[Rows, Tensor]:
        """The rows that are left after a choice, and where they were among these rows, [B, m]."""
        kept = []
        for sample, choice in enumerate(choices):
            gone = torch.zeros(prompts.input_ids.shape[1], dtype=torch.bool, device=self.slots.device)
            gone[prompts.visual[sample]] = True
            gone[prompts.visual[sample][choice.keep]] = False
            kept.append((~gone[self.slots[sample]]).nonzero().flatten())
        longest = max(len(index) for index in kept)
        index = torch.stack([torch.cat([index.new_zeros(longest - len(index)), index]) for index in kept])
        alive = self.alive.gather(1, index)
        for sample, own in enumerate(kept):
            alive[sample, : longest - len(own)] = False
        return Rows(self.slots.gather(1, index), alive, tuple(choice.keep for choice in choices)), index

    def places(self, prompts: Prompts) -> tuple[Tensor, ...]:
        """Where each prompt's visual tokens are among the rows."""
        found = []
        for sample, numbers in enumerate(self.numbers):
            where = torch.full((prompts.input_ids.shape[1],), -1, device=self.slots.device)
            rows = self.alive[sample].nonzero().flatten()
            where[self.slots[sample, rows]] = rows
            found.append(where[prompts.visual[sample][numbers]])
        return tuple(found)


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
        If the model is of an unknown class or has fewer layers, or, while it runs, a cache cannot be shortened.

    Notes
    -----
    On leaving, also by an exception, the model is as it was.
    """
    site = site or site_of(model)
    for stage in stages:
        if not 0 <= stage.layer < site.depth:
            raise UsageError(f"layer {stage.layer}: {type(model).__name__} has decoder layers 0 to {site.depth - 1}.")
    run = _Run(site, sorted(stages, key=lambda stage: stage.layer), positions, pictures, ids)
    with ExitStack() as stack:
        for handle in run.hooks():
            stack.callback(handle.remove)
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
        if len(self.stages) != len(stages):
            raise ValueError("two stages in front of one layer")
        self.places: list[Place] = attention_places(site.text)
        self.prompts: Prompts | None = None  # of the prefill that runs
        self.rows: Rows | None = None
        self.inputs: dict[int, LayerInput] = {}
        self.left: dict[int, Rows] = {}  # layer -> what is in its cache; layers that saw everything are not in it
        self.length = 0

    def hooks(self) -> Iterator[Any]:
        yield self.site.model.register_forward_pre_hook(self.begin, with_kwargs=True)
        yield self.site.text.register_forward_pre_hook(self.text, with_kwargs=True)
        for number, layer in enumerate(self.site.layers):
            yield layer.register_forward_pre_hook(partial(self.layer, number), with_kwargs=True)
        for stage in self.stages.values():
            if "previous" in stage.attention:
                if stage.layer == 0:
                    raise UsageError("layer 0: there is no layer in front of it whose attention could be looked at.")
                module = self.places[stage.layer - 1].module
                yield module.register_forward_pre_hook(partial(self.attention, stage.layer - 1), with_kwargs=True)
        if self.watch is not None:
            yield from self.watch.hooks()

    # -- hooks, in the order in which they are called

    def begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: is this a prefill with visual tokens, or a step of decoding?"""
        call = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        call |= call.pop("kwargs", {})
        past = _past(call)
        ids = call.get("input_ids")
        self.prompts = None
        if past and self.left:
            steps = (ids if ids is not None else call["inputs_embeds"]).shape[1]
            if steps > 1:
                raise UsageError("a pruned prompt goes on token by token: assisted decoding and chunks cannot be used.")
            return
        self.left = {}
        if past or ids is None:
            return
        if call.get("labels") is not None:
            raise UsageError("labels: a pruned prompt has fewer rows than labels.")
        prompts = prompts_of(self.site, call, self.pictures)
        if not any(prompts.counts):
            return
        _check_cache(call)
        prompts.ids, prompts.compact = self._names(len(ids)), self.positions == "compact"
        self.prompts, self.length = prompts, ids.shape[1]
        self.trace.prefills.append(Prefill(prompts.counts, self.length, notes=prompts.notes))

    def text(self, text: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Before the language model: the choice in front of it, and its 2-D mask."""
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):
            raise UsageError("attention masks that were made beforehand (a static cache) cannot be shortened.")
        if self.prompts is None:
            if 0 not in self.left:
                return None
            rows = self.left[0]  # a step of decoding
            new = kwargs["inputs_embeds"].shape[1] if mask is None else mask.shape[1] - self.length
            tail = rows.alive.new_ones(len(rows.alive), new) if mask is None else mask[:, self.length :].bool()
            kwargs["attention_mask"] = torch.cat([rows.alive, tail], 1).long()
            if self.positions == "compact":
                kwargs["position_ids"] = kwargs["position_ids"] - self._dropped(rows)[:, None]
            return args, kwargs
        prompts = self.prompts
        embeds: Tensor = kwargs["inputs_embeds"]
        prompts.embeds = embeds
        if self.watch is not None:
            prompts.tower = Tower(self.site, self.watch.taken(), prompts.input_ids)
        batch, length = embeds.shape[:2]
        steps = torch.arange(length, device=embeds.device)
        numbers = tuple(torch.arange(count, device=embeds.device) for count in prompts.counts)
        self.rows = Rows(steps.expand(batch, -1), prompts.valid.to(embeds.device), numbers)
        if 0 not in self.stages:
            return None
        index, hidden = self._choose(self.stages[0], embeds, None)
        kwargs["inputs_embeds"] = hidden
        ids = kwargs.get("position_ids")
        ids = steps.expand(batch, -1) if ids is None else ids.expand(*ids.shape[:-2], batch, length)
        kwargs["position_ids"] = ids.gather(-1, index.expand(*ids.shape[:-1], -1))
        if self.positions == "compact":
            kwargs["position_ids"] = (self.rows.alive.cumsum(1) - 1).clamp(min=0).expand_as(kwargs["position_ids"])
        kwargs["attention_mask"] = self.rows.alive.long()  # without one, gaps are taken for packed sequences
        return args, kwargs

    def layer(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Before a decoder layer: the choice in front of it, and what belongs to the rows that are left."""
        if self.prompts is None:
            return self._decode(number, args, kwargs) if number and number in self.left else None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        assert self.rows is not None
        if number and number in self.stages:
            stage = self.stages[number]
            cos, sin = self._rotary(kwargs, self.rows)
            following = None
            if "next" in stage.attention:
                place = self.places[number]
                following = LayerInput(place.module, norm_of(place)(hidden), (cos, sin))
            _, hidden = self._choose(stage, hidden, following)
        self._record(number)
        base = self.left.get(0)
        if self.rows is not base and self.rows.slots.shape[1] < self.length:
            kwargs["position_embeddings"] = self._rotary(kwargs, self.rows)
            index = self._among(base, self.rows)
            if (ids := kwargs.get("position_ids")) is not None:
                ids = ids.expand(*ids.shape[:-2], *index.shape[:1], ids.shape[-1])
                kwargs["position_ids"] = ids.gather(-1, index.expand(*ids.shape[:-1], -1))
            kwargs["attention_mask"] = _square_mask(kwargs.get("attention_mask"), index, self.rows.alive, hidden)
            self.left[number] = self.rows
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def attention(self, number: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the attention of a layer whose rows will be asked for."""
        if self.prompts is not None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.inputs[number] = LayerInput(module, hidden.detach(), kwargs["position_embeddings"])

    # -- what they are made of

    @torch.no_grad()
    def _choose(self, stage: PruneStage, hidden: Tensor, following: LayerInput | None) -> tuple[Tensor, Tensor]:
        """Where the rows that stay were among the present ones, [B, m], and these rows of ``hidden``."""
        assert self.prompts is not None
        assert self.rows is not None
        rows, prompts = self.rows, self.prompts
        moment = Moment(
            stage.layer, prompts, hidden.detach(), rows.numbers, rows.places(prompts), rows.slots, rows.alive,
            self.inputs.pop(stage.layer - 1, None), following,
        )  # fmt: skip
        choices = stage.choose(moment)
        self.trace.last.choices[stage.layer] = choices
        self.rows, index = rows.after(prompts, choices)
        hidden = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2]))
        places = self.rows.places(prompts)
        for sample, choice in enumerate(choices):
            if choice.features is not None:
                hidden[sample, places[sample]] = choice.features.to(hidden.dtype)
        if stage.layer == 0:
            self.left[0] = self.rows
        return index, hidden

    def _names(self, prompts: int) -> tuple[str, ...]:
        """Of the prompts of a batch."""
        first, self.seen = self.seen, self.seen + prompts
        if self.ids is None:
            return tuple(str(first + number) for number in range(prompts))
        if len(self.ids) != prompts:
            raise UsageError(f"ids: {len(self.ids)} names for {prompts} prompts.")
        return tuple(self.ids)

    def _record(self, number: int) -> None:
        assert self.rows is not None
        prefill = self.trace.last
        if len(prefill.visual) == number:
            prefill.visual.append(tuple(len(numbers) for numbers in self.rows.numbers))
            prefill.tokens.append(tuple(int(count) for count in self.rows.alive.sum(1)))

    def _dropped(self, rows: Rows) -> Tensor:
        """How many tokens of each prompt are gone, [B]."""
        counts = torch.tensor(self.trace.last.before, device=rows.slots.device)
        return counts - torch.tensor([len(numbers) for numbers in rows.numbers], device=rows.slots.device)

    def _among(self, base: Rows | None, rows: Rows) -> Tensor:
        """Where rows are among those that the language model began with, [B, n]."""
        if base is None:
            return rows.slots
        where = torch.zeros(len(base.slots), self.length, dtype=torch.int64, device=base.slots.device)
        steps = torch.arange(base.slots.shape[1], device=base.slots.device)
        where.scatter_(1, base.slots.flip(1), steps.flip(0).expand_as(base.slots))
        alive = where.clone()
        alive.scatter_(1, torch.where(base.alive, base.slots, base.slots), where.gather(1, base.slots))
        return alive.gather(1, rows.slots)

    def _rotary(self, kwargs: Mapping[str, Any], rows: Rows) -> tuple[Tensor, Tensor]:
        """The rotary factors of rows, each [B, n, d]."""
        index = self._among(self.left.get(0), rows)
        if self.positions == "compact":
            index = (rows.alive.cumsum(1) - 1).clamp(min=0)
        cos, sin = (t.expand(len(index), *t.shape[-2:]) for t in kwargs["position_embeddings"])
        gather = index[..., None].expand(-1, -1, cos.shape[-1])
        return cos.gather(1, gather), sin.gather(1, gather)

    def _decode(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """A step of decoding in a layer whose cache is shorter."""
        rows = self.left[number]
        base = self.left.get(0)
        mask = kwargs.get("attention_mask")
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if mask is not None:
            began = self.length if base is None else base.slots.shape[1]
            new = torch.arange(began, mask.shape[-1], device=mask.device).expand(len(hidden), -1)
            columns = torch.cat([self._among(base, rows), new], 1)
            mask = mask.expand(len(hidden), *mask.shape[1:])
            mask = mask.gather(-1, columns[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1))
        if not rows.alive.all():
            new_keys = _past(kwargs, number) - rows.slots.shape[1] + 1
            seen = torch.cat([rows.alive, rows.alive.new_ones(len(rows.alive), new_keys)], 1)[:, None, None]
            mask = seen if mask is None else _both(mask, seen)
        kwargs["attention_mask"] = mask
        if self.positions == "compact":
            ids = kwargs["position_ids"] - (self._dropped(rows) - (0 if base is None else self._dropped(base)))[:, None]
            kwargs["position_embeddings"] = self.site.text.rotary_emb(hidden, ids)
        return args, kwargs


def _past(call: Mapping[str, Any], layer: int = 0) -> int:
    """Tokens in the cache of a layer."""
    for name in _CACHES:
        if (cache := call.get(name)) is not None:
            return int(cache.get_seq_length(layer))
    return 0


def _check_cache(call: Mapping[str, Any]) -> None:
    """Refuse caches whose layers cannot have lengths of their own."""
    for name in _CACHES:
        for layer in getattr(call.get(name), "layers", []):
            if type(layer).__name__ != "DynamicLayer":
                raise UsageError(
                    f"a cache of {type(layer).__name__} cannot be shortened: static, sliding and quantised caches are "
                    "not supported. Use the default, dynamic one."
                )


def _square_mask(mask: Tensor | None, index: Tensor, alive: Tensor, hidden: Tensor) -> Tensor | None:
    """The mask of the rows that are left: rows and columns of the old one, without padding that was added."""
    if mask is not None:
        mask = mask.expand(len(index), *mask.shape[1:])
        mask = mask.gather(2, index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        mask = mask.gather(3, index[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1))
    if alive.all() and mask is None:
        return None
    n = index.shape[1]
    steps = torch.arange(n, device=index.device)
    itself = (steps == steps[:, None]) & ~alive[:, :, None]  # a row without any key would be NaN
    seen = ((steps <= steps[:, None]) & alive[:, None] | itself)[:, None]
    return seen if mask is None else _both(mask, seen)


def _both(mask: Tensor, seen: Tensor) -> Tensor:
    """What two masks let through; the first is bool (True: seen) or added."""
    if mask.dtype == torch.bool:
        return seen if seen.shape[2] > 1 and not mask.any() else mask & seen
    return torch.where(seen, mask, torch.finfo(mask.dtype).min)
