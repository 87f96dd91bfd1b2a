"""Figures for people: what a denoiser changed, the maps it used, methods side by side, one curve over another.

Every figure is drawn with matplotlib's object interface in its own default style: no pyplot, no global state kept, no
dates in the files. The same arguments give the same bytes. matplotlib is imported on use, since it costs half a second.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Window = tuple[float, float]
DPI = 150
PANEL = 640  # px, the longest side of a panel: a 512 x 512 slice is drawn pixel by pixel, smaller ones enlarged
FLAT = 0.02  # a colour range never spans less than this share of the mean: rounding noise must not look like structure
STYLE: dict[Any, Any] = {"svg.hashsalt": "attn", "font.size": 9.0, "axes.titlesize": 9.5, "figure.titlesize": 11.0}


def before_after(
    noisy: ArrayLike,
    denoised: ArrayLike,
    path: str | PathLike[str],
    *,
    reference: ArrayLike | None = None,
    window: Window | None = None,
    title: str = "",
    unit: str = "HU",
) -> None:
    """Draw an image before and after denoising, what was removed, and the clean image where there is one.

    Parameters
    ----------
    noisy, denoised, reference : array_like, shape (H, W) or (Z, H, W)
        Intensities in ``unit``. Of a stack the middle image is drawn.
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.
    window : (float, float) or None
        Lowest and highest grey value in ``unit``: black and white. None takes the 0.5 and 99.5 percentiles of
        ``noisy``.
    title : str
        Above the panels; normally file and method.
    unit : str
        Of the intensities, for the colour bars.

    Raises
    ------
    UsageError
        If the suffix is neither of the two.
    ValueError
        If the images differ in shape.
    """
    before, after = _plane(noisy), _plane(denoised)
    panels = {"Before": before, "After": after}
    if reference is not None:
        panels["Reference"] = _plane(reference)
    _same_shape(panels)
    window = _window(before) if window is None else window
    removed = before - after
    with _grid(path, (1, len(panels) + 1), before.shape, title, bars=(len(panels) - 1, len(panels))) as grid:
        for column, (name, image) in enumerate(panels.items()):
            drawn = grid.image(0, column, image, name, limits=window)
        grid.bar(drawn, 0, len(panels) - 1, unit)
        finite = removed[np.isfinite(removed)] if np.isfinite(removed).any() else np.zeros(1)
        reach = float(np.percentile(np.abs(finite), 99.5)) or 1.0
        text = f"Removed: before − after (SD {float(finite.std()):.3g} {unit})"
        drawn = grid.image(0, len(panels), removed, text, limits=(-reach, reach))
        grid.bar(drawn, 0, len(panels), unit)


def sigma_maps(stages: Sequence[ArrayLike], path: str | PathLike[str], *, title: str = "") -> None:
    """Draw the three filter widths of each stage as colour maps.

    Parameters
    ----------
    stages : sequence of array_like, each of shape (3, H, W)
        σx and σy in pixels, σr in units of the image mapped to [0, 1].
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.
    title : str
        Above the panels.

    Raises
    ------
    UsageError
        If the suffix is neither of the two.
    ValueError
        If there is no stage or one has another shape.
    """
    maps = [np.asarray(stage, dtype=np.float64) for stage in stages]
    if not maps or any(stage.ndim != 3 or stage.shape[0] != 3 for stage in maps):
        raise ValueError(f"sigma maps have shape [3, H, W] per stage, got {[stage.shape for stage in maps]}")
    with _grid(path, (len(maps), 3), maps[0].shape[1:], title, bars=(0, 1, 2), lines=2) as grid:
        for row, stage in enumerate(maps):
            for column, (sigma, name, unit) in enumerate(zip(stage, ("σx", "σy", "σr"), ("px", "px", ""), strict=True)):
                low, mean, high = float(sigma.min()), float(sigma.mean()), float(sigma.max())
                half = max(high - low, FLAT * abs(mean)) / 2 or 0.5
                limits = ((low + high) / 2 - half, (low + high) / 2 + half)
                label = f"Stage {row + 1}: {name}" if len(maps) > 1 else name
                text = f"{label}\nmin {low:.4g} · mean {mean:.4g} · max {high:.4g}"
                grid.bar(grid.image(row, column, sigma, text, limits, "viridis"), row, column, unit)


def comparison(
    images: Mapping[str, ArrayLike],
    path: str | PathLike[str],
    *,
    window: Window | None = None,
    reference: ArrayLike | None = None,
    captions: Mapping[str, str] | None = None,
    title: str = "",
    unit: str = "HU",
    cmap: str = "gray",
) -> None:
    """Draw several versions of one image as a grid in one grey scale, in the order given, the reference last.

    Parameters
    ----------
    images : mapping of str to array_like, shape (H, W) or (Z, H, W)
        By the name that stands above; normally the noisy image first, then one per method.
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.
    window : (float, float) or None
        Lowest and highest grey value in ``unit``. None takes the 0.5 and 99.5 percentiles of the first image.
    reference : array_like or None
        The clean image.
    captions : mapping of str to str
        A second line per name, for example its PSNR.
    title, unit : str
    cmap : str
        matplotlib's name of another colour scale than grey.

    Raises
    ------
    UsageError
        If the suffix is neither of the two.
    ValueError
        If there is no image or they differ in shape.
    """
    panels = {name: _plane(image) for name, image in images.items()}
    if not panels:
        raise ValueError("a comparison needs at least one image")
    window = _window(next(iter(panels.values()))) if window is None else window
    if reference is not None:
        panels["reference"] = _plane(reference)
    _same_shape(panels)
    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    shape, lines = next(iter(panels.values())).shape, 2 if captions else 1
    with _grid(path, (rows, columns), shape, title, bars=(columns - 1,), lines=lines) as grid:
        for index, (name, image) in enumerate(panels.items()):
            caption = (captions or {}).get(name, "")
            text = f"{name}\n{caption}" if captions else name
            drawn = grid.image(*divmod(index, columns), image, text, window, cmap)
        grid.bar(drawn, 0, columns - 1, unit)


def curve(
    xs: Sequence[float],
    series: Mapping[str, Sequence[float]],
    path: str | PathLike[str],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    logx: bool = False,
    logy: bool = False,
) -> None:
    """Draw one line per series over ``xs``; a legend where there are several.

    Parameters
    ----------
    xs : sequence of float, length N
    series : mapping of str to sequence of float, length N each
        NaN leaves a gap.
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.
    xlabel, ylabel, title : str
    logx, logy : bool
        Logarithmic axes.

    Raises
    ------
    UsageError
        If the suffix is neither of the two.
    ValueError
        If a series has another length than ``xs``.
    """
    if odd := {name: len(ys) for name, ys in series.items() if len(ys) != len(xs)}:
        raise ValueError(f"each series needs {len(xs)} values, as many as xs; got {odd}")
    with _canvas(path, (960, 540), layout="constrained") as figure:
        figure.suptitle(_text(title))
        ax = figure.add_subplot()
        for name, ys in series.items():
            ax.plot(xs, ys, label=name, linewidth=1.6, marker="o" if len(xs) <= 30 else "", markersize=3.5)
        ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if logx else "linear", yscale="log" if logy else "linear")
        ax.grid(visible=True, color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            ax.legend(frameon=False)


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes of ``panels``.

    Parameters
    ----------
    points : mapping of str to (xs, ys)
        Drawn as markers joined by lines.
    lines : mapping of str to (xs, ys)
        Drawn thin and dashed, in the colour of the points of the same name: fits, limits.
    """

    points: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    xlabel: str = ""
    ylabel: str = ""
    title: str = ""
    logx: bool = False
    logy: bool = False


