"""Loss and evaluation of the recipe, one code path for its four modes.

Paper: FocuSFT, arXiv 2605.09932. Specification: methods/focusft.md, section 3.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .fast import FastWeights
from .options import ADAPTS, BOTH_WAYS, FocusOptions, Mode
from .step import Dialogues, Inner, adapted, answer_loss, mask_of


class DialogueSource(Protocol):
    """Where batches come from."""

    def batch(self, step: int) -> Dialogues:
        """The batch of a step, the same whenever it is asked for, and for every mode."""
        ...

    def held_out(self) -> Sequence[Dialogues]:
        """What is never trained on."""
        ...


class FocusRecipe:
    """A causal language model that learns answers.

    Parameters
    ----------
    model : PreTrainedModel
    options : FocusOptions
    mode : str
    source : DialogueSource
    device : torch.device
    """

    score = "held_out_likelihood"
    stalled_below = ("held_out_likelihood", 0.0)

    def __init__(
        self, model: Any, options: FocusOptions, mode: Mode, source: DialogueSource, device: torch.device
    ) -> None:  # fmt: skip
        self.model, self.options, self.mode, self.source, self.device = model, options, mode, source, device
        self.fast = FastWeights(
            model, options.fast_layers, options.targets, rank=options.rank, alpha=options.alpha
        ) if mode in ADAPTS else None  # fmt: skip
        self.inner = Inner(options.inner_steps, options.inner_rate, options.inner_clip, options.sync_inner)
        self.told: list[list[float]] = []

    def mask(self, batch: Dialogues, *, both_ways: bool | None = None) -> Tensor | None:
        """Of the mode, or as it is asked for."""
        return mask_of(self.model, batch, both_ways=self.mode in BOTH_WAYS if both_ways is None else both_ways)

    def loss(self, step: int) -> Tensor:
        """Of the answers of a batch, with fast weights adapted on it where the mode has them."""
        batch = self.source.batch(step).to(self.device)
        mask = self.mask(batch)
        if self.fast is None:
            return answer_loss(self.model, batch, mask)
        with adapted(self.model, self.fast, batch, mask, self.inner, (self.options.compute.seed, step)) as losses:
            value = answer_loss(self.model, batch, mask)
            self.told.append([*losses, float(value.detach())])
            return value

    def evaluate(self, model: Any) -> Mapping[str, float]:
        """Losses of held-out answers: causal (the main one), ``_turns`` with context read in both directions,
        ``_adapted`` with fast weights adapted on them; ``inner_first`` and ``inner_last`` are means over the steps
        since the last evaluation, of the batch's loss before the fast weights and with them."""
        batches = [batch.to(self.device) for batch in self.source.held_out()]
        causal = self.held_out(batches, both_ways=False)
        found = {"held_out_loss": causal, "held_out_likelihood": math.exp(-causal)}
        found["held_out_loss_turns"] = self.held_out(batches, both_ways=True) if may_turn(model) else math.nan
        if self.fast is not None:
            found["held_out_loss_adapted"] = self.held_out_adapted(batches)
            told, self.told = [row for row in self.told if len(row) > 1], []
            if told:
                found["inner_first"] = sum(row[0] for row in told) / len(told)
                found["inner_last"] = sum(row[-1] for row in told) / len(told)
        return found

    def held_out(self, batches: Sequence[Dialogues], *, both_ways: bool) -> float:
        """Mean over tokens of answers."""
        return over_tokens(
            batches, [float(answer_loss(self.model, b, self.mask(b, both_ways=both_ways))) for b in batches]
        )

    def held_out_adapted(self, batches: Sequence[Dialogues]) -> float:
        """The same under the mode's mask, with fast weights that have seen the answers."""
        assert self.fast is not None
        losses = []
        with torch.inference_mode(False), torch.enable_grad():
            for number, batch in enumerate(batches):
                own = Dialogues(batch.tokens.clone(), batch.answer.clone(), batch.real.clone())
                mask, seed = self.mask(own), (self.options.compute.seed, 1, number)
                with adapted(self.model, self.fast, own, mask, self.inner, seed), torch.no_grad():
                    losses.append(float(answer_loss(self.model, own, mask)))
        return over_tokens(batches, losses)


def over_tokens(batches: Sequence[Dialogues], losses: Sequence[float]) -> float:
    """Mean of the batches' losses, weighted by how many tokens each is of."""
    counts = [int(batch.answer[:, 1:].sum()) for batch in batches]
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / max(1, sum(counts))


def may_turn(model: Any) -> bool:
    """Whether the model can be given a mask of our own; see ``turns.window_of``."""
    from ...models.turns import window_of

    return not window_of(model)
