"""`attn bench --model`: the operators inside a language model, against the model's own dense attention.

Every figure is of the run that wrote it, except those called ``predicted``. What each one is, ``result`` says.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import attn

from ...attention.contract import Shape
from ...attention.in_models import register_attention
from ...attention.registry import OPERATORS
from ...device import pick_device, pick_dtype, set_threads
from ...io.records import whole_text
from ...models.load import load_model
from ...options import OptionError
from ...progress import Bars, Watcher
from ...report.canvas import check_figure_path
from ...report.model import Item, Report, summarise
from ...report.sections import Facts
from ...sizes import show_size
from ...text import first_line
from .. import machine
from ..candidates import BASELINE, Candidate, choose, plan
from ..options import BenchOptions
from ..terminal import machine_line
from ..timing import SLOW
from .language import Language
from .needles import Haystack, haystack, knows_digits, search
from .options import COUNT
from .result import draw, item, overview, sections
from .trial import PILOT, Piloted, Trial, Workbench, measure, pilot

FAULTS = (RuntimeError, ValueError, NotImplementedError, MemoryError)
"""What an operator or a model may raise: the trial fails, the others go on."""
LETTERS = 32  # of the text that are read for each token that is wanted, at first


def run(options: BenchOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None) -> Report:
    """Measure what ``options`` ask for inside ``options.inside.model``.

    Raises
    ------
    UsageError
        For options that do not go together or have no effect inside a model, a model that cannot be used, a text that
        is too short.
    InputError
        If the text cannot be read.
    """
    started = time.monotonic()
    device, dtype = pick_device(options.device), pick_dtype(options.dtype)
    threads = set_threads(options.threads)
    _check(options)
    names, left_out = _names(options)
    load_before = machine.load()
    inside, watcher = options.inside, watcher or Bars()
    assert inside.model is not None
    assert inside.text is not None
    watcher.step("loading the model", 0, 1)
    loaded = load_model(inside.model, "causal", device=device, dtype=dtype, allow_download=inside.allow_download)
    language = Language(loaded, device)
    _check_positions(options, language)
    tokens = _tokens(inside.text, language.tokeniser, max(options.lengths))
    register_attention()
    bench = Workbench(language, tokens, inside.dense_layers, inside.tokens, started + options.seconds, watcher)
    ceilings = machine.ceilings(device, tuple(dict.fromkeys((torch.float32, dtype))))
    trials, left = _measured(bench, options, names)
    watcher.step("the report", 0, 1)
    notices = _notices(options, language)
    items: list[Item] = [item(trial, options) for trial in trials]
    items += [Item(name, None, "skipped", 0.0, error=reason) for name, reason in left_out.items()]
    files = {}
    if options.plot is not None and any(trial.likelihood is not None for trial in trials):
        draw(options.plot, trials)
        files["plot"] = str(options.plot)
    about = {**machine.describe(device), "load_before": load_before, "load_after": machine.load()}
    counts = {key: value for key, value in summarise(items).items() if not key.startswith("mean_")}
    of_model = {
        "model": inside.model, "family": loaded.family, "fingerprint": loaded.fingerprint, "dtype": str(dtype),
        "text": str(inside.text), "tokens_of_text": max(options.lengths), "threads": threads,
    }  # fmt: skip
    return Report(
        "bench", attn.__version__, dict(arguments or {}), str(device), time.monotonic() - started, tuple(items), counts,
        notices=tuple(notices), left=tuple(left) if left else None, files=files, overview=overview(items),
        sections=(
            *sections(trials, inside.depths),
            Facts("model", of_model, detail=True),
            Facts("machine", about, machine_line(about, ceilings)),
            Facts("ceilings", ceilings, detail=True),
        ),
    )  # fmt: skip


def _measured(bench: Workbench, options: BenchOptions, names: Sequence[str]) -> tuple[list[Trial], list[str]]:
    """All trials, and what was not reached after Ctrl-C: first the texts, then the needles, short lengths first."""
    trials: list[Trial] = []
    piloted: dict[str, Piloted | str] = {}
    try:
        shape = _pilot(bench, Candidate(BASELINE, BASELINE, {}, True), piloted)
        planned = {length: _planned(options, names, shape, length) for length in options.lengths}
        trials = [Trial(candidate, length) for length in options.lengths for candidate in planned[length]]
        for trial in trials:
            _text(bench, trial, trials, piloted)
        for length in options.lengths if _needles_wanted(options, bench.language) else ():
            _needles(bench, [trial for trial in trials if trial.length == length and trial.runs], options)
    except KeyboardInterrupt:
        left = [f"{t.label} @ {show_size(t.length)}" for t in trials if t.runs and t.likelihood is None]
        return [t for t in trials if not t.runs or t.likelihood is not None], left or ["needles"]
    return trials, []


def _pilot(bench: Workbench, candidate: Candidate, piloted: dict[str, Piloted | str]) -> Shape:
    """The shape of a layer of the model, from the pilot of the baseline. Raises ``UsageError`` where that fails."""
    bench.watcher.step(f"{candidate.label}: warm-up", 0, 1)
    try:
        found = piloted[candidate.label] = pilot(bench, candidate)
    except FAULTS as error:
        raise OptionError(f"{{model}}: it does not run with its own dense attention ({first_line(error)}).") from error
    if not found.shapes:
        raise OptionError("{model}: its layers do not go through transformers' attention, so none can be exchanged.")
    if wrong := [layer for layer in bench.dense_layers if layer not in found.shapes]:
        raise OptionError(f"{{dense_layers}}: the model has no layer {wrong[0]}, its last is {max(found.shapes)}.")
    return next(iter(found.shapes.values()))


def _planned(options: BenchOptions, names: Sequence[str], shape: Shape, length: int) -> list[Candidate]:
    """The candidates of a length: equal budgets depend on it."""
    return plan(names, options, shape._replace(len_q=length, len_k=length, causal=True))


def _text(bench: Workbench, trial: Trial, trials: Sequence[Trial], piloted: dict[str, Piloted | str]) -> None:
    """Measure one trial on the text, or say in it why not."""
    key = f"{trial.label} {sorted(trial.candidate.params.items())}"
    if trial.candidate.name == BASELINE:
        key = BASELINE
    before = [other for other in trials if other.label == trial.label and other.prefill.wall]
    try:
        if key not in piloted:
            bench.watcher.step(f"{trial.label}: warm-up", 0, 1)
            piloted[key] = pilot(bench, trial.candidate)
    except FAULTS as error:
        piloted[key] = first_line(error)
    found = piloted[key]
    if isinstance(found, str):
        trial.error = found
        return
    trial.predicted = _predicted(bench, trial, found, before)
    left = bench.deadline - time.monotonic()
    if trial.predicted > left and trial.predicted > SLOW:
        trial.skipped = f"predicted {trial.predicted:.0f} s, {max(left, 0):.0f} s of the budget left"
        return
    bench.watcher.step(f"{trial.label} @ {show_size(trial.length)}", 0, 1)
    base = next((t for t in trials if t.candidate.name == BASELINE and t.length == trial.length), None)
    try:
        measure(bench, trial, base if base is not None and base.runs and base.likelihood is not None else None)
    except FAULTS as error:
        trial.error = first_line(error)


def _predicted(bench: Workbench, trial: Trial, found: Piloted, before: Sequence[Trial]) -> float:
    """Seconds of a trial, by its operations and the rate of the longest run before it."""
    work = found.work(trial.candidate, bench.language, trial.length)
    if before:
        last = before[-1]
        return (
            last.prefill.median * work / found.work(trial.candidate, bench.language, last.length)
            + bench.written * last.decode.median
        )
    short = found.work(trial.candidate, bench.language, min(len(bench.tokens), PILOT))
    return found.seconds * work / short + bench.written * found.decode


def _needles(bench: Workbench, trials: Sequence[Trial], options: BenchOptions) -> None:
    """The needles of one length, by every trial of it that ran."""
    inside = options.inside
    for trial in trials:
        try:
            stack = haystack(bench.language.tokeniser, bench.tokens, trial.length, inside.depths, options.seed)
        except ValueError as error:
            trial.warnings.append(f"no needles at {show_size(trial.length)}: {error}")
            continue
        seconds = trial.prefill.median + len(stack.needles) * (stack.answer + 2) * trial.decode.median
        left = bench.deadline - time.monotonic()
        if seconds > left:
            trial.warnings.append(
                f"no needles at {show_size(trial.length)}: predicted {seconds:.0f} s, {max(left, 0):.0f} s of the "
                "budget left"
            )
            continue
        _search(bench, trial, stack)


def _search(bench: Workbench, trial: Trial, stack: Haystack) -> None:
    bench.watcher.step(f"{trial.label} @ {show_size(trial.length)}: needles", 0, 1)
    try:
        with bench.attending(trial.candidate, trial.warnings):
            trial.found = search(bench.language, stack)
    except FAULTS as error:
        trial.warnings.append(f"no needles: {first_line(error)}")
        return
    trial.metrics |= {"needle_accuracy": sum(trial.found) / len(trial.found), "needles": float(len(trial.found))}


def _needles_wanted(options: BenchOptions, language: Language) -> bool:
    return bool(options.inside.depths) and knows_digits(language.tokeniser)


def _notices(options: BenchOptions, language: Language) -> list[str]:
    notices = []
    if language.configured:
        notices.append(f"attn_parameters of the model's configuration do not count here: {language.configured}.")
    if options.inside.depths and not knows_digits(language.tokeniser):
        notices.append("No needles: the model's tokeniser cannot write a pass key.")
    return notices


def _names(options: BenchOptions) -> tuple[list[str], dict[str, str]]:
    """Operators that are measured; of those not named, what is no approximation of softmax attention is left out."""
    names, left_out = choose(options)
    if not options.operators:
        for name in [name for name in names if OPERATORS[name].resolve().exact]:
            names.remove(name)
            left_out[name] = "exact by its own equation: name it to have it measured"
    return names, left_out


def _tokens(path: Path, tokeniser: Any, count: int) -> list[int]:
    """The first ``count`` tokens of a file. Raises ``UsageError`` if it has fewer."""
    text = whole_text(path)
    for part in (text[: LETTERS * count], text):
        tokens = list(tokeniser(part, verbose=False)["input_ids"])
        if len(tokens) > count:  # the last one may have been cut in two
            break
    if len(tokens) < count:
        raise OptionError(
            f"{{text}}: {path} has {len(tokens)} tokens of this model, and {{lengths}} asks for {count}. Use a longer "
            "text, or a smaller {lengths}."
        )
    return tokens[:count]


def _check_positions(options: BenchOptions, language: Language) -> None:
    if language.positions is not None and max(options.lengths) > language.positions:
        raise OptionError(
            f"{{lengths}} {show_size(max(options.lengths))}: the model was made for {language.positions} tokens. Use a "
            "smaller {lengths}."
        )


def _check(options: BenchOptions) -> None:
    """Raise ``UsageError`` for what has no effect inside a model, or cannot be."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name in defaults.keys() - COUNT - {"inside", "asked"}:
        if getattr(options, name) != defaults[name]:
            raise OptionError(f"{{{name}}} has no effect inside a {{model}}. Leave it out.")
    if options.plot is not None:
        check_figure_path(options.plot)
    shortest = min(options.lengths)
    if shortest < 2 * options.inside.tokens:
        raise OptionError(
            f"{{lengths}} {shortest}: too short for a text and {options.inside.tokens} tokens behind it. Use a smaller "
            "{tokens}, or a larger {lengths}."
        )