def panels(sheets: Sequence[Panel], path: str | PathLike[str], *, title: str = "") -> None:
    """Draw several charts side by side; one legend, a name has one colour in all of them.

    Parameters
    ----------
    sheets : sequence of Panel, at least one
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.

    Raises
    ------
    UsageError
        If the suffix is neither of the two.
    """
    names = list(dict.fromkeys(name for sheet in sheets for name in sheet.points))
    colours = {name: f"C{index % 10}" for index, name in enumerate(names)}
    with _canvas(path, (640 * len(sheets), 560), layout="constrained") as figure:
        figure.suptitle(_text(title))
        for index, sheet in enumerate(sheets):
            ax = figure.add_subplot(1, len(sheets), index + 1)
            for name, (xs, ys) in sheet.points.items():
                style = "-" if names.index(name) < 10 else ":"
                ax.plot(xs, ys, style, label=_text(name), color=colours[name], linewidth=1.6, marker="o", markersize=4)
            for name, (xs, ys) in sheet.lines.items():
                ax.plot(xs, ys, "--", color=colours.get(name, "0.5"), linewidth=0.9)
            ax.set(xlabel=sheet.xlabel, ylabel=sheet.ylabel, title=sheet.title)
            ax.set(xscale="log" if sheet.logx else "linear", yscale="log" if sheet.logy else "linear")
            ax.grid(visible=True, color="0.9")
            ax.spines[["top", "right"]].set_visible(False)
        handles = {
            label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        if len(handles) > 1:
            figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=6)


