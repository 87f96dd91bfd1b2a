"""`attn probe redraw`: figures made again from what lies beside them; no model and no photo is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ..bundles import Inputs, Placement
from ..command import Verb
from ..errors import InputError, UsageError
from ..options import Option, check

if TYPE_CHECKING:
    from ..batch.task import Task
    from ..io.walk import Input, Passed
    from ..progress import Watcher
    from ..report.model import Item, Report


@dataclass(frozen=True, slots=True)
class FigureFiles(Inputs):
    """The JSON files of figures."""

    NOTHING: ClassVar[str] = "Name the .json files of figures, directories, or - for a list on stdin."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "NAME.KIND.json files that attn probe wrote, directories of them, or - for a list of paths on stdin.",
            metavar="FILE", positional=True,
        ),
    ] = ()  # fmt: skip


@dataclass(frozen=True, slots=True)
class RedrawOptions:
    """Which figures, and where they go."""

    inputs: FigureFiles
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)


def run(
    options: RedrawOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Draw every figure again. Raises ``UsageError`` if there is nothing to read, or no place to write to."""
    from ..batch.run import run_batch
    from ..batch.task import Task
    from ..io.walk import Passed, expand_inputs, output_paths, read_list
    from ..options import values
    from ..progress import Bars

    start, given = time.perf_counter(), options.inputs
    listed = read_list(nul=given.nul) if "-" in given.inputs else None
    passed = Passed()
    sources = expand_inputs(given.inputs, suffixes=(".json",), stdin=listed, output=given.output, passed=passed)
    sources = [source for source in sources if not _other(source, passed)]
    if not sources:
        raise UsageError(f"no figure of attn probe to draw again in {', '.join(given.inputs)}.")
    targets = output_paths(sources, given.output, word="redrawn", suffix=".png", written=(".png",))
    if given.output is None:  # where the figure was
        targets = [source.path.with_suffix(".png") for source in sources]
    tasks = [Task(s.path, target, s.name, error=s.error) for s, target in zip(sources, targets, strict=True)]
    outcome = run_batch(draw_again, tasks, options.placement, watcher or Bars())
    return outcome.report("probe", arguments or values(options), "cpu", start, passed=passed)


def _other(source: Input, passed: Passed) -> bool:
    """Whether a JSON that was found in a folder, not named, is none of a figure: it is passed by."""
    from .panel import is_of_a_figure

    if source.root is None or source.error is not None:
        return False
    try:
        other = not is_of_a_figure(source.path)
    except InputError:
        return False  # a damaged one is told when it is drawn
    if other:
        passed.add("JSON files that lie beside no figure", source.name)
    return other


def draw_again(task: Task, step: Callable[[int, int], None]) -> Item:
    """Draw one figure."""
    from ..report.model import Item
    from .panel import draw_figure, read_figure

    assert task.output is not None
    data = read_figure(Path(task.source))
    draw_figure(task.output, data)
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, files={"figure": str(task.output)},
        details={"kind": data.kind, "made_by": data.origin.command, "version": data.origin.version},
    )  # fmt: skip


VERB = Verb(
    options=RedrawOptions,
    run="attn.core.probe.redraw:run",
    description="""Draw figures of attn probe again, without model and photo.

    A figure NAME.KIND.png has NAME.KIND.json and NAME.KIND.npz beside it, which hold all that it shows. The figure that
    is made of them is the same to the byte, where attn and matplotlib are of the same versions.
    """,
    examples=(
        ("attn probe redraw out/photo.vit.json", "Writes out/photo.vit.png, where it is gone."),
        ("attn probe redraw out/ -o figures/ --overwrite", "All figures of a folder, elsewhere."),
    ),
    files=(("NAME.KIND.png", "The figure, beside its JSON; with -o, in that directory."),),
)
