"""One look at a batch for all methods: the whole model's answer, what every method would keep, and its features.

A method that chooses once is asked for its choice while the whole model runs; its answer then comes from the language
model alone, which gets the features of that look: the tower runs once per picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice
from attn.core.prune.engine.sites import VisionLanguageSite, site_of
from attn.core.prune.methods.base import Keep, Pruner

from .questions import Batch

Wanted = Mapping[str, tuple[Pruner, Keep]]


@dataclass
class Look:
    """What one pass over a batch told.

    Parameters
    ----------
    batch : Batch
    logits : Tensor [B, V]
        Behind the last token of the prompt.
    features : Any
        What the tower and the projector gave.
    choices : dict, name -> (layer, choices)
        Of the methods that were asked.
    rows : list of Tensor [B, n], one per layer
        Attention of the last token of the prompt to the visual tokens, mean over heads.
    text : list of Tensor [B, n], one per layer
        The same of all text behind the picture, sum over rows and heads.
    """

    batch: Batch
    logits: Tensor
    features: Any
    choices: dict[str, tuple[int, list[TokenChoice]]]
    rows: list[Tensor]
    text: list[Tensor]


@dataclass
class Eye:
    """A model that is looked at.

    Parameters
    ----------
    model : Module
        ``LlavaForConditionalGeneration``.
    """

    model: Any
    site: VisionLanguageSite = field(init=False)

    def __post_init__(self) -> None:
        self.site = site_of(self.model)

    def run(self, batch: Batch) -> Tensor:
        """Logits behind the last token of the prompts, [B, V]."""
        out = self.model(**batch.inputs, logits_to_keep=1, use_cache=False)
        logits: Tensor = out.logits[:, -1]
        return logits

    @torch.no_grad()
    def look(self, batch: Batch, wanted: Wanted) -> Look:
        """The whole model's answer, with what methods that choose once would keep."""
        once: dict[int, dict[str, PruneStage]] = {layer: {} for layer in range(self.site.depth)}
        for name, (pruner, keep) in wanted.items():
            (stage,) = pruner.stages(self.site, keep)
            once[stage.layer][name] = stage
        seen = Look(batch, torch.empty(0), None, {}, [], [])

        def choose(moment: Moment) -> list[TokenChoice]:
            layer = moment.layer
            for which in ("previous",) * (layer > 0) + ("next",) * (layer == self.site.depth - 1):
                texts = [moment.prompts.text_after(sample) for sample in range(moment.prompts.samples)]
                attention = moment.attention(texts, which)  # [H, R, n] each
                seen.rows.append(torch.stack([one[:, -1].mean(0) for one in attention]))
                seen.text.append(torch.stack([one.sum((0, 1)) for one in attention]))
            for name, stage in once[layer].items():
                moment.prompts.cache.clear()  # of another method
                seen.choices[name] = layer, stage.choose(moment)
            return [TokenChoice(numbers) for numbers in moment.numbers]

        stages = []
        for layer, here in once.items():
            tower = tuple({number for stage in here.values() for number in stage.tower or ()})
            looks = ("previous",) * (layer > 0) + ("next",) * (layer == self.site.depth - 1)
            asks = any(stage.tower is not None for stage in here.values())
            pixels = any(stage.pixels for stage in here.values())
            stages.append(PruneStage(layer, choose, attention=looks, tower=tower if asks else None, pixels=pixels))
        with (
            self._features() as kept,
            pruned(self.model, stages, site=self.site, pictures=batch.pictures, ids=batch.names),
        ):
            seen.logits = self.run(batch)
        seen.features = kept[0]
        return seen

    @torch.no_grad()
    def again(self, seen: Look, choices: Sequence[TokenChoice], layer: int = 0, positions: Any = "keep") -> Tensor:
        """Logits with the chosen tokens alone from ``layer`` on, [B, V]."""
        stage = PruneStage(layer, lambda moment: list(choices))
        with self._shown(seen), pruned(self.model, [stage], site=self.site, positions=positions):
            return self.run(seen.batch)

    @torch.no_grad()
    def prune(
        self, seen: Look, stages: Sequence[PruneStage], positions: Any = "keep"
    ) -> tuple[Tensor, list[Tensor], float]:
        """Logits of a method with several stages; the tokens that the last layer saw, and the mean counted share."""
        shown = self._shown(seen) if all(stage.tower is None for stage in stages) else _nothing()
        with (
            shown,
            pruned(
                self.model,
                stages,
                site=self.site,
                pictures=seen.batch.pictures,
                ids=seen.batch.names,
                positions=positions,
            ) as trace,
        ):
            logits = self.run(seen.batch)
        count = len(seen.batch.index)
        kept = [trace.last.kept(sample) for sample in range(count)]
        share = sum(trace.last.retention(sample) for sample in range(count)) / count
        return logits, [tokens for tokens in kept if tokens is not None], share

    @contextmanager
    def _features(self) -> Iterator[list[Any]]:
        """Note what the tower and the projector give."""
        inner, kept = self.model.model, []
        real: Callable[..., Any] = inner.get_image_features

        def noted(*args: Any, **kwargs: Any) -> Any:
            kept.append(real(*args, **kwargs))
            return kept[-1]

        with _replaced(inner, noted):
            yield kept

    @contextmanager
    def _shown(self, seen: Look) -> Iterator[None]:
        """Let the model have the features of a look, in the place of its tower."""
        with _replaced(self.model.model, lambda *args, **kwargs: seen.features):
            yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _replaced(inner: Any, function: Callable[..., Any]) -> Iterator[None]:
    inner.get_image_features = function
    try:
        yield
    finally:
        vars(inner).pop(
            "get_image_features", None
        )  # a stage that asks for pixels puts its own there, and takes it away
