"""Times are those of the calls they are named after: counted by a clock that ticks in known places."""

from __future__ import annotations

from typing import Any

from prunable import question, untrained

from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice
from attn.core.prune.measure.timing import prune_times


class Clock:
    """Ten seconds for every layer of a call with several rows, one of a call with one, and 100 for a choice."""

    def __init__(self, model: Any) -> None:
        self.time = 0.0
        for layer in model.model.language_model.layers:
            layer.register_forward_hook(self.layer)

    def layer(self, layer: Any, args: Any, output: Any) -> None:
        self.time += 10 if args[0].shape[1] > 1 else 1

    def choose(self, moment: Moment) -> list[TokenChoice]:
        self.time += 100
        return [TokenChoice(numbers[::2]) for numbers in moment.numbers]

    def __call__(self) -> float:
        return self.time


def test_what_is_timed() -> None:
    model, inputs = untrained("llava"), question("llava")
    model.generation_config.eos_token_id = list(range(40))  # it would stop soon
    clock = Clock(model)
    stages = [PruneStage(0, clock.choose), PruneStage(2, clock.choose)]
    found = prune_times(model, inputs, stages, repeats=2, steps=3, clock=clock)
    assert (found.before.prefill, found.before.decode, found.before.scoring) == (40, 4, 0)
    assert (found.after.prefill, found.after.decode, found.after.scoring) == (240, 4, 200)
    assert (found.repeats, found.batch, found.length) == (2, 1, inputs["input_ids"].shape[1])


def test_a_real_clock() -> None:
    model, inputs = untrained("qwen2_5_vl"), question("qwen2_5_vl")
    stages = [PruneStage(2, lambda moment: [TokenChoice(numbers[::2]) for numbers in moment.numbers])]
    found = prune_times(model, inputs, stages, repeats=1, steps=2)
    assert 0 < found.after.scoring < found.after.prefill
    assert min(found.before.prefill, found.before.decode, found.after.decode) > 0