def check_figure_path(path: str | PathLike[str]) -> None:
    """Raise ``UsageError`` where the functions here would: for commands to call before the work, not after it."""
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{path}: figures end in .png or .svg, which says how they are written.")


@contextmanager
def _canvas(path: str | PathLike[str], size: tuple[int, int], layout: Any = None) -> Iterator[Figure]:
    """A figure of ``size`` pixels (width, height) that is saved to ``path`` when the block ends well."""
    check_figure_path(path)
    suffix = Path(path).suffix.lower()
    import matplotlib
    from matplotlib.figure import Figure

    from .atomic import atomic_path

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a Japanese file name: boxes will do
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change what a report looks like
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, layout=layout, facecolor="white")
        yield figure
        metadata = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
        with atomic_path(Path(path)) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)


@contextmanager
def _grid(
    path: str | PathLike[str],
    cells: tuple[int, int],
    shape: tuple[int, ...],
    title: str,
    *,
    bars: Sequence[int],
    lines: int = 1,
) -> Iterator[_Grid]:
    """(rows, columns) of panels for images of ``shape`` [H, W]; colour bars follow the columns in ``bars``."""
    scale = PANEL / max(shape)
    scale = float(int(scale)) if scale >= 1 else scale  # whole factors keep pixels equal in size
    panel = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))  # width, height
    grid = _Grid(cells, panel, bars=bars, heading=24 + 26 * lines, top=44 if title else 0)
    with _canvas(path, grid.size) as figure:
        grid.figure = figure
        if title:
            figure.text(0.5, 1 - 14 / grid.size[1], _text(title), ha="center", va="top", fontsize=11)
        yield grid


class _Grid:
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
        ax.set_title(_text(title))
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
        ax.set_title(_text(unit), loc="left", fontsize=9)

    def _axes(self, left: int, top: int, width: int, height: int) -> Axes:
        across, down = self.size
        return self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _text(text: str) -> str:
    """Text as it is: matplotlib would set anything between two dollar signs as mathematics, or stumble over it."""
    return text.replace("$", r"\$")


def _plane(image: ArrayLike) -> NDArray[np.float64]:
    """The image itself, or the middle one of a stack. [H, W] or [Z, H, W] -> [H, W]."""
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.ndim == 3 and pixels.shape[0]:
        pixels = pixels[pixels.shape[0] // 2]
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"figures show images of shape [H, W] or [Z, H, W], got {list(np.shape(image))}")
    return pixels


def _same_shape(panels: Mapping[str, NDArray[Any]]) -> None:
    if len({image.shape for image in panels.values()}) > 1:
        raise ValueError(f"images differ in shape: { {name: list(image.shape) for name, image in panels.items()} }")


def _window(image: NDArray[Any]) -> Window:
    """The range that holds 99 % of the finite values; never empty."""
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0
