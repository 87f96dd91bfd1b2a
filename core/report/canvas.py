"""What figures are drawn on: a canvas of so many pixels that becomes a file, and a grid of image panels on it.

matplotlib's object interface in its own default style: no pyplot, no global state kept, no dates in the files. It is
imported on use, since it costs half a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import InputError, UsageError
from ..io.atomic import atomic_path, check_suffix, place_fault

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Window = tuple[float, float]
FIGURES = (".png", ".svg")
DPI = 150
PANEL = 640  # px, the longest side of a panel: a 512 x 512 slice is drawn pixel by pixel, smaller ones enlarged
STYLE: dict[Any, Any] = {"svg.hashsalt": "attn", "font.size": 9.0, "axes.titlesize": 9.5, "figure.titlesize": 11.0}


def check_figure_path(path: str | PathLike[str]) -> None:
    """Raise ``UsageError`` where a figure could not be made: for commands to call before the work, not after it."""
    check_suffix(path, FIGURES, "figures")
    if fault := place_fault(path):
        raise UsageError(f"{path}: {fault}.")


@contextmanager
def canvas(
    path: str | PathLike[str], size: tuple[int, int], layout: Any = None, *, text: Mapping[str, str] | None = None
) -> Iterator[Figure]:
    """A figure of ``size`` pixels (width, height) that is saved to ``path`` when the block ends well.

    ``text`` goes into the text chunks of a PNG: how it was made.
    """
    check_suffix(path, FIGURES, "figures")
    if fault := place_fault(path):  # of one input among many: the others are done
        raise InputError(path, f"cannot be written: {fault}", "Name another place, or shorten the input's name")
    suffix = Path(path).suffix.lower()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a Japanese file name: boxes will do
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change what a report looks like
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, layout=layout, facecolor="white")
        yield figure
        metadata = {"Software": None, **(text or {})} if suffix == ".png" else {"Date": None, "Creator": None}
        with atomic_path(Path(path)) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)


@contextmanager
def grid(
    path: str | PathLike[str],
    cells: tuple[int, int],
    shape: tuple[int, ...],
    title: str,
    *,
    bars: Sequence[int],
    lines: int = 1,
    aspect: float = 1.0,
) -> Iterator[Grid]:
    """(rows, columns) of panels for images of ``shape`` [H, W]; colour bars follow the columns in ``bars``.

    ``aspect`` is the height of a pixel over its width.
    """
    height, width = shape[0] * max(1.0, aspect), shape[1] * max(1.0, 1 / aspect)
    scale = PANEL / max(height, width)
    scale = float(int(scale)) if scale >= 1 else scale  # whole factors keep pixels equal in size
    panel = (max(1, round(width * scale)), max(1, round(height * scale)))
    panels = Grid(cells, panel, bars=bars, heading=24 + 26 * lines, top=44 if title else 0)
    with canvas(path, panels.size) as figure:
        panels.figure = figure
        if title:
            figure.text(0.5, 1 - 14 / panels.size[1], literal(title), ha="center", va="top", fontsize=11)
        yield panels


class Grid:
    """Places panels on whole pixels, so that nothing is resampled that need not be."""

    figure: Figure
    gap, bar_gap, bar_width, bar_room, narrowest = 16, 10, 14, 96, 420

    def __init__(
        self, cells: tuple[int, int], panel: tuple[int, int], *, bars: Sequence[int], heading: int, top: int
    ) -> None:
        self.panel, self.heading = panel, heading
        cell = max(panel[0], self.narrowest)  # titles need room beside each other, however slim the image is
        self.lefts, right = [], self.gap
        for column in range(cells[1]):
            self.lefts.append(right + (cell - panel[0]) // 2)
            right += cell + (self.bar_gap + self.bar_width + self.bar_room if column in bars else self.gap)
        self.tops = [top + heading + row * (panel[1] + heading) for row in range(cells[0])]
        self.size = (right, self.tops[-1] + panel[1] + self.gap)

    def image(
        self, row: int, column: int, image: NDArray[Any], title: str, limits: Window, cmap: str = "gray"
    ) -> AxesImage:
        """Draw ``image`` [H, W] into a panel."""
        ax = self._axes(self.lefts[column], self.tops[row], *self.panel)
        ax.set_title(literal(title))
        ax.set_axis_off()
        enlarged = self.panel[0] >= image.shape[1]
        interpolation = "nearest" if enlarged else "antialiased"
        return ax.imshow(image, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation=interpolation, aspect="auto")

    def bar(self, drawn: AxesImage, row: int, column: int, unit: str) -> None:
        """A slim colour bar right of a panel, as high as it, a handful of plain ticks, the unit above."""
        from matplotlib.ticker import MaxNLocator, ScalarFormatter

        left = self.lefts[column] + self.panel[0] + self.bar_gap
        ax = self._axes(left, self.tops[row], self.bar_width, self.panel[1])
        form = ScalarFormatter(useOffset=False)
        form.set_powerlimits((-3, 5))
        bar = self.figure.colorbar(drawn, cax=ax, ticks=MaxNLocator(nbins=5), format=form)
        bar.outline.set_visible(False)  # type: ignore[operator]
        ax.set_title(literal(unit), loc="left", fontsize=9)

    def _axes(self, left: int, top: int, width: int, height: int) -> Axes:
        across, down = self.size
        return self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def literal(text: str) -> str:
    """Text as it is: matplotlib would set anything between two dollar signs as mathematics, or stumble over it."""
    return text.replace("$", r"\$")
