"""`attn probe compare`: what changed between two models, or two checkpoints of one, head by head.

methods/probe-peers.md, section 5, item 9. Works on what lies beside two figures of one kind; no model is needed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..command import Verb
from ..options import Option, OptionError, check

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..progress import Watcher
    from ..report.model import Report
    from .panel import FigureData, FigureFile

LISTED = 12
"""So many of the largest changes are listed."""
LARGEST = 64
"""Rows or columns of an array that is drawn."""


@dataclass(frozen=True, slots=True)
class DifferenceOptions:
    """Which two results, and where the figure goes."""

    files: Annotated[
        tuple[str, ...],
        Option("Two NAME.KIND.json files of one kind, before and after.", metavar="FILE", positional=True),
    ] = ()  # fmt: skip
    output: Annotated[
        str | None,
        Option("The figure, .png, or a directory for it; default: beside the second file.", short="-o", metavar="PATH"),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if len(self.files) != 2:
            raise OptionError(f"{{files}}: two files are compared, {len(self.files)} are named.")


def run(
    options: DifferenceOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Compare two results.

    Raises
    ------
    InputError
        If one of the files cannot be read.
    UsageError
        If they are of different kinds, or have nothing that can be compared, or the figure cannot be written.
    """
    import attn

    from ..options import values
    from ..report.model import Item, Report, command_line_of, summarise
    from ..report.sections import Table
    from .panel import FigureData, Origin, read_figure, write_figure

    start = time.perf_counter()
    path = _figure_path(options)
    before, after = (read_figure(Path(name)) for name in options.files)
    if before.kind != after.kind:
        raise OptionError(f"{{files}}: one is of kind {before.kind}, the other of {after.kind}. Name two of one kind.")
    arrays, rows, changes = differences(before, after)
    if not rows:
        raise OptionError("{files}: they share no array of numbers of one shape, so nothing can be compared.")
    warnings = _cautions(before, after)
    facts = {
        "kind": before.kind, "before": before.origin.model, "after": after.origin.model,
        "before_fingerprint": before.origin.fingerprint, "after_fingerprint": after.origin.fingerprint,
    }  # fmt: skip
    sections = (
        Table("arrays", rows, title="What was compared"),
        Table("changes", changes, title="Largest changes, each as a share of the spread of its array before"),
    )
    metrics = {"rank_correlation": sum(row["rank_correlation"] for row in rows) / len(rows)}
    title = f"{before.title} → {after.title}: after minus before"
    data = FigureData("difference", title, arrays, facts, Origin(command_line_of(arguments or {})))
    files = write_figure(path, data, metrics=metrics, sections=sections, warnings=warnings)
    seconds = time.perf_counter() - start
    item = Item(
        " → ".join(options.files), str(path), "ok", seconds, metrics=metrics, files=files, warnings=warnings,
        details=facts, sections=sections,
    )  # fmt: skip
    return Report(
        "probe", attn.__version__, arguments or values(options), "cpu", seconds, (item,), summarise([item]),
        notices=(NOTICE,),
    )  # fmt: skip


NOTICE = "A difference says that two models look elsewhere, not which of them looks right."


