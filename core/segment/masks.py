"""Masks drawn by people: which pixels of a file are vessel, or field of view, and which way up it is.

Masks come as black and white of any depth, as labels 1, 2, 3 (arteries and veins, classes), as opacity alone, with the
soft edges of JPEG or of resampling, and with or without the orientation that EXIF gives the photo. What has to be
guessed is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io.photo.decode import ALPHA_DROPPED
from ..io.photo.read import Photo, read_photo, shrunk
from ..memory import budget
from .score.metrics import roc_auc

MAX_SIDE = 4096
"""Longer photos are reduced while they are read: models work at about 600 pixels, fine cameras have 4000."""
FULL_BYTES = 40
"""Bytes per pixel that a mask takes while it is read whole, so that its labels are seen before they are averaged."""
MOST_LABELS = 16
_LEVELS = 65535
_APART = 0.04  # least step between labels, as a share of the largest: coding noise lies closer
_SMALL = 31  # stored values up to this are numbers of classes, whatever their neighbours
_GREY = 0.02  # least share of grey pixels that is worth a word
_BETTER = 0.05  # area under the ROC curve by which one way up must fit better than the other

_NO_MATTER = (ALPHA_DROPPED, "grey", "no value above", "values above 1")
"""Beginnings of what the reader says of a photo and is of no account in a mask, whose values have no scale."""

Pixels = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask as its file shows it.

    Parameters
    ----------
    pixels : ndarray of bool, shape (h, w)
        Of ``size``, unless the mask was reduced as a photo of that size is.
    size : (H, W)
    orientation : int
        EXIF's, which was undone.
    notes : tuple of str
        Clauses that begin "its truth ...".
    """

    pixels: Pixels
    size: tuple[int, int]
    orientation: int = 1
    notes: tuple[str, ...] = ()


def read_mask(
    path: Path, *, orientation: int | None = None, word: str = "vessel", max_side: int | None = MAX_SIDE
) -> Mask:
    """Read a mask.

    Parameters
    ----------
    path : Path
    orientation : int, optional
        Undo this EXIF orientation, whatever the file says.
    word : str
        What a marked pixel is, for the notes.
    max_side : int or None
        Reduce a larger mask, as a photo is.

    Returns
    -------
    Mask. Black is never marked. Of two values the higher is; labels all are; otherwise what reaches half of full scale,
    or half of the brightest value where that is darker. Of a file that is drawn in its alpha channel, what is opaque.

    Raises
    ------
    InputError
        As ``read_photo``.
    """
    picture = read_photo(path, max_side=max_side, uniform=True, orientation=orientation)
    whole = picture.pixels.shape[1:] == picture.size
    if not whole and FULL_BYTES * picture.size[0] * picture.size[1] <= budget() // 2:
        picture, whole = read_photo(path, uniform=True, orientation=orientation), True
    notes = [f"is read with a warning ({note})" for note in picture.warnings if not note.startswith(_NO_MATTER)]
    values = picture.pixels.max(0)  # [h, w]
    marked = marks(values, picture.white, word, notes)
    if ALPHA_DROPPED in picture.warnings:
        side = max(picture.pixels.shape[1:])
        opacity = read_photo(path, max_side=side, alpha=True, orientation=orientation).pixels[0]
        if not (drawn := opacity >= 0.5).all():
            if not drawn.any() or np.ptp(values[drawn]) == 0:
                notes, marked = [f"is drawn in its alpha channel alone: what is opaque counts as {word}"], drawn
            else:
                notes.append(f"is transparent in places: what is transparent does not count as {word}")
                marked &= drawn
    if not whole:
        notes.append("was reduced while it was read: labels may have been averaged")
    elif max_side is not None and max(picture.size) > max_side:
        marked = shrunk(marked.astype(np.float32), max_side) >= 0.5
    return Mask(marked, picture.size, picture.orientation, tuple(notes))


