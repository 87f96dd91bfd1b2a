"""How near the last token stays to where it is with all visual tokens (methods/vflowopt.md, section 3.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.loaded import Loaded
from ..engine.hooks import pruned
from ..engine.sites import site_of
from ..methods.base import Keep, Pruner
from ..vlm.ask import PreparedBatch, PreparedPrompt, batch

BATCH = 8
"""Questions side by side."""


class LastTokens:
    """Questions whose last token is compared with itself, pruned.

    Parameters
    ----------
    loaded : Loaded
    questions : sequence of PreparedPrompt
    """

    def __init__(self, loaded: Loaded, questions: Sequence[PreparedPrompt]) -> None:
        self.site = site_of(loaded.model)
        chunks = (questions[start : start + BATCH] for start in range(0, len(questions), BATCH))
        self.batches: list[PreparedBatch] = [batch(loaded, chunk) for chunk in chunks]
        self.plain = [self._forward(one) for one in self.batches]

    def cosines(self, method: Pruner, keep: Keep) -> NDArray[np.float64]:
        """Cosine of the last token's state, pruned and not, of each question; what is no number counts 0."""
        found = []
        for one, (before, _) in zip(self.batches, self.plain, strict=True):
            with pruned(self.site.model, method.stages(self.site, keep), site=self.site, pictures=one.pictures):
                found.append(cosine(before, self._forward(one)[0]))
        return _numbers(found)

    def compared(self, method: Pruner, keep: Keep) -> tuple[NDArray[np.float64], Tensor, float]:
        """``cosines``, logits of the last token [n, V], and the mean of the shares of tokens that were left."""
        cosines, logits, left = [], [], []
        for one, (before, _) in zip(self.batches, self.plain, strict=True):
            stages = method.stages(self.site, keep)
            with pruned(self.site.model, stages, site=self.site, pictures=one.pictures) as trace:
                state, row = self._forward(one)
            cosines.append(cosine(before, state))
            logits.append(row)
            left += [trace.last.retention(sample) for sample in range(len(row))]
        return _numbers(cosines), torch.cat(logits), float(np.mean(left))

    @property
    def logits(self) -> Tensor:
        """Of the last token with all visual tokens, [n, V], float32."""
        return torch.cat([logits for _, logits in self.plain])

    @torch.no_grad()
    def _forward(self, one: PreparedBatch) -> tuple[Tensor, Tensor]:
        """State of the last token behind the last normalisation [B, D], and its logits [B, V]; both float32."""
        states: list[Tensor] = []
        handle = self.site.text.register_forward_hook(_noted(states.append))
        try:
            logits = self.site.model(**one.inputs).logits
        finally:
            handle.remove()
        return states[0], logits[:, -1].float()


def _numbers(cosines: Sequence[Tensor]) -> NDArray[np.float64]:
    return np.asarray(torch.cat(list(cosines)).nan_to_num(nan=0.0).cpu().numpy(), np.float64)


def _noted(note: Callable[[Tensor], None]) -> Callable[[Any, Any, Any], None]:
    def hook(text: Any, args: Any, out: Any) -> None:
        note(out.last_hidden_state[:, -1].float())

    return hook


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Of vectors [n, D]; that of a vector with itself is 1 to the bit. [n] float64."""
    a, b = one.double(), other.double()
    dot: Tensor = (a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1)).sqrt()
    return dot
