"""How long a model takes with all visual tokens and with fewer (methods/prune-evaluation.md, section 1, point 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ...device import synchronise
from ..engine.checks import Positions
from ..engine.hooks import pruned
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.prompts import Pictured
from ..engine.sites import VisionLanguageSite, site_of

REPEATS = 5
STEPS = 8
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class CallTimes:
    """Medians, in seconds, of the language model alone: the image tower works the same before and after.

    Parameters
    ----------
    prefill : float
        One call with the whole prompts.
    decode : float
        One step behind them.
    scoring : float
        What of ``prefill`` the method takes to choose.
    """

    prefill: float
    decode: float
    scoring: float = 0.0


@dataclass(frozen=True, slots=True)
class PruneTimes:
    """Of the same prompts, turn by turn.

    Parameters
    ----------
    before, after : CallTimes
        With all visual tokens, and with fewer.
    repeats : int
        Of which these are the medians; one more in front was not counted.
    batch, length : int
        Prompts, and their tokens with padding.
    """

    before: CallTimes
    after: CallTimes
    repeats: int
    batch: int
    length: int


@torch.no_grad()
def prune_times(
    model: nn.Module, inputs: Mapping[str, Tensor], stages: Sequence[PruneStage], *, positions: Positions = "keep",
    pictures: Pictured | None = None, repeats: int = REPEATS, steps: int = STEPS, clock: Clock = time.perf_counter,
) -> PruneTimes:  # fmt: skip
    """Time a model with and without pruning, in turns, so that other load hits both.

    Parameters
    ----------
    model : Module
    inputs : mapping
        What ``generate`` takes.
    stages : sequence of PruneStage
        Of a method.
    positions, pictures
        As for ``pruned``.
    repeats : int
        Rounds behind one that is not counted.
    steps : int
        Of decoding, in each round; the model's end token does not end them.
    clock : callable
        Seconds; ``time.process_time`` where other programs run.
    """
    site = site_of(model)
    plain, fewer = _Watch(site, clock), _Watch(site, clock)
    for number in range(repeats + 1):
        for watch, own in ((plain, ()), (fewer, stages)):
            timed = [watch.timed(stage) for stage in own]
            with pruned(site.model, timed, positions=positions, site=site, pictures=pictures), watch.watching():
                site.model.generate(
                    **inputs, do_sample=False, num_beams=1, max_new_tokens=steps + 1, min_new_tokens=steps + 1
                )
            watch.close(counts=number > 0)
    batch, length = inputs["input_ids"].shape
    return PruneTimes(plain.times(), fewer.times(), repeats, batch, length)


@dataclass(slots=True)
class _Watch:
    """Times of the calls of a language model and of the choices in them."""

    site: VisionLanguageSite
    clock: Clock
    calls: list[float] = field(default_factory=list)
    choices: list[float] = field(default_factory=list)
    rounds: list[tuple[float, float, float]] = field(default_factory=list)  # prefill, step, choices
    began: float = 0.0

    def now(self) -> float:
        synchronise(self.site.model.device)
        return self.clock()

    def timed(self, stage: PruneStage) -> PruneStage:
        def choose(moment: Moment) -> list[TokenChoice]:
            start = self.now()
            choices = stage.choose(moment)
            self.choices.append(self.now() - start)
            return choices

        return replace(stage, choose=choose)

    @contextmanager
    def watching(self) -> Iterator[None]:
        def begin(text: Any, args: Any) -> None:
            self.began = self.now()

        def end(text: Any, args: Any, output: Any) -> None:
            self.calls.append(self.now() - self.began)

        with ExitStack() as stack:
            stack.callback(self.site.text.register_forward_pre_hook(begin, prepend=True).remove)
            stack.callback(self.site.text.register_forward_hook(end).remove)
            yield

    def close(self, *, counts: bool) -> None:
        """End a round."""
        if counts:
            self.rounds.append((self.calls[0], median(self.calls[1:]), sum(self.choices)))
        self.calls.clear()
        self.choices.clear()

    def times(self) -> CallTimes:
        return CallTimes(*(median(values) for values in zip(*self.rounds, strict=True)))
