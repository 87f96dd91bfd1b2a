"""SGL: "A Stitch in Time Saves Nine: Small VLM is a Precise Guidance for Accelerating Large VLMs" (methods/sgl.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import UsageError
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.tokens import vocabulary
from ...options import OptionError
from ..data.marks import check_unseen
from ..data.samples import QuestionSample
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.prompts import OfferedAnswer, Prompts, prompts_of
from ..engine.sites import VisionLanguageSite, site_of
from ..methods.base import Keep, Pruner, top
from ..vlm.ask import said
from .fitted import read_exit
from .guide import GuideRun, about_the_guide, decisions_of, run_guide, same_tokens
from .importance import TextRows

Ranking = Callable[[Prompts], list[Tensor]]
"""Importance of each prompt's visual tokens [V_b]."""
_RUN = "sgl.run"


@dataclass(frozen=True)
class SGL(Pruner):
    """The tokens that a small model attended to most, in all of its layers and heads, while it answered.

    Over all layers 64, 36 and 9 % of the tokens are left of 48 layers with ``f_layer`` and share 0.4 and 0.4, 0.2 and
    0.2, ``layer`` 2 and share 0.05 (section 3.2).

    Parameters
    ----------
    guide : Module, Loaded or str
        The small model; as a name it is loaded beside the large one. It reads the large model's tokens.
    f_layer : float
        Tokens are taken out in front of the large model's layer int(depth f_layer).
    layer : int, optional
        That layer itself.
    rows : {"paper", "code"}
        See ``importance.received_attention``.
    guide_tokens : int
        Longest answer of the guide.
    early_exit : float or Path, optional
        The guide's own answer is offered in the trace (``Prefill.offers``), and is to be taken where its decision is
        this or more; or a file with the threshold, which ``attn prune calibrate sgl`` wrote. The large model goes on
        all the same: ``early.EarlyExit`` spares it. None: nothing is offered.
    """

    attentive = True

    guide: nn.Module | Loaded | str | None = None
    f_layer: float = 0.4
    layer: int | None = None
    rows: TextRows = "paper"
    guide_tokens: int = 10
    early_exit: float | Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.f_layer < 1:
            raise UsageError(f"f_layer: {self.f_layer} is no share of the layers, from 0 and below 1.")
        if isinstance(self.early_exit, float) and not self.early_exit >= 0:
            raise OptionError(f"{{early_exit}}: {self.early_exit} is no threshold from 0 on.")
        if self.guide_tokens < 1:
            raise UsageError(f"guide_tokens: {self.guide_tokens} leaves the guide nothing to say.")

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        if self.guide is None:
            raise OptionError("{guide}: sgl needs a smaller model of the same family, which says what matters.")
        guide = loaded_guide(self.guide, site)
        safe, told = self._safe(site, guide)
        return [self.stage(site, keep, lambda prompts: self._ranking(guide, prompts, safe, told), pixels=True)]

    def _safe(self, site: VisionLanguageSite, guide: nn.Module | Loaded) -> tuple[float | None, Sequence[str]]:
        """From where on a guide's answer is safe, and what a user must know of that."""
        if not isinstance(self.early_exit, Path):
            return self.early_exit, ()
        fitted = read_exit(self.early_exit)
        fingerprints = site.fingerprint, site_of(guide).fingerprint
        return fitted.threshold, fitted.differences(fingerprints, self.guide_tokens)

    def check_held_out(self, samples: Iterable[QuestionSample]) -> None:
        super().check_held_out(samples)
        if isinstance(self.early_exit, Path):
            check_unseen(samples, read_exit(self.early_exit).marks, "the threshold was found on")

    def stage(self, site: VisionLanguageSite, keep: Keep, ranking: Ranking, *, pixels: bool = False) -> PruneStage:
        """The only stage: the most important tokens stay, in front of one layer of the large model."""

        def choose(moment: Moment) -> list[TokenChoice]:
            importance = [
                score[numbers] for score, numbers in zip(ranking(moment.prompts), moment.numbers, strict=True)
            ]
            return [
                top(score, numbers, keep.of(len(score)))
                for score, numbers in zip(self.modified(moment, importance), moment.numbers, strict=True)
            ]

        layer = int(site.depth * self.f_layer) if self.layer is None else self.layer
        return PruneStage(layer, choose, pixels=pixels)

    def _ranking(
        self, guide: nn.Module | Loaded, prompts: Prompts, safe: float | None, told: Sequence[str]
    ) -> list[Tensor]:
        """By the guide's own run on what the large model was given, once for a batch."""
        if _RUN not in prompts.cache:
            site, call = site_of(guide), {**prompts.inputs, **prompts.pixels}
            for own, count in zip(prompts_of(site, call).counts, prompts.counts, strict=True):
                same_tokens(own, count)
            if (largest := int(prompts.input_ids.max())) >= vocabulary(site.model):
                raise OptionError(f"{{guide}}: it has no token {largest}. Take one that reads the same tokens.")
            run = run_guide(site, call, max_new_tokens=self.guide_tokens, rows=self.rows)
            prompts.note("sgl: the guide's own run comes on top of what is counted for the large model.")
            for text in told:
                prompts.note(f"sgl: {text}")
            if safe is not None:
                prompts.offers[:] = _offers(guide, site, call, run, safe)
            prompts.cache[_RUN] = run
        found: GuideRun = prompts.cache[_RUN]
        return found.received.importance()


def _offers(
    guide: nn.Module | Loaded, site: VisionLanguageSite, call: Mapping[str, Any], run: GuideRun, safe: float
) -> list[OfferedAnswer]:
    """The guide's answers in words (of a module alone in tokens), and how safe they are."""
    texts = [said(guide, ids) if isinstance(guide, Loaded) else f"tokens {ids.tolist()}" for ids in run.ids]
    decisions = decisions_of(site, call, run)
    return [OfferedAnswer(text, decision, safe) for text, decision in zip(texts, decisions, strict=True)]


def loaded_guide(guide: nn.Module | Loaded | str, large: VisionLanguageSite) -> nn.Module | Loaded:
    """A guide, loaded where it is named. Raises ``UsageError`` if it is the large model itself."""
    if isinstance(guide, str):
        weight = next(large.model.parameters())
        with about_the_guide():
            guide = load_model(guide, "vision-language", device=weight.device, dtype=weight.dtype)
    if site_of(guide).model is large.model:
        raise OptionError("{guide}: it is the large model itself. Take a smaller one of the same family.")
    return guide
