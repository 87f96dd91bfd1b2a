"""What every kind of `attn probe` that looks at files has: inputs, resume, workers, cluster, and what is written.

A kind gives ``one(task, step, options) -> Finding``: what it found in one file, drawing and writing nothing. The frame
writes figure, arrays and facts (``panel.py``), makes the ``Item`` of it, and says which results that exist were made
with another model or other settings.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ..batch.run import run_batch
from ..batch.task import Task
from ..errors import AttnError, UsageError
from ..io.atomic import check_place, remove_stale, write_text
from ..io.bands import write_png
from ..io.film import write_gif
from ..io.kinds import split_key
from ..io.walk import Passed, expand_inputs, output_paths, read_list
from ..models.embedded import EMBEDDED
from ..models.files import sha256
from ..models.loaded import Loaded
from ..models.pictures import PICTURE_SUFFIXES
from ..options import identity, stated, values
from ..progress import Bars, Watcher
from ..report.model import Item, Report, command_line_of, summarise
from ..report.sections import Facts, Section, Table
from .panel import BESIDE, FigureData, Origin, read_document, read_figure, write_figure

Step = Callable[[int, int], None]
ELSEWHERE = frozenset({"model", "allow_download"})
"""Options that the fingerprint of the weights stands for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a kind found in one file.

    Parameters
    ----------
    title : str
        Of the figure.
    arrays : mapping of str to ndarray
        What the NPZ holds: all that the drawing reads (``panel.shown`` for the picture), and what else was measured.
    metrics : mapping of str to float
    facts : mapping of str to Any
        Settings and circumstances, as JSON can hold them: in the JSON, and in the report's details.
    sections : tuple of Section
        Tables, and a ``Trust`` section of every map.
    warnings : tuple of str
    pictures : mapping of str to ndarray, shape (H, W, 3), uint8
        Further pictures of full size, by the word that their names have: NAME.WORD.png.
    films : mapping of str to sequence of ndarray, shape (H, W, 3), uint8
        Frames of equal size, by the word that their names have: NAME.WORD.gif.
    texts : mapping of str to str
        Further files of text, by the end of their names: ``"paths.jsonl"``.
    figure : str
        Of ``FIGURES``; empty: the kind's own.
    """

    title: str
    arrays: Mapping[str, NDArray[Any]]
    metrics: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    warnings: tuple[str, ...] = ()
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    films: Mapping[str, Sequence[NDArray[np.uint8]]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    figure: str = ""


Looking = Callable[[Task, Step, Any], Finding]
"""``one(task, step, options)`` looks at one file; a module-level function, since workers get it. ``options.inputs`` is
not what the user named: a worker gets one task, not a million names."""
Together = Callable[[Sequence[Item]], Sequence[Section]]


def look_at_files(
    word: str, one: Looking, options: Any, loaded: Loaded, *, model: str, since: float,
    watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None, together: Together | None = None,
    settings: Mapping[str, Any] | None = None, suffixes: Collection[str] = PICTURE_SUFFIXES,
    notices: Sequence[str] = (), prepare: Callable[[Sequence[Task]], Sequence[Task]] | None = None,
) -> Report:  # fmt: skip
    """Look at every file that the options name.

    Parameters
    ----------
    word : str
        Of the kind: results are NAME.WORD.png, .npz and .json.
    one : callable
        See ``Looking``.
    options : dataclass
        With ``inputs`` (``Inputs``) and ``placement`` (``Placement``); ``seed``, where it has one.
    loaded : Loaded
        The model: what is missing was told before the work.
    model : str
        What the user called it.
    since : float
        ``time.perf_counter()`` when the command began.
    watcher, arguments
        As a ``Verb``'s run gets them.
    together : callable, optional
        Sections of all items together, for example ``partial(mean_table, name="layers", title="…")``; not after Ctrl-C.
    settings : mapping, optional
        What decides the result beside the weights; default: ``settings_of`` the options.
    suffixes : collection of str
        What folders are searched for.
    notices : sequence of str
        See ``Report``; ``together`` may add to it.
    prepare : callable, optional
        See ``run_batch``.

    Raises
    ------
    UsageError
        If there is nothing to read, or results cannot go where they should.
    """
    given, arguments = options.inputs, arguments or values(options)
    listed = read_list(nul=given.nul) if "-" in given.inputs else None
    passed = Passed()
    sources = expand_inputs(given.inputs, suffixes=suffixes, stdin=listed, output=given.output, passed=passed)
    ending = ".png" if given.output is None else f".{word}.png"
    targets = output_paths(sources, given.output, word=word, suffix=ending, written=(".png",))
    check_stdout(targets)
    tasks = [Task(s.path, target, s.name, error=s.error) for s, target in zip(sources, targets, strict=True)]
    for folder in {target.parent for target in targets}:
        remove_stale(folder)
    request = request_of(loaded.fingerprint, settings_of(options) if settings is None else settings)
    origin = Origin(
        command_line_of(arguments), model, loaded.fingerprint, seed=getattr(options, "seed", None), request=request
    )
    here = replace(options, inputs=replace(given, inputs=("-",)))
    work = partial(_look, word=word, one=one, options=here, origin=origin)
    outcome = run_batch(work, tasks, options.placement, watcher or Bars(), prepare=prepare)
    items = [noted(item, request) for item in outcome.items]
    device = str(next(loaded.model.parameters()).device)
    sections: Sequence[Section] = ()
    if together is not None and not outcome.interrupted:
        try:
            sections = together(items)
        except KeyboardInterrupt:  # what was found in single files stays, and is reported
            outcome = replace(outcome, interrupted=True)
    return outcome.report(
        "probe", arguments, device, since, items=items, passed=passed, sections=sections, notices=notices
    )


def _look(task: Task, step: Step, word: str, one: Looking, options: Any, origin: Origin) -> Item:
    """One file: looked at, written, reported."""
    assert task.output is not None
    found = one(task, step, options)
    origin = replace(origin, picture=sha256(split_key(task.source)[0]))
    further = write_further(task.output, word, found)
    files = write_figure(
        task.output, FigureData(found.figure or word, found.title, found.arrays, found.facts, origin),
        metrics=found.metrics, sections=found.sections, warnings=found.warnings,
    )  # fmt: skip
    told = {name for section in found.sections if isinstance(section, Facts) for name in section.values}
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, metrics=found.metrics,
        files=files | further, warnings=found.warnings,
        details={name: value for name, value in found.facts.items() if name not in told}, sections=found.sections,
    )  # fmt: skip


def write_further(output: Path, word: str, found: Finding) -> dict[str, str]:
    """Write what a kind has beside its figure; names of the files."""
    files: dict[str, Path] = {}
    for name, picture in found.pictures.items():
        files[name] = beside(output, word, name)
        write_png(files[name], picture.shape[:2], [picture], channels=3)
    for name, frames in found.films.items():
        files[f"{name}_film"] = beside(output, word, name, ".gif")
        write_gif(files[f"{name}_film"], frames)
    for name, text in found.texts.items():
        stem, _, suffix = name.rpartition(".")
        files[stem] = beside(output, word, stem, f".{suffix}")
        write_text(files[stem], text)
    return {name: str(path) for name, path in files.items()}


def look_at_one(
    word: str, name: str, path: Path, found: Finding, options: Any, loaded: Loaded, *, since: float,
    arguments: Mapping[str, Any], settings: Mapping[str, Any] | None = None,
) -> Report:  # fmt: skip
    """The report of what is no file, such as a prompt or drawn texts, with its figure written.

    Parameters
    ----------
    word : str
        Of the kind.
    name : str
        Of the one item.
    path : Path
        Of the figure; see ``scenes_figure``.
    found : Finding
    options : dataclass
        With ``model`` and ``seed``.
    loaded, since, arguments, settings
        As of ``look_at_files``.
    """
    request = request_of(loaded.fingerprint, settings_of(options) if settings is None else settings)
    origin = Origin(command_line_of(arguments), options.model, loaded.fingerprint, seed=options.seed, request=request)
    further = write_further(path, word, found)
    files = write_figure(
        path, FigureData(word, found.title, found.arrays, found.facts, origin), metrics=found.metrics,
        sections=found.sections, warnings=found.warnings,
    )  # fmt: skip
    seconds = time.perf_counter() - since
    item = Item(
        name, str(path), "ok", seconds, metrics=found.metrics, files=files | further, warnings=found.warnings,
        details=found.facts, sections=found.sections,
    )  # fmt: skip
    device = str(next(loaded.model.parameters()).device)
    return Report("probe", attn.__version__, arguments, device, seconds, (item,), summarise([item]))


def drawn_alone(model: str) -> tuple[str, ...]:
    """What to say where a model that ships looks at pictures that were not drawn for it."""
    known = EMBEDDED.get(model)
    if known is None or known.package != attn.__name__:
        return ()
    return (
        f"{model} knows drawn shapes alone: on photographs its numbers say what it does with them, not what they show. "
        "Name a model of your own for photographs",
    )


def beside(output: Path, word: str, other: str, suffix: str = ".png") -> Path:
    """``out/photo.vit.png``, word ``vit`` and ``crop`` -> ``out/photo.crop.png``; so for ``out/photo.png``."""
    return output.with_name(f"{output.name.removesuffix(output.suffix).removesuffix(f'.{word}')}.{other}{suffix}")


def scenes_figure(output: str | None, word: str, name: str = "shapes") -> Path:
    """Where the figure of drawn scenes, or of what else is no file, goes: a name with its suffix, or a folder. Raises
    ``UsageError`` where it cannot."""
    path = Path(output or ".")
    if path.suffix.lower() != ".png":
        if path.suffix and not path.is_dir():
            raise UsageError(f"output: {output}: figures are .png, or name a folder.")
        path = path / f"{name}.{word}.png"
    check_place("output", path, (".png",))
    check_stdout([path])
    return path


def check_stdout(figures: Sequence[Path]) -> None:
    """Raise ``UsageError`` where standard output was sent into a file that a figure, or what lies beside it, replaces.

    With ``-o x.png --json > x.json`` the report would be written into a file that no longer has a name.
    """
    try:
        out = os.fstat(sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or no file
        return
    if not stat.S_ISREG(out.st_mode):
        return
    for figure in figures:
        for place in (figure, *map(figure.with_suffix, BESIDE)):
            same = False
            with suppress(OSError, ValueError):  # is not there, or has a name that no file can have
                same = os.path.samestat(os.stat(place), out)
            if same:
                raise UsageError(
                    f"standard output goes to {place}, which this command writes itself. Send it to another file."
                )


def settings_of(options: Any) -> dict[str, Any]:
    """What of a kind's options decides its results, but for the model: without files, place and processes."""
    bundles = (options.inputs, options.placement)
    free = ELSEWHERE.union(*({option.field for option in stated(type(bundle))} for bundle in bundles))
    return {name: value for name, value in identity(options).items() if name not in free}