def differences(
    before: FigureData, after: FigureData
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """After minus before of every array of numbers that both have in one shape, but for pictures.

    Returns
    -------
    arrays : dict of str to ndarray
    rows : list of dict
        Of each array: means, mean and largest change, and rank correlation of the two.
    changes : list of dict
        The ``LISTED`` largest changes of single values of arrays with two axes; rows are layers and columns heads in
        tables of heads. Arrays have units of their own, so they are ordered by the change over the spread before.
    """
    import numpy as np

    from .trust.likeness import spearman

    arrays, rows, places = {}, [], []
    for name, one in before.arrays.items():
        other = after.arrays.get(name)
        if other is None or other.shape != one.shape or one.dtype.kind not in "fiu" or one.dtype == np.uint8:
            continue
        change = other.astype(np.float64) - one.astype(np.float64)
        known = np.isfinite(change)
        if change.ndim < 1 or not known.any():
            continue
        arrays[name] = change
        rows.append({
            "array": name, "shape": "×".join(map(str, change.shape)), "before": float(np.nanmean(one)),
            "after": float(np.nanmean(other)), "mean_change": float(change[known].mean()),
            "largest_change": float(change[known][np.abs(change[known]).argmax()]),
            "rank_correlation": float(np.nan_to_num(spearman(one, other))),
        })  # fmt: skip
        spread = float(np.nanstd(one.astype(np.float64)))
        if change.ndim == 2 and max(change.shape) <= LARGEST and spread > 0:
            for row, column in np.ndindex(*change.shape):
                if known[row, column] and change[row, column]:
                    places.append({
                        "array": name, "row": row, "column": column, "before": float(one[row, column]),
                        "after": float(other[row, column]), "change": float(change[row, column]),
                        "change_over_spread": float(change[row, column]) / spread,
                    })  # fmt: skip
    places.sort(key=lambda place: -abs(place["change_over_spread"]))
    return arrays, rows, places[:LISTED]


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Arrays with two axes, each in colours that diverge about 0."""
    import numpy as np

    from ..report.canvas import literal

    shown = {name: change for name, change in data.arrays.items() if change.ndim == 2 and max(change.shape) <= LARGEST}
    columns = max(1, min(3, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    with canvas((560 * columns, 80 + 480 * lines), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        panels = figure.subplots(lines, columns, squeeze=False)
        for panel in panels.ravel()[len(shown) :]:
            panel.set_axis_off()
        for panel, (name, change) in zip(panels.ravel(), shown.items(), strict=False):
            reach = float(np.nanmax(np.abs(change))) or 1.0
            drawn = panel.imshow(change, aspect="auto", cmap="RdBu_r", vmin=-reach, vmax=reach)
            figure.colorbar(drawn, ax=panel)
            panel.set(title=literal(name.replace("_", " ")), xlabel="column (head)", ylabel="row (layer)")
        if not shown:
            panels[0, 0].text(0.5, 0.5, "no array has two axes\nof a size to draw", ha="center", va="center")


def _cautions(before: FigureData, after: FigureData) -> tuple[str, ...]:
    """What else differs between the two, so that a change need not be the model's."""
    texts = []
    if before.origin.fingerprint == after.origin.fingerprint:
        texts.append("both results are of the same weights")
    if before.origin.picture != after.origin.picture:
        texts.append("they are of different pictures: a difference may be that of the pictures")
    left = sorted(set(before.arrays) ^ set(after.arrays))
    left += [n for n in before.arrays if n in after.arrays and before.arrays[n].shape != after.arrays[n].shape]
    if left:
        texts.append(f"not compared, since only one has them or shapes differ: {', '.join(left)}")
    return tuple(texts)


def _figure_path(options: DifferenceOptions) -> Path:
    from ..io.atomic import check_place
    from ..io.walk import names_file

    second = Path(options.files[1])
    name = f"{second.stem}.difference.png"
    if options.output is None:
        path = second.with_name(name)
    else:
        path = Path(options.output)
        path = path if names_file(options.output, (".png",)) else path / name
    check_place("output", path, (".png",))
    return path


VERB = Verb(
    options=DifferenceOptions,
    run="attn.core.probe.difference:run",
    description="""Compare two results of one kind: two models, or two checkpoints, head by head.

    Reads NAME.KIND.json of both and the arrays beside them, subtracts what they share, and lists where they differ
    most. No model and no photo is needed.
    """,
    examples=(
        (
            "attn probe compare before/photo.vit.json after/photo.vit.json -o change.png",
            "Two checkpoints on one photo: what changed in each layer and head.",
        ),
    ),
    files=(
        ("NAME.KIND.difference.png", "Arrays with two axes, after minus before, in colours that diverge about 0."),
        ("NAME.KIND.difference.npz", "After minus before, of every array that both have in one shape."),
    ),
    notes=(
        "rank_correlation is 1 where both order the values alike. Values of different arrays have units of their own; "
        "the largest changes are ordered by the change over the standard deviation of the array before.",
        NOTICE,
    ),
)
