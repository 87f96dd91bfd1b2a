"""`attn train focusft`: a language model tuned on long contexts in four modes from one start, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...models.files import sha256
from ...models.hf import positions
from ...models.language import small_language, word_tokeniser, write_language
from ...models.load import load_model
from ...models.turns import window_of
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Curve, Row
from ...report.write import markdown_table
from .data import DrawnSource, chats_of
from .fast import targets_of
from .judging import chat_row, drawn_rows
from .options import ADAPTS, BOTH_WAYS, QUESTIONS, TIMES, FocusOptions
from .recipe import DialogueSource, FocusRecipe
from .tasks import WORDS, TaskSize

TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ ' ' + message['content'] }}{% endfor %}"
"""Of the small model: words, without marks between turns."""
ROPE_THETA = 1e4
BASE_RATE = 2e-3
SHORTEST = {"lookup": 2, "common-words": 4}
"""Shortest contexts of the small model. Looking up is learnt all at once, the earlier the fewer pairs there are."""
LONGEST = 4096
"""Tokens that the small model says it reads."""


@dataclass(frozen=True, slots=True)
class TuningStart:
    """What all modes begin with.

    Parameters
    ----------
    model : PreTrainedModel
    tokeniser
    source : DialogueSource
    identity : mapping
        What makes the run that run.
    warnings : tuple of str
    """

    model: Any
    tokeniser: Any
    source: DialogueSource
    identity: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def train_focusft(
    options: FocusOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Tune a causal language model in every mode from the same start, with equal updates and tokens.

    Parameters
    ----------
    options : FocusOptions
    watcher : Watcher, optional
        Told step and steps of all modes; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: what each mode can do and where it looks, files, warnings.

    Raises
    ------
    UsageError
        If folder, model or options cannot be used.
    InputError
        If the conversations cannot be read.
    """
    names = ("loss", "held_out_loss")
    with run_of("focusft", options, watcher=watcher, arguments=arguments, names=names) as run:
        run.alone("its fast weights are those of one process")
        outcomes: dict[str, Outcome] = {}
        start = _small(run, options, outcomes) if options.model is None else _own(run, options)
        data = options.data if options.data is not None else f"drawn: {options.task}"
        if any(outcome.interrupted for outcome in outcomes.values()):
            return run.report(joined(outcomes, {}), data=data)
        begun = {name: tensor.detach().clone() for name, tensor in start.model.state_dict().items()}
        plan = Plan(
            steps=options.steps, warmup=options.warmup, learning_rate=options.rate, weight_decay=options.weight_decay,
            average=0.0, evaluate_every=options.evaluate_every,
        )  # fmt: skip
        rows: list[Row] = []
        before = FocusRecipe(start.model.eval(), options, "sft", start.source, run.device)
        tested = drawn_rows(before, options) if options.model is None else [chat_row(before, "before")]
        rows += [{**row, "mode": "before"} for row in tested]
        for mode in options.modes:
            start.model.load_state_dict(begun)
            recipe = FocusRecipe(start.model, options, mode, start.source, run.device)
            outcomes[mode] = _fit(run, options, recipe, plan, start.identity, mode, outcomes)
            if outcomes[mode].interrupted:
                return run.report(joined(outcomes, {}), data=data)
            start.model.eval()
            tested = drawn_rows(recipe, options) if options.model is None else [chat_row(recipe, mode)]
            rows += [{**row, "seconds": round(outcomes[mode].seconds)} for row in tested]
            if mode == options.modes[0]:
                _save(run, start, outcomes[mode], tested)
        return _reported(run, options, start, outcomes, rows, data)


def _fit(
    run: RecipeRun, options: FocusOptions, recipe: FocusRecipe, plan: Plan, identity: Mapping[str, Any], mode: str,
    before: Mapping[str, Outcome],
) -> Outcome:  # fmt: skip
    """One mode, in the folder of its name; the first one's is the run's own."""
    done = len([name for name in before if name != "base"]) * options.steps + ("base" in before) * options.base_steps
    total = len(options.modes) * options.steps + (0 if options.model else options.base_steps)

    def tell(step: int, _: int, metrics: Mapping[str, float]) -> None:
        run.progress(done + step, total, metrics)

    folder = run.output / ("" if mode == options.modes[0] else mode)
    return run.fit(recipe, plan, identity={**identity, "mode": mode}, folder=folder, progress=tell)