def request_of(fingerprint: str, settings: Mapping[str, Any]) -> str:
    """What makes two results the same: the weights, and the settings."""
    return hashlib.sha256(repr((fingerprint, sorted(settings.items()))).encode()).hexdigest()


def noted(item: Item, request: str) -> Item:
    """A skipped item that says so where its result is of another model or other settings."""
    if item.status != "skipped":
        return item
    assert item.output is not None
    try:
        made = read_document(Path(item.output).with_suffix(".json"))["origin"]["request"]
    except (AttnError, OSError, KeyError, TypeError):
        note = "what the result that exists was made with cannot be read; --overwrite makes it again"
    else:
        if made == request:
            return item
        note = "the result that exists was made with another model or other settings; --overwrite makes it again"
    return replace(item, warnings=(*item.warnings, note))


def result_of(item: Item, request: str) -> FigureData | None:
    """What lies beside an item's figure; None where it failed, is of another request, or cannot be read.

    ``noted`` has told the user of the latter two.
    """
    if item.status == "failed" or item.output is None:
        return None
    try:
        data = read_figure(Path(item.output).with_suffix(".json"))
    except AttnError:
        return None
    return data if data.origin.request == request else None


def mean_table(items: Sequence[Item], name: str, title: str) -> list[Section]:
    """The table ``name`` of all items averaged, row by row, where several have it with as many rows.

    Columns of text, and whole numbers that are the same everywhere (``layer``), stay as they are.
    """
    tables = [section.rows() for item in items for section in item.sections if section.name == name]
    if len(tables) < 2 or len({len(rows) for rows in tables}) > 1:
        return []
    means = [{key: _mean([row.get(key) for row in rows]) for key in rows[0]} for rows in zip(*tables, strict=True)]
    return [Table(name, means, title=title)]


def _mean(cells: Sequence[Any]) -> Any:
    if all(cell == cells[0] for cell in cells):
        return cells[0]
    return float(np.mean(cells)) if all(isinstance(cell, (int, float)) for cell in cells) else None
