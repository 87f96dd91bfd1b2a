"""Which intensities are mapped to [0, 1] for a filter, and back.

Specification: filter2noise.md, section 8 rule 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, did_you_mean
from ..io.image import GreyImage
from ..options import OptionError

# centre and width in HU, as viewers preset them
PRESETS = {
    "lung": (-600.0, 1500.0),
    "bone": (300.0, 1500.0),
    "brain": (40.0, 80.0),
    "abdomen": (40.0, 400.0),
}

SOFT_TISSUE = PRESETS["abdomen"]
"""What pictures of CT show where nobody asked for another window: noise is invisible in the whole range."""
SHARE_SHOWN = 0.1
"""Of the pixels that must lie inside that window, or it would show a black or a white picture."""

# What a 12-bit scanner with the usual intercept can store. Below lies only padding, above only metal.
CT_RANGE = (-1024.0, 3071.0)

SAME_WIDTH = 0.01
"""Share by which two windows may differ in width and a kept filter still means the same."""
LEAST_INSIDE = 0.01
"""Share of an image's pixels below which a window is likely in another unit."""
MOST = (1.0, 99.0)
"""Percentiles between which most of an image's values lie."""
LEAST_SPAN = 1e-5
"""Share of a window that most values must span: filters compute in float32, and what is finer they take for nothing.

The default method follows noise down to 2e-7 of the window; where one hot pixel, or a fill value, makes it 2e-8, the
level comes out ten times too high.
"""


