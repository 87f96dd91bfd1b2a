"""A question about a picture, with all visual tokens of a vision-language model and with fewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...batch.task import Task
from ...compare import Compared, Comparison, side_by_side
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture, read_picture
from ...report.model import Item
from ..api import keep_of
from ..asked import Pruned, Question
from ..engine.checks import check_model
from ..engine.sites import site_of
from ..measure.fidelity import text_attention
from ..methods.base import Pruner
from ..named import pruner_of
from ..options import PruneOptions
from ..outputs import write_outputs
from ..overlay import overlay
from ..sgl.guide import about_the_guide
from ..told import facts_of_model, metrics_of, sections_of
from ..vlm.ask import answer, prepare_file
from .ready import Ready, asked, check_asked, loaded_model, ready_with, settings_for


def ready(options: PruneOptions) -> Ready:
    """Check what can be checked before the work. Raises ``UsageError``."""
    names = (options.method, *options.compare)
    for name in names:
        pruner_of(name, settings_for(options, name))
    asked(options)
    loaded = loaded_model(options, "vision-language")
    check_asked(options, loaded)
    site = site_of(loaded)
    for name in names:
        check_model(site, pruner_for(options, name).stages(site, keep_of(options.budget)), options.positions)
    return ready_with(options, loaded)


def pruner_for(options: PruneOptions, name: str) -> Pruner:
    """A method with what the options say to it. Raises ``UsageError``."""
    settings = dict(settings_for(options, name))
    if isinstance(guide := settings.get("guide"), str):
        with about_the_guide():
            settings["guide"] = loaded_model(options, "vision-language", guide)
    return pruner_of(name, settings)


def look(task: Task, step: Callable[[int, int], None], options: PruneOptions, request: str) -> Item:
    """Ask about one picture, write what was asked for (the overlay last), and report it."""
    loaded, picture = loaded_model(options, "vision-language"), read_picture(task.source)
    steps = 2 + len(options.compare)
    question = _question(loaded, picture, options, task.source)
    step(1, steps)
    keep = keep_of(options.budget)
    done = question.pruned(pruner_for(options, options.method), keep, options.positions)
    remarks = keep.remarks(done.prefill.before[0])
    step(2, steps)
    drawn = overlay(picture, question.prepared.pictures[0], done.owner, done.merged)
    compared = _compare(question, picture, done, options, step) if options.compare else None
    files = write_outputs(task, drawn, request, compared)
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, files=files,
        metrics=metrics_of(question, done), details=facts_of_model(question, done, options),
        warnings=tuple(dict.fromkeys((*question.prepared.warnings, *remarks, *done.prefill.notes))),
        sections=(*sections_of(question, done), *([compared.table] if compared else [])),
    )  # fmt: skip


def _question(loaded: Loaded, picture: ColourPicture, options: PruneOptions, source: Path) -> Question:
    """The question about a picture. Raises ``InputError`` for a picture that the model does not take."""
    assert options.prompt is not None
    prepared = prepare_file(loaded, picture, options.prompt, source)
    plain = answer(loaded, prepared, max_new_tokens=options.max_new_tokens)
    (attention,) = text_attention(loaded.model, prepared.inputs)
    return Question(loaded, site_of(loaded), prepared, plain, attention, options.max_new_tokens, options.repeat)


def _compare(
    question: Question, picture: ColourPicture, done: Pruned, options: PruneOptions, step: Callable[[int, int], None]
) -> Comparison:
    """The method and those of the comparison at its counted budget, side by side on one picture."""
    geometry = question.prepared.pictures[0]
    names = [options.method, *options.compare]
    share = done.prefill.retention()

    def compared(name: str, one: Pruned) -> Compared:
        values: dict[str, float | str] = {"answer_after": one.text, **metrics_of(question, one)}
        return Compared(name, values, overlay(picture, geometry, one.owner, one.merged))

    def ask(name: str) -> Compared:
        pruner = pruner_for(options, name)
        one = question.pruned(pruner, pruner.keep_for(question.site, share), options.positions)
        step(2 + names.index(name), 1 + len(names))
        return compared(name, one)

    return side_by_side(names, ask, {options.method: compared(options.method, done)}, {})