def _small(run: RecipeRun, options: FocusOptions, outcomes: dict[str, Outcome]) -> TuningStart:
    """The small model, plainly trained on short contexts."""
    torch.manual_seed(options.compute.seed)
    model = small_language(
        len(WORDS), width=options.width, layers=options.depth, heads=options.heads, positions=LONGEST,
        rope_theta=ROPE_THETA,
    ).to(run.device)  # fmt: skip
    targets_of(model, options.fast_layers, options.targets)  # before minutes of work
    judged = max(1, options.judged // 4)
    short = TaskSize(options.task, SHORTEST[options.task], max(4, options.pairs // 8), 3 * QUESTIONS)
    long = TaskSize(options.task, options.pairs // 4, options.pairs, QUESTIONS)
    seed = options.compute.seed
    recipe = FocusRecipe(model, options, "sft", DrawnSource(short, seed, 2 * options.batch, judged), run.device)
    plan = Plan(
        steps=options.base_steps, warmup=options.warmup, learning_rate=BASE_RATE, weight_decay=options.weight_decay,
        average=0.98, evaluate_every=options.evaluate_every,
    )  # fmt: skip
    outcomes["base"] = _fit(run, options, recipe, plan, {}, "base", {})
    return TuningStart(model, word_tokeniser(WORDS, TEMPLATE), DrawnSource(long, seed, options.batch, judged), {})


def _own(run: RecipeRun, options: FocusOptions) -> TuningStart:
    """A model of the user's, and conversations."""
    assert options.model is not None
    assert options.data is not None
    loaded = load_model(options.model, "causal", device=run.device, dtype="float32")
    model, tokeniser = loaded.model, loaded.processor.tokeniser
    kernel = getattr(model.config, "_attn_implementation", "sdpa")
    turned = [mode for mode in options.modes if mode in BOTH_WAYS]
    if turned and window_of(model):
        raise OptionError(
            f"{{model}}: {options.model} attends in sliding windows, which a context read in both directions would "
            "undo. Name {modes} sft or fast."
        )
    if turned and kernel not in ("sdpa", "eager"):
        raise OptionError(f"{{model}}: its attention ({kernel}) takes no mask of our own. Name {{modes}} sft or fast.")
    if any(mode in ADAPTS for mode in options.modes):
        targets_of(model, options.fast_layers, options.targets)
    source, warnings = chats_of(options.data, tokeniser, options, positions(model.config, tokeniser))
    identity = {"model": loaded.fingerprint, "data": sha256(options.data)}
    return TuningStart(model, tokeniser, source, identity, tuple(warnings))


def _save(run: RecipeRun, start: TuningStart, outcome: Outcome, rows: Sequence[Row]) -> None:
    facts = run.facts(seconds=round(outcome.seconds))
    run.save(
        lambda path: write_language(start.model, start.tokeniser, path), lambda size: card(facts, rows, size)
    )  # fmt: skip


def _reported(
    run: RecipeRun, options: FocusOptions, start: TuningStart, outcomes: Mapping[str, Outcome], rows: Sequence[Row],
    data: object,
) -> Report:  # fmt: skip
    first = options.modes[0]
    mine = [row for row in rows if row["mode"] == first]
    metrics = {name: float(mine[-1][name]) for name in ("sink", "engagement", "entropy")}
    sections: tuple[Curve, ...] = ()
    if options.model is None:
        lines: dict[str, list[float]] = {
            mode: [row["accuracy"] for row in rows if row["mode"] == mode] for mode in options.modes
        }
        for mode, line in lines.items():
            metrics |= {f"{mode}_{times}x": value for times, value in zip(TIMES, line, strict=True)}
        metrics["accuracy_4x"] = lines[first][-1]
        lengths = [times * options.pairs for times in TIMES]
        sections = (Curve("accuracy_by_length", lines, xs=lengths, xlabel="pairs", detail=True),)
    best = {**outcomes[first].best}
    outcome = joined(outcomes, best)
    return run.report(
        outcome, data=data, metrics=metrics, comparison=rows, sections=sections, notices=start.warnings,
        details={"learning_rate": options.rate},
    )  # fmt: skip


def card(facts: Mapping[str, Any], rows: Sequence[Row], size: int) -> str:
    """The model card, Markdown."""
    return "\n".join([
        f"# A language model tuned by attn train focusft ({rows[0]['mode']})", "",
        "A folder of transformers; no fast weights are in it, and its parameters have the names they had before.", "",
        f"- {size} bytes; options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s.", "",
        *markdown_table(rows, digits=4),
    ])  # fmt: skip
