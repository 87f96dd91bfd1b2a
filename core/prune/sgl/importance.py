"""How much attention visual tokens get in all of a model: in every layer and head, by the prompt and by the answer.

Source: methods/sgl.md, section 3.1. SDPA stays on: of each layer only the rows that are summed are worked out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ...models.family import attention_places
from ..engine.checks import cache_of
from ..engine.prompts import Prompts, prompts_of
from ..engine.rows import LayerInput, summed_attention
from ..engine.sites import VisionLanguageSite

TextRows = Literal["paper", "code"]


@dataclass(slots=True)
class ReceivedAttention:
    """Sums over heads and rows of attention to the visual tokens of each prompt of a batch.

    Parameters
    ----------
    prefill : list of Tensor [layers, V_b], float32
        By the text behind the last picture.
    decode : list of Tensor [layers, V_b], float32
        By the tokens of the answer that were read again, all but the last one.
    """

    prefill: list[Tensor] = field(default_factory=list)
    decode: list[Tensor] = field(default_factory=list)

    def importance(self) -> list[Tensor]:
        """Sums over layers, heads, prompt and answer, [V_b] each."""
        return [prompt.sum(0) + answer.sum(0) for prompt, answer in zip(self.prefill, self.decode, strict=True)]


@contextmanager
def received_attention(
    site: VisionLanguageSite, *, rows: TextRows = "paper", stop: frozenset[int] = frozenset()
) -> Iterator[ReceivedAttention]:
    """Sum up the attention that visual tokens get while a model answers, with a cache.

    Parameters
    ----------
    site : VisionLanguageSite
    rows : {"paper", "code"}
        ``paper``: text behind the last visual token; ``code``: that token's own row, too, as in the released code.
    stop : set of int
        Token ids that end an answer: in a batch, what follows them belongs to no answer.

    Yields
    ------
    ReceivedAttention
        Of the last prompts, after the run.
    """
    watch = _Watch(site, rows, stop, ReceivedAttention())
    with ExitStack() as stack:
        stack.callback(site.model.register_forward_pre_hook(watch.begin, with_kwargs=True).remove)
        for layer, place in enumerate(attention_places(site.text)):
            hook = partial(watch.layer, layer)
            stack.callback(place.module.register_forward_hook(hook, with_kwargs=True).remove)
        yield watch.received


class _Watch:
    """The state of a ``received_attention`` block."""

    def __init__(
        self, site: VisionLanguageSite, rows: TextRows, stop: frozenset[int], received: ReceivedAttention
    ) -> None:
        self.site, self.text_rows, self.received = site, rows, received
        self.stop = torch.tensor(sorted(stop), dtype=torch.int64)
        self.prompts: Prompts | None = None
        self.alive = torch.ones(0, 0, dtype=torch.bool)  # [B, keys]
        self.going = torch.ones(0, dtype=torch.bool)  # [B] answers that have not ended
        self.rows: list[Tensor] = []

    def begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: which rows are summed."""
        call = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        call |= call.pop("kwargs", {})
        cache = cache_of(call)
        ids: Tensor = call["input_ids"]
        if cache is None or cache.get_seq_length() == 0:
            self.prompts = prompts_of(self.site, call)
            self.alive = self.prompts.valid
            self.going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
            self.rows = [self._text(sample) for sample in range(len(ids))]
            depth = len(attention_places(self.site.text))
            for sums in (self.received.prefill, self.received.decode):
                sums[:] = [torch.zeros(depth, count, device=ids.device) for count in self.prompts.counts]
        else:
            self.going &= ~torch.isin(ids[:, -1], self.stop.to(ids.device))
            self.alive = torch.cat([self.alive, self.alive.new_ones(ids.shape)], 1)
            self.rows = [torch.arange(ids.shape[1], device=ids.device)[: ids.shape[1] * int(on)] for on in self.going]

    def _text(self, sample: int) -> Tensor:
        assert self.prompts is not None
        visual, rows = self.prompts.visual[sample], self.prompts.text_after(sample)
        return torch.cat([visual[-1:], rows]) if self.text_rows == "code" else rows

    def layer(self, number: int, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """After the attention of a layer, whose cache holds all keys now."""
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        cache = cache_of(kwargs)
        keys = cache.layers[module.layer_idx].keys if cache is not None else None
        assert self.prompts is not None
        first = self.alive.shape[1] == self.prompts.input_ids.shape[1]
        sums = self.received.prefill if first else self.received.decode
        source = LayerInput(module, hidden.detach(), kwargs["position_embeddings"], keys)
        more = summed_attention(source, self.rows, self.alive, self.prompts.visual)
        for sample, own in enumerate(more):
            sums[sample][number] += own