@dataclass(frozen=True, slots=True)
class Window:
    """An interval of intensities, in the image's unit, that is mapped to [0, 1]."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def normalise(self, pixels: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """``pixels`` mapped so that ``low`` is 0 and ``high`` is 1; values outside are clipped."""
        seen = pixels - self.low
        seen /= self.width
        np.clip(seen, 0.0, 1.0, out=seen)  # in place: of a stack there is one copy, not four
        return seen.astype(np.float32, copy=False)

    def restore(self, normalised: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The inverse of ``normalise`` for values inside the window."""
        restored: NDArray[np.float64] = self.low + np.clip(normalised, 0.0, 1.0).astype(np.float64) * self.width
        return restored

    def inside(self, pixels: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Where ``normalise`` did not clip: only there does a filter's result replace the pixel."""
        return np.asarray((pixels >= self.low) & (pixels <= self.high))

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


def parse_window(text: str, field: str = "window") -> tuple[float, float] | None:
    """(centre, width) of a preset's name or of ``"CENTER,WIDTH"``; None for ``auto``. ``field``: the option it is of.

    Raises
    ------
    UsageError
        For another word, or a width that is not positive.
    """
    if text == "auto":
        return None
    if text in PRESETS:
        return PRESETS[text]
    centre, comma, width = text.partition(",")
    try:
        values = float(centre), float(width)
    except ValueError:
        hint = did_you_mean(text, ["auto", *PRESETS]) if not comma else ""
        raise OptionError(
            f"{{{field}}}: {text!r} is not a window. {hint or 'Use auto, ' + ', '.join(PRESETS) + ' or CENTER,WIDTH.'}"
        ) from None
    if not (np.isfinite(values).all() and values[1] > 0):
        raise OptionError(f"{{{field}}}: the width must be a positive number, not {width}.")
    low, high = values[0] - values[1] / 2, values[0] + values[1] / 2
    if not (np.isfinite((low, high)).all() and high - low >= 0.5 * values[1] and values[1] >= 1e-30):
        raise OptionError(f"{{{field}}}: {text} is too narrow, or too far away, for numbers of 64 bits.")
    return values


def choose_window(text: str, image: GreyImage) -> Window:
    """The window that ``--window TEXT`` means for this image.

    ``auto`` is the range of the image's own valid pixels (the published choice), for CT cut to what a scanner can
    measure (-1024 to 3071 HU), so that padding and metal do not squeeze the tissue into a narrow band.

    Raises
    ------
    InputError
        For a preset in HU on an image that has no HU, or a window that the numbers of its dtype cannot reach: the fault
        of this file, others of a batch may have it.
    """
    window = _meant(text, image)
    if max(abs(window.low), abs(window.high), window.width) > float(np.finfo(image.pixels.dtype).max):
        raise InputError(
            image.path,
            f"cannot be seen in the window {window}: numbers of type {image.pixels.dtype} do not reach so far",
            "Choose a narrower --window; values outside stay as they are",
        )
    return window


def _meant(text: str, image: GreyImage) -> Window:
    """What the words say, whether numbers reach so far or not."""
    given = parse_window(text)
    if given is not None:
        if text in PRESETS and image.unit != "HU":
            raise InputError(
                image.path,
                f"has no HU, or does not say so, and the window {text} is in HU",
                "Add --unit hu if its values are HU; else use auto, or CENTER,WIDTH in its own values",
            )
        centre, width = given
        return Window(centre - width / 2, centre + width / 2)
    return common_window([value_range(image)])


def value_range(image: GreyImage) -> tuple[float, float] | None:
    """Least and greatest valid value of an image, for CT cut to what a scanner can measure; None: padding alone."""
    pixels = image.pixels if image.valid is None else image.pixels[image.valid]
    if not pixels.size:
        return None
    low, high = float(pixels.min()), float(pixels.max())
    return (max(low, CT_RANGE[0]), min(high, CT_RANGE[1])) if image.unit == "HU" else (low, high)


def common_window(ranges: Iterable[tuple[float, float] | None]) -> Window:
    """The window ``auto`` of images together; empty where they hold nothing."""
    known = [one for one in ranges if one is not None]
    return Window(min(low for low, _ in known), max(high for _, high in known)) if known else Window(0.0, 0.0)


def see(pixels: NDArray[np.floating[Any]], window: Window, valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """What a filter is shown of ``pixels`` [..., H, W]: the window mapped to [0, 1], its lower end where padding is."""
    seen = window.normalise(pixels)
    if valid is not None:
        seen[~valid] = 0.0
    return seen


def other_window(fitted_in: Window, window: Window) -> list[str]:
    """What a user should know where a kept filter, whose widths are shares of a window, is used in another one."""
    if abs(window.width / fitted_in.width - 1) <= SAME_WIDTH:
        return []
    return [
        f"the filter was fitted in the window {fitted_in} and is used in {window}, so its widths and levels are "
        f"{window.width / fitted_in.width:.3g} times what they were: give the window it was fitted in"
    ]


def outside(window: Window, image: GreyImage) -> list[str]:
    """What a user should know where a window holds next to nothing of an image, or most of it in next to no span."""
    pixels = image.pixels if image.valid is None else image.pixels[image.valid]
    if window.width <= 0 or not pixels.size:
        return []
    share = float(window.inside(pixels).mean())
    if share >= LEAST_INSIDE:
        return _crowded(window, image)
    return [
        f"only {share:.1%} of its pixels lie in the window {window} and are filtered; its values are "
        f"{float(pixels.min()):g} ... {float(pixels.max()):g}"
    ]


def _crowded(window: Window, image: GreyImage) -> list[str]:
    """Whether the window is so wide, for a hot pixel or a fill value, that the middle slice's own values are lost."""
    middle = len(image.pixels) // 2
    pixels = image.pixels[middle] if image.valid is None else image.pixels[middle][image.valid[middle]]
    pixels = pixels[window.inside(pixels)].astype(np.float64)
    if not pixels.size:
        return []
    low, high = (float(value) for value in np.percentile(pixels, MOST))
    if not 0 < high - low < LEAST_SPAN * window.width:
        return []
    return [
        f"most of its values lie in {low:g} ... {high:g}, next to nothing of the window {window}: edges are lost. "
        "Choose a narrower --window; values outside stay as they are"
    ]


def picture_window(text: str, image: GreyImage, window: Window, display: str = "auto") -> Window:
    """What pictures show from black to white: a window in which noise is seen.

    Parameters
    ----------
    text : str
        Of the option ``window``; what was asked for is shown.
    image : GreyImage
    window : Window
        That of the filter, which spans the whole range where ``text`` is ``auto``.
    display : str
        Another window for pictures alone, in the same words.

    Returns
    -------
    Window. For CT in HU that of soft tissue, unless less than a tenth of the middle slice lies in it; else the 0.5 and
    99.5 percentiles of the middle slice without its background (one value that every twentieth pixel has).
    """
    if display != "auto":
        return choose_window(display, image)
    if parse_window(text) is not None or window.width <= 0:
        return window
    middle = len(image.pixels) // 2
    pixels = image.pixels[middle] if image.valid is None else image.pixels[middle][image.valid[middle]]
    if not pixels.size:
        return window
    if image.unit == "HU":
        centre, width = SOFT_TISSUE
        soft = Window(centre - width / 2, centre + width / 2)
        if np.count_nonzero(soft.inside(pixels)) >= SHARE_SHOWN * pixels.size:
            return soft
    lowest = pixels == pixels.min()
    seen = pixels[~lowest] if 0.05 * pixels.size <= np.count_nonzero(lowest) < pixels.size else pixels
    low, high = (float(value) for value in np.percentile(seen, (0.5, 99.5)))
    return Window(low, high) if high > low else window
