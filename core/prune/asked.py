"""One picture with a question, before and after pruning: what the model says, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..models.hf import quiet
from .engine.hooks import pruned
from .engine.sites import VisionLanguageSite
from .engine.trace import Prefill
from .measure.fidelity import TextAttention, answer_log_probabilities
from .measure.nearness import nearness
from .measure.timing import PruneTimes, prune_times
from .vlm.ask import Answer, PreparedPrompt, answer

if TYPE_CHECKING:
    from ..models.loaded import Loaded
    from .engine.checks import Positions
    from .engine.prompts import OfferedAnswer
    from .methods.base import Keep, Pruner


@dataclass(frozen=True, slots=True)
class Question:
    """A prepared question, and what the whole model says to it.

    Parameters
    ----------
    loaded : Loaded
    site : VisionLanguageSite
    prepared : PreparedPrompt
    plain : Answer
    attention : TextAttention
        Of the whole model.
    longest : int
        Tokens of an answer, at most.
    repeats : int
        Timed rounds; 0: nothing is timed.
    """

    loaded: Loaded
    site: VisionLanguageSite
    prepared: PreparedPrompt
    plain: Answer
    attention: TextAttention
    longest: int
    repeats: int

    def pruned(self, pruner: Pruner, keep: Keep, positions: Positions) -> Pruned:
        """What it says with fewer visual tokens."""
        stages, model, inputs = pruner.stages(self.site, keep), self.loaded.model, self.prepared.inputs
        pictures = (self.prepared.pictures,)
        with pruned(model, stages, positions=positions, site=self.site, pictures=pictures) as trace:
            said = answer(self.loaded, self.prepared, max_new_tokens=self.longest)
        times = None
        if self.repeats:
            with quiet():
                times = prune_times(model, inputs, stages, positions=positions, pictures=pictures, repeats=self.repeats)

        def follow() -> Tensor:
            with pruned(model, stages, positions=positions, site=self.site, pictures=pictures):
                return answer_log_probabilities(model, inputs, self.plain.ids)

        return Pruned(said, trace.last, times, nearness(self.plain, said, follow))


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a method left, what the model says then, how long it takes, and how near that is to the whole model."""

    answer: Answer
    prefill: Prefill
    times: PruneTimes | None
    near: Mapping[str, float]

    @property
    def offer(self) -> OfferedAnswer | None:
        """A smaller model's answer, where the method makes one."""
        return self.prefill.offers[0] if self.prefill.offers else None

    @property
    def text(self) -> str:
        """The answer that is given."""
        return self.offer.text if self.offer is not None and self.offer.taken else self.answer.text

    @property
    def owner(self) -> NDArray[np.int64]:
        """Of each visual token, the one that holds it in the last layer; -1: none does. [V]."""
        every, kept = np.arange(self.prefill.before[0]), self.prefill.kept()
        return every if kept is None else np.where(np.isin(every, kept.cpu().numpy()), every, -1)

    @property
    def merged(self) -> frozenset[int]:
        """Visual tokens that hold more than themselves."""
        return frozenset(self.prefill.merged.get(0, ()))