def marks(values: NDArray[np.float32], white: float, word: str, notes: list[str]) -> Pixels:
    """Which of ``values`` [h, w] in [0, 1] are marked; 1 was stored as ``white``."""
    high = float(values.max())
    if high <= 0:
        return np.zeros(values.shape, bool)
    levels = np.rint(values * (_LEVELS / high)).astype(np.uint16)
    present = np.flatnonzero(np.bincount(levels.ravel(), minlength=_LEVELS + 1))
    shown = ", ".join(f"{level / _LEVELS * high * white:.3g}" for level in present[:MOST_LABELS])
    if len(present) == 1:
        return np.ones(values.shape, bool)
    if len(present) == 2:
        if present[0] > 0:
            notes.append(f"holds the values {shown} and no 0: the higher counts as {word}")
        return np.asarray(levels == present[1], bool)
    if len(present) <= MOST_LABELS and _are_labels(levels, present, high * white):
        lowest = "0" if present[0] == 0 else shown.partition(",")[0]
        notes.append(f"holds the labels {shown}: all but {lowest} count as {word}")
        return np.asarray(levels > present[0], bool)
    if high < 0.5:
        notes.append(f"has no value above {high * white:.3g}, below half of full scale: half of that is the limit")
    marked: Pixels = values >= min(0.5, high / 2)
    grey = int(np.count_nonzero((values > 0.1 * high) & (values < 0.9 * high)))
    if grey > max(_GREY * values.size, int(np.count_nonzero(marked))):
        share = f"{grey / values.size:.0%} of it is neither"
        notes.append(f"is no mask in black and white, {share}: what is brighter than half counts as {word}")
    return marked


def _are_labels(levels: NDArray[np.uint16], present: NDArray[np.intp], stored: float) -> bool:
    """Whether a few values are classes, and not the steps of soft edges or the noise of a coding.

    A pixel of a soft edge has a brighter neighbour; one inside an area of a class has not.
    """
    from scipy.ndimage import maximum_filter

    if np.diff(present).min() < _APART * _LEVELS:
        return False
    if stored <= _SMALL and stored == round(stored):
        return True
    middle = (levels > present[0]) & (levels < present[-1])
    brightest = maximum_filter(levels, 3) == levels
    return bool(2 * np.count_nonzero(middle & brightest) >= np.count_nonzero(middle))


def mask_of(
    photo: Photo,
    path: Path,
    what: str,
    notes: list[str],
    evidence: Callable[[], NDArray[Any]],
    *,
    word: str = "vessel",
    max_side: int | None = MAX_SIDE,
) -> Mask:
    """The mask that belongs to a photo, upright as the photo is.

    Parameters
    ----------
    photo : Photo
    path : Path
        Of the mask.
    what : str
        ``"truth"``, for messages.
    notes : list of str
        Gains what the user should know.
    evidence : callable
        Gives an image [h, w] that is high where the mask ought to be. Decides which way up a mask is whose file says
        nothing, while EXIF turns the photo and its sides do not tell.
    word, max_side
        See ``read_mask``.

    Raises
    ------
    InputError
        If it cannot be read, or has another size than the photo.
    """
    reading = read_mask(path, word=word, max_side=max_side)
    choices = [reading]
    if reading.orientation != photo.orientation:
        choices.append(read_mask(path, orientation=photo.orientation, word=word, max_side=max_side))
    fitting = [mask for mask in choices if mask.size == photo.size]
    if not fitting:
        sides = f"{reading.size[1]} x {reading.size[0]} pixels, the photo {photo.size[1]} x {photo.size[0]}"
        fix = "They must be of one size"
        if photo.orientation != 1:
            sides += f" once it is turned by its EXIF orientation {photo.orientation}"
        elif reading.size == photo.size[::-1]:
            fix += ": one of them lies on its side"
        raise InputError(photo.path, f"its {what} {path} has {sides}", fix)
    chosen = fitting[0]
    if len(choices) == 2:
        why = "as its sides show"
        if len(fitting) == 2:
            fits = [_fit(evidence, mask.pixels) for mask in fitting]
            chosen = fitting[int(fits[1] > fits[0] + _BETTER)]
            why = "which fits the picture better" if abs(fits[1] - fits[0]) > _BETTER else "for want of any sign"
        done = "turned with it" if chosen is choices[1] else "left as it is"
        turns = (
            f"orientation {photo.orientation}, its {what} {'none' if reading.orientation == 1 else reading.orientation}"
        )
        notes.append(f"the photo has EXIF {turns}: the {what} is {done}, {why}")
    notes += [f"its {what} {note}" for note in chosen.notes]
    return chosen


def _fit(evidence: Callable[[], NDArray[Any]], mask: Pixels) -> float:
    """Area under the ROC curve of the evidence, from about a million pixels; 0.5 where the mask is of one kind."""
    step = max(1, round((mask.size / 2**20) ** 0.5))
    score = roc_auc(evidence()[::step, ::step], mask[::step, ::step])
    return 0.5 if np.isnan(score) else score


def darkness(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much darker than its surroundings the green channel of a photo [3, h, w] is: vessels are. [h, w]."""
    from scipy.ndimage import gaussian_filter

    green = pixels[1]
    return np.asarray(gaussian_filter(green, max(green.shape) / 60) - green, np.float32)


def brightness(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The brightest channel of a photo [3, h, w]: high in the field of view. [h, w]."""
    return np.asarray(pixels.max(0), np.float32)
