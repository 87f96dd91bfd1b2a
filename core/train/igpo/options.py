"""What `attn train igpo` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from ...bundles import Compute
from ...command import Verb
from ...fit.options import FILES, NOTES, EvaluateEvery, OutputFolder, TrainingOptions
from ...options import Option, OptionError, build, check, values
from .parts import (
    LARGE,
    METHODS,
    STRUCTURED_STEPS,
    SUMS,
    HintOptions,
    ObjectiveOptions,
    SamplingOptions,
    SourceOptions,
    shown,
)


def parse_methods(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


@dataclass(frozen=True, slots=True)
class IGPOOptions:
    """Source, the two stages, and the length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: of the first method; stage 1 is in ``sft/``, the other methods in folders of their names.
    methods : tuple of str or None
        What stage 2 is done with, from the same start: "igpo", "grpo" (no hints), "resample" (as many samples as igpo,
        no hints).
    steps : int or None
        Of stage 2, for each method: completions are drawn once a step.
    sft_steps, sft_batch, sft_learning_rate : optional
        Of stage 1, supervised fine-tuning on the traces.
    judged : int or None
        Questions that are held out; of sums so many with and so many without a carry.
    evaluate_every : int
        Steps of stage 2 between evaluations; stage 1 is evaluated four times.
    dry_run : int or None
        Plant hints into so many questions, show them, and train nothing.
    source, hints, sampling, objective, training, compute
    """

    output: OutputFolder
    methods: Annotated[
        tuple[str, ...] | None,
        Option(
            "Of stage 2; the first one's model is kept.", metavar="LIST", parse=parse_methods,
            shown="igpo,grpo,resample, with a model igpo",
        ),
    ] = None  # fmt: skip
    steps: Annotated[int | None, Option("Of stage 2.", metavar="N", least=1, resumable=True, shown=shown("steps"))] = (
        None
    )
    sft_steps: Annotated[int | None, Option("Of stage 1.", metavar="N", least=0, shown=shown("sft_steps"))] = None
    sft_batch: Annotated[int | None, Option("Traces of a step of stage 1.", metavar="N", least=1,
                                            shown=shown("sft_batch"))] = None  # fmt: skip
    sft_learning_rate: Annotated[
        float | None,
        Option("Highest rate of stage 1.", metavar="X", above=0.0, below=1.0, shown="0.002, with a model 1e-05"),
    ] = None
    judged: Annotated[int | None, Option("Questions held out.", metavar="N", least=1, shown=shown("judged"))] = None
    evaluate_every: EvaluateEvery = 20
    dry_run: Annotated[
        int | None, Option("Plant hints into N questions, show them, train nothing.", metavar="N", least=1)
    ] = None
    source: SourceOptions = field(default_factory=SourceOptions)
    hints: HintOptions = field(default_factory=HintOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        for name in self.methods or ():
            if name not in METHODS:
                raise OptionError(f"{{methods}}: no method named {name!r}. There are {', '.join(METHODS)}.")
        if self.methods is not None and len(set(self.methods)) < len(self.methods):
            raise OptionError("{methods}: one is named twice. Name each once.")


def complete_options(options: IGPOOptions) -> IGPOOptions:
    """The same with nothing left open. Raises ``OptionError`` for values that do not go together."""
    preset = SUMS if options.source.model is None else LARGE
    given: dict[str, Any] = {
        name: preset.get(name) if value is None else value for name, value in values(options).items()
    }
    if given["sampling_steps"] is None:
        given["sampling_steps"] = max(1, given["completion"] // 2)
    completion, block, steps, tail = (given[n] for n in ("completion", "block", "sampling_steps", "free_tail"))
    if completion % block:
        raise OptionError(f"{{block}}: {block} does not divide {{completion}} {completion}.")
    if steps % (completion // block) or steps > completion:
        raise OptionError(
            f"{{sampling_steps}}: {steps} is no multiple of the {completion // block} blocks, at most {completion}."
        )
    if given["chunk_least"] > given["chunk_most"]:
        raise OptionError(f"{{chunk_least}}: {given['chunk_least']} is above {{chunk_most}} {given['chunk_most']}.")
    if given["chunk_least"] > completion - tail:
        raise OptionError(
            f"{{free_tail}}: {tail} of {{completion}} {completion} leave no room for a hint of {{chunk_least}} "
            f"{given['chunk_least']} tokens."
        )
    if given["estimate"] == "structured" and steps < STRUCTURED_STEPS:
        raise OptionError(f"{{estimate}}: structured needs {{sampling_steps}} of {STRUCTURED_STEPS} or more.")
    return build(IGPOOptions, given)


RECIPE = Verb(
    options=IGPOOptions,
    run="attn.core.train.igpo.run:train_igpo",
    description="""Train a masked diffusion language model with hints where every sample is wrong (IGPO).

    Stage 1 learns traces; stage 2 draws groups of completions and learns from what is right in them. Of a group all
    wrong nothing could be learnt: pieces of the known trace are planted among the masks, the model completes the
    rest, and what is then right replaces some of the wrong samples. Without --model a small model learns two-digit
    sums, whose carries stage 1 hardly shows, by IGPO, by GRPO and with as many samples but no hints, with equal
    updates from the same start: minutes on one core. With --model it is a model like LLaDA on questions of your own.
    """,
    examples=(
        ("attn train igpo -o run/", "Sums: all three methods, and their table."),
        ("attn train igpo -o run/ --report run.html", "With planted hints in colour."),
        ("attn train igpo --model LLaDA/ --data math.jsonl --dry-run 5 -o look/", "What would be planted."),
        ("attn train igpo --model LLaDA/ --data math.jsonl --verifier checks:right -o run/", "A judge of your own."),
    ),
    files=(
        *FILES,
        ("OUT/sft/, OUT/grpo/, OUT/resample/", "The runs of stage 1 and of the other methods."),
        ("OUT/config.json and others", "With --model: the model as a folder, which --model takes again."),
        ("OUT/planted.jsonl", "Of --dry-run: hints and their positions, a line for each question and share."),
    ),
    notes=(
        *NOTES,
        "--data: JSON lines with prompt, reasoning and answer. What stands from the answer's marker on (####, "
        "The answer is:) is cut from the reasoning unless --hint-answer is given.",
        "--model needs peft for its adapters: pip install 'attn[lora]'; --lora 0 trains all weights without it.",
    ),
    columns=("igpo_carry", "grpo_carry", "resample_carry", "igpo_no_carry", "grpo_no_carry"),
)
