"""The parts of what `attn train igpo` can be told: source, hints, sampling, objective; and their defaults.

A default of None is that of what is trained: the drawn sums, or a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from ...options import Option, OptionError, check

T = TypeVar("T")
METHODS = ("igpo", "grpo", "resample")
Ratio = Literal["sequence", "token", "sequence-filtered"]
Estimate = Literal["masked", "structured"]
SUMS: dict[str, Any] = {
    "methods": METHODS, "chunk_least": 2, "chunk_most": 4, "free_tail": 3, "stretch": 1.0, "questions": 4,
    "completion": 24, "block": 24, "sampling_steps": 12, "temperature": 1.0, "inner": 2, "beta": 0.02,
    "learning_rate": 1e-4, "weight_decay": 0.01, "clip": 1.0, "steps": 60, "sft_steps": 500, "sft_batch": 96,
    "sft_learning_rate": 2e-3, "judged": 128, "lora": 0,
}  # fmt: skip
"""For the drawn sums: methods/igpo.md, section 5."""
LARGE: dict[str, Any] = {
    "methods": METHODS[:1], "chunk_least": 5, "chunk_most": 10, "free_tail": 30, "stretch": 1.5, "questions": 1,
    "completion": 256, "block": 32, "temperature": 1.2, "inner": 4, "beta": 0.01, "learning_rate": 5e-7,
    "weight_decay": 0.1, "clip": 0.2, "steps": 1000, "sft_steps": 0, "sft_batch": 8, "sft_learning_rate": 1e-5,
    "judged": 128, "lora": 128,
}  # fmt: skip
"""For a model: methods/igpo.md, section 4, the released script."""
STRUCTURED_STEPS = 32
"""Least number of sampling steps for a structured estimate."""


def filled(value: T | None) -> T:
    """A value that ``options.complete_options`` has filled in."""
    assert value is not None
    return value


def shown(name: str) -> str:
    """What help says of a default that depends on what is trained."""
    large = {"sampling_steps": "half of the completion"}.get(name, LARGE.get(name))
    return f"{SUMS[name]:g}, with a model {large if isinstance(large, str) else f'{large:g}'}"


@dataclass(frozen=True, slots=True)
class HintOptions:
    """Which pieces of a trace are planted, where, and what becomes of them; None: by what is trained.

    Parameters
    ----------
    hint_least, hint_most : float
        Share of a trace's chunks that is planted: drawn anew for each sample.
    chunk_least, chunk_most : int or None
        Tokens of a chunk.
    free_tail : int or None
        Last positions of a completion, which are never hinted.
    stretch : float or None
        How far apart hints are moved, at most, where a completion is longer than the trace.
    hint_answer : bool
        The final answer may be planted, as in the released code; the paper excludes it.
    replace : int
        Wrong samples of a group that right ones with hints may replace.
    entropy_keep : float
        Share of a sample's hints that are learnt, those about which the policy was least sure.
    """

    hint_least: Annotated[float, Option("Least share of a trace planted.", metavar="X", least=0.0, most=1.0)] = 0.2
    hint_most: Annotated[float, Option("Greatest share of a trace planted.", metavar="X", least=0.0, most=1.0)] = 0.6
    chunk_least: Annotated[
        int | None, Option("Tokens of a planted chunk, at least.", metavar="N", least=1, shown=shown("chunk_least"))
    ] = None
    chunk_most: Annotated[
        int | None, Option("Tokens of a planted chunk, at most.", metavar="N", least=1, shown=shown("chunk_most"))
    ] = None
    free_tail: Annotated[
        int | None, Option("Last positions that are never hinted.", metavar="N", least=0, shown=shown("free_tail"))
    ] = None
    stretch: Annotated[
        float | None,
        Option("How far hints are moved apart in long completions.", metavar="X", least=1.0, shown=shown("stretch")),
    ] = None
    hint_answer: Annotated[bool, Option("The final answer may be planted, too (released code).")] = False
    replace: Annotated[int, Option("Wrong samples of a group that may be replaced.", metavar="N", least=1)] = 4
    entropy_keep: Annotated[
        float, Option("Share of planted tokens that are learnt, the least sure.", metavar="X", above=0.0, most=1.0)
    ] = 0.2

    def __post_init__(self) -> None:
        check(self)
        if self.hint_least > self.hint_most:
            raise OptionError(f"{{hint_least}}: {self.hint_least:g} is above {{hint_most}} {self.hint_most:g}.")


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How completions are drawn; None: by what is trained.

    Parameters
    ----------
    group : int
        Completions of each question.
    questions : int or None
        Groups of a step.
    completion, block, sampling_steps : int or None
        Tokens of a completion and of its blocks, and forward passes for it.
    temperature : float or None
    """

    group: Annotated[int, Option("Completions of each question.", metavar="N", least=2)] = 8
    questions: Annotated[int | None, Option("Questions of a step.", metavar="N", least=1, shown=shown("questions"))] = (
        None
    )
    completion: Annotated[
        int | None, Option("Tokens of a completion.", metavar="N", least=2, shown=shown("completion"))
    ] = None
    block: Annotated[int | None, Option("Tokens of a block.", metavar="N", least=1, shown=shown("block"))] = None
    sampling_steps: Annotated[
        int | None, Option("Forward passes of a completion.", metavar="N", least=1, shown=shown("sampling_steps"))
    ] = None
    temperature: Annotated[
        float | None, Option("Of the samples.", metavar="X", above=0.0, most=10.0, shown=shown("temperature"))
    ] = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class ObjectiveOptions:
    """What is learnt of a group; None: by what is trained.

    Parameters
    ----------
    ratio : {"sequence", "token", "sequence-filtered"}
        See ``objective.ClippedObjective``.
    clip_low, clip_high : float
        How far a ratio counts below and above 1.
    beta : float or None
        Weight of the KL divergence from the policy that stage 2 begins with.
    inner : int or None
        Updates with each set of completions.
    estimate : {"masked", "structured"}
        Log-probabilities with everything masked, or with more from update to update.
    mask_after_eos : bool
        Tokens behind the first end of text are not learnt; the released code learns them.
    learning_rate, weight_decay, clip : float or None
        Of AdamW, constant after ``warmup`` updates; largest norm of the gradient.
    warmup : int
    """

    ratio: Annotated[
        Ratio, Option("Of new to old policy.", metavar="sequence|token|sequence-filtered")
    ] = "sequence"  # fmt: skip
    clip_low: Annotated[float, Option("A ratio counts down to 1 - X.", metavar="X", above=0.0, most=1.0)] = 0.2
    clip_high: Annotated[float, Option("A ratio counts up to 1 + X.", metavar="X", above=0.0)] = 0.2
    beta: Annotated[
        float | None, Option("Weight of the KL divergence.", metavar="X", least=0.0, shown=shown("beta"))
    ] = None
    inner: Annotated[int | None, Option("Updates of a step.", metavar="N", least=1, shown=shown("inner"))] = None
    estimate: Annotated[
        Estimate, Option("Everything masked, or more from update to update.", metavar="masked|structured")
    ] = "masked"
    mask_after_eos: Annotated[bool, Option("Tokens behind the end of text are not learnt.")] = False
    learning_rate: Annotated[
        float | None,
        Option("Of AdamW in stage 2.", metavar="X", above=0.0, below=1.0, shown="0.0001, with a model 5e-07"),
    ] = None
    weight_decay: Annotated[
        float | None, Option("Of stage 2.", metavar="X", least=0.0, shown=shown("weight_decay"))
    ] = None
    clip: Annotated[float | None, Option("Largest norm of gradients.", metavar="X", least=0.0, shown=shown("clip"))] = (
        None
    )
    warmup: Annotated[int, Option("Updates of stage 2 in which the rate rises.", metavar="N", least=0)] = 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Who is asked what, and who judges the answers.

    Parameters
    ----------
    model : str or None
        Masked diffusion language model; None: a small one, trained on drawn sums.
    weights : Path or None
        Model file that the small model starts from.
    data : Path or None
        JSON lines with ``prompt``, ``reasoning`` and ``answer``.
    verifier : str or None
        ``MODULE:FUNCTION``, called with prompt, completion and answer.
    answer_pattern : str or None
        Regular expression whose last match's group is compared to the answer.
    instruction : str or None
        Goes before every prompt; None: the one that names the format that is rewarded. Empty: none.
    lora : int or None
        Rank of the adapters that are trained; 0 trains all weights.
    dtype : str
        Of the model.
    traces : {"concise", "long"}
        Of the drawn sums, in stage 1 and for hints.
    allow_download : bool
    """

    model: Annotated[
        str | None, Option("Masked diffusion LM (LLaDA): folder or id.", metavar="MODEL", shown="a small one, on sums")
    ] = None
    weights: Annotated[Path | None, Option("Start from a model file of this recipe.", metavar="FILE")] = None
    data: Annotated[Path | None, Option("JSON lines: prompt, reasoning, answer.", metavar="FILE")] = None
    verifier: Annotated[
        str | None, Option("Judges (prompt, completion, answer): true, or a reward.", metavar="MODULE:FUNCTION")
    ] = None
    answer_pattern: Annotated[
        str | None, Option("Its last match's group must be the answer.", metavar="REGEX", shown="the last \\boxed{}")
    ] = None
    instruction: Annotated[str | None, Option("Goes before every prompt.", metavar="TEXT", shown="the format")] = None
    lora: Annotated[
        int | None, Option("Rank of LoRA adapters; 0: all weights.", metavar="N", least=0, shown=shown("lora"))
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"], Option("Of the model's weights.", metavar="float32|bfloat16")
    ] = "float32"  # fmt: skip
    traces: Annotated[
        Literal["concise", "long"], Option("Of sums: short ones, or with repeated steps.", metavar="concise|long")
    ] = "concise"
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False

    def __post_init__(self) -> None:
        check(self)
        if self.verifier is not None and self.answer_pattern is not None:
            raise OptionError("{verifier} and {answer_pattern}: one judges the answers. Give one of them.")
        if self.verifier is not None and not re.fullmatch(r"[\w.]+:\w+", self.verifier):
            raise OptionError(f"{{verifier}}: {self.verifier!r} is no module and function, such as checks:right.")
        if self.answer_pattern is not None:
            try:
                groups = re.compile(self.answer_pattern).groups
            except re.error as error:
                raise OptionError(f"{{answer_pattern}}: no regular expression ({error}).") from None
            if groups != 1:
                raise OptionError(f"{{answer_pattern}}: it has {groups} groups, not 1: the one that is the answer.")
        large = {"data": self.data, "verifier": self.verifier, "answer_pattern": self.answer_pattern}
        for name, given in large.items():
            if given is not None and self.model is None:
                raise OptionError(f"{{{name}}} needs {{model}}: without a model, drawn sums are asked.")
        if self.model is not None and self.data is None:
            raise OptionError("{model} needs {data}: JSON lines with prompt, reasoning and answer.")
        if self.model is not None and self.weights is not None:
            raise OptionError("{weights} and {model}: both say what to start from. Give one of them.")
        if self.model is not None and self.traces != "concise":
            raise OptionError("{traces}: only drawn sums have long ones. Put long traces into {data}.")
        if self.model is None and self.lora:
            raise OptionError("{lora} needs {model}: of the small one all weights are trained.")
