"""Early exit: where the guide's own answer looks safe, the large model is not asked (methods/sgl.md, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ...models.loaded import Loaded
from ...models.pictures import ColourPicture
from ..engine.hooks import pruned
from ..engine.sites import site_of
from ..methods.base import Keep
from ..vlm.ask import PreparedPrompt, answer, prepare, said
from .guide import CONSISTENCY, GuideRun, decisions_of, run_guide, same_tokens
from .pruner import SGL, loaded_guide

THRESHOLD = 0.8
Answering = Literal["guide", "large"]


@dataclass(frozen=True, slots=True)
class GuideAnswer:
    """What a guide says, and how safe that is.

    Parameters
    ----------
    text : str
    run : GuideRun
    decision : float
        Mean of confidence and consistency.
    """

    text: str
    run: GuideRun
    decision: float

    @property
    def importance(self) -> Tensor:
        """Of the visual tokens, [V]."""
        return self.run.received.importance()[0]


@dataclass(frozen=True, slots=True)
class ExitAnswer:
    """An answer, and who gave it.

    Parameters
    ----------
    text : str
    by : {"guide", "large"}
    guide : GuideAnswer
    """

    text: str
    by: Answering
    guide: GuideAnswer


@dataclass
class EarlyExit:
    """A guide and a large model that answer together.

    >>> ask = EarlyExit(guide, large, threshold=0.8)  # doctest: +SKIP
    >>> ask([picture], "what colour is the bus").by, ask.calls  # doctest: +SKIP
    ('guide', {'guide': 1, 'large': 0})

    Parameters
    ----------
    guide, large : Loaded
        Each reads the question with its own processor; both must split pictures alike.
    keep : Keep
        What the large model sees behind its first layers.
    threshold : float
        The guide's answer is taken if its decision is this or more: 0 always takes it, above 1 never.
    method : SGL
        Its settings ``f_layer``, ``layer``, ``rows`` and modifiers.
    consistency : Keep
        What the guide sees when it is asked whether it would say the same again.
    max_new_tokens : int
    calls : dict, "guide" and "large" -> int
        How often each was asked.
    """

    guide: Loaded
    large: Loaded
    keep: Keep = Keep(share=0.4)  # noqa: RUF009 - frozen
    threshold: float = THRESHOLD
    method: SGL = SGL()  # noqa: RUF009 - frozen
    consistency: Keep = CONSISTENCY
    max_new_tokens: int = 10
    calls: dict[Answering, int] = field(default_factory=lambda: {"guide": 0, "large": 0})

    def __post_init__(self) -> None:
        loaded_guide(self.guide, site_of(self.large))

    def __call__(self, pictures: Sequence[ColourPicture], prompt: str) -> ExitAnswer:
        """Answer a question about pictures. Raises ``UsageError`` where the models do not split them alike."""
        small = self.ask_guide(prepare(self.guide, pictures, prompt))
        if small.decision >= self.threshold:
            return ExitAnswer(small.text, "guide", small)
        return ExitAnswer(self.ask_large(prepare(self.large, pictures, prompt), small.importance), "large", small)

    def ask_guide(self, prepared: PreparedPrompt) -> GuideAnswer:
        """The guide's answer, all visual tokens there, and its decision."""
        self.calls["guide"] += 1
        site = site_of(self.guide)
        run = run_guide(site, prepared.inputs, max_new_tokens=self.max_new_tokens, rows=self.method.rows)
        (decision,) = decisions_of(site, prepared.inputs, run, self.consistency)
        return GuideAnswer(said(self.guide, run.ids[0]), run, decision)

    def ask_large(self, prepared: PreparedPrompt, importance: Tensor) -> str:
        """The large model's answer without the tokens that are of little importance [V]."""
        same_tokens(len(importance), prepared.tokens)
        self.calls["large"] += 1
        site = site_of(self.large)
        stage = self.method.stage(site, self.keep, lambda prompts: [importance])
        with torch.no_grad(), pruned(site.model, [stage], site=site, pictures=(prepared.pictures,)):
            return answer(self.large, prepared, max_new_tokens=self.max_new_tokens).text
