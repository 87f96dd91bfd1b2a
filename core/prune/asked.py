"""One picture with a question, before and after pruning: what the model says, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .engine.hooks import pruned
from .engine.sites import VisionLanguageSite
from .engine.trace import Prefill
from .measure.fidelity import TextAttention
from .vlm.ask import Answer, PreparedPrompt, answer

if TYPE_CHECKING:
    from ..models.loaded import Loaded
    from .engine.checks import Positions
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
    """

    loaded: Loaded
    site: VisionLanguageSite
    prepared: PreparedPrompt
    plain: Answer
    attention: TextAttention
    longest: int

    def pruned(self, pruner: Pruner, keep: Keep, positions: Positions) -> Pruned:
        """What it says with fewer visual tokens."""
        stages = pruner.stages(self.site, keep)
        with pruned(
            self.loaded.model, stages, positions=positions, site=self.site, pictures=(self.prepared.pictures,)
        ) as trace:
            said = answer(self.loaded, self.prepared, max_new_tokens=self.longest)
        return Pruned(said, trace.last)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a method left, and what the model says then."""

    answer: Answer
    prefill: Prefill

    @property
    def owner(self) -> NDArray[np.int64]:
        """Of each visual token, the one that holds it in the last layer; -1: none does. [V]."""
        every, kept = np.arange(self.prefill.before[0]), self.prefill.kept()
        return every if kept is None else np.where(np.isin(every, kept.cpu().numpy()), every, -1)

    @property
    def merged(self) -> frozenset[int]:
        """Visual tokens that hold more than themselves."""
        return frozenset(self.prefill.merged.get(0, ()))
