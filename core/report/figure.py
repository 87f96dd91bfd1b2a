"""Figures for people: what a denoiser changed, methods side by side, one curve over another. Maps: ``maps.py``.

The same arguments give the same bytes. matplotlib is imported on use (``figure_canvas.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import Window, canvas, grid, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def before_after(
    noisy: ArrayLike,
    denoised: ArrayLike,
    path: str | PathLike[str],
    *,
    reference: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    window: Window | None = None,
    title: str = "",
    unit: str = "HU",
    aspect: float = 1.0,
    low_is_white: bool = False,
) -> None:
    """Draw an image before and after denoising, what was removed, and the clean image where there is one.

    Parameters
    ----------
    noisy, denoised, reference : array_like, shape (H, W) or (Z, H, W)
        Intensities in ``unit``. Of a stack the middle image is drawn.
    valid : array_like of bool, shape (H, W) or (Z, H, W), or None
        False where pixels are padding: what was removed is measured beside it.
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.
    window : (float, float) or None
        Lowest and highest grey value in ``unit``: black and white. None takes the 0.5 and 99.5 percentiles of
        ``noisy``.
    title : str
        Above the panels; normally file and method.
    unit : str
        Of the intensities, for the colour bars.
    aspect : float
        Height of a pixel over its width.
    low_is_white : bool
        Show the lowest value as white, as viewers do where the file says so.

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
    bars, cmap = (len(panels) - 1, len(panels)), _grey(low_is_white)
    with grid(path, (1, len(panels) + 1), before.shape, title, bars=bars, lines=2, aspect=aspect) as cells:
        for column, (name, image) in enumerate(panels.items()):
            drawn = cells.image(0, column, image, name, window, cmap)
        cells.bar(drawn, 0, len(panels) - 1, unit)
        measured = np.isfinite(removed) if valid is None else np.isfinite(removed) & (_plane(valid) != 0)
        finite = removed[measured] if measured.any() else np.zeros(1)
        reach = float(np.percentile(np.abs(finite), 99.5)) or 1.0
        text = f"Removed: before − after\nSD {float(finite.std()):.3g} {unit}"
        drawn = cells.image(0, len(panels), removed, text, (-reach, reach), cmap)
        cells.bar(drawn, 0, len(panels), unit)


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
    aspect: float = 1.0,
    low_is_white: bool = False,
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
    aspect, low_is_white
        As in ``before_after``.

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
    cmap = _grey(low_is_white) if cmap == "gray" else cmap
    with grid(path, (rows, columns), shape, title, bars=(columns - 1,), lines=lines, aspect=aspect) as cells:
        for index, (name, image) in enumerate(panels.items()):
            caption = (captions or {}).get(name, "")
            text = f"{name}\n{caption}" if captions else name
            drawn = cells.image(*divmod(index, columns), image, text, window, cmap)
        cells.bar(drawn, 0, columns - 1, unit)


def picture_sheet(
    pictures: Mapping[str, NDArray[np.uint8]],
    path: str | PathLike[str],
    *,
    captions: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """Draw pictures in colour as a grid, in the order given.

    Parameters
    ----------
    pictures : mapping of str to ndarray, shape (H, W, 3), uint8
        By the name that stands above.
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.
    captions : mapping of str to str
        A second line per name.
    title : str

    Raises
    ------
    UsageError
        If the suffix is neither of the two.
    ValueError
        If there is no picture or they differ in shape.
    """
    if not pictures:
        raise ValueError("a sheet needs at least one picture")
    _same_shape(pictures)
    columns = len(pictures) if len(pictures) <= 3 else math.ceil(math.sqrt(len(pictures)))
    rows, shape = math.ceil(len(pictures) / columns), next(iter(pictures.values())).shape
    with grid(path, (rows, columns), shape, title, bars=(), lines=2 if captions else 1) as cells:
        for index, (name, picture) in enumerate(pictures.items()):
            text = f"{name}\n{(captions or {}).get(name, '')}" if captions else name
            cells.image(*divmod(index, columns), picture, text, (0, 255))


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
    with canvas(path, (960, 540), layout="constrained") as figure:
        figure.suptitle(literal(title))
        ax = figure.add_subplot()
        for name, ys in series.items():
            ax.plot(xs, ys, label=name, linewidth=1.6, marker="o" if len(xs) <= 30 else "", markersize=3.5)
        _dress(ax, xlabel, ylabel, logx=logx, logy=logy)
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
    bands : mapping of str to (xs, lows, highs)
        Drawn pale below the points of the same name: intervals.
    xticks : sequence of float
        Where the horizontal axis has its marks, as percentages; empty: wherever.
    """

    points: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    xlabel: str = ""
    ylabel: str = ""
    title: str = ""
    logx: bool = False
    logy: bool = False
    bands: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]] = field(default_factory=dict)
    xticks: Sequence[float] = ()


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
    with canvas(path, (640 * len(sheets), 560), layout="constrained") as figure:
        figure.suptitle(literal(title))
        for index, sheet in enumerate(sheets):
            ax = figure.add_subplot(1, len(sheets), index + 1)
            for name, (xs, ys) in sheet.points.items():
                style = "-" if names.index(name) < 10 else ":"
                ax.plot(
                    xs, ys, style, label=literal(name), color=colours[name], linewidth=1.6, marker="o", markersize=4
                )
            for name, (xs, ys) in sheet.lines.items():
                ax.plot(xs, ys, "--", color=colours.get(name, "0.5"), linewidth=0.9)
            for name, (xs, lows, highs) in sheet.bands.items():
                ax.fill_between(xs, lows, highs, color=colours.get(name, "0.5"), alpha=0.13, linewidth=0)
            ax.set_title(sheet.title)
            _dress(ax, sheet.xlabel, sheet.ylabel, logx=sheet.logx, logy=sheet.logy)
            if sheet.xticks:
                ax.set_xticks(sheet.xticks, [f"{100 * tick:g} %" for tick in sheet.xticks])
                ax.minorticks_off()
        handles = {
            label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        if len(handles) > 1:
            figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=6)


def _dress(ax: Axes, xlabel: str, ylabel: str, *, logx: bool, logy: bool) -> None:
    """Labels, scales, a pale grid, and no frame at top and right."""
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if logx else "linear", yscale="log" if logy else "linear")
    low, high = ax.get_xlim()
    if logx and high < 10 * low:  # powers of ten are too far apart, and labels between them too long
        from matplotlib.ticker import MaxNLocator, ScalarFormatter

        ax.minorticks_off()
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.grid(visible=True, color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


def _grey(low_is_white: bool) -> str:
    """The grey scale of matplotlib."""
    return "gray_r" if low_is_white else "gray"


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
