"""What all readers and writers of pixels share: limits, quiet decoders, channels to grey, values back to storage."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, decoding
from ..memory import check_memory
from ..options import OptionError
from ..text import first_line
from .image import GreyImage

STACK_BYTES = 48
"""Bytes at the peak for each pixel of a file, beside twice what it stores: reading, denoising, scoring and writing a
stack, measured."""
SLICE_BYTES = 256
"""Bytes at the peak for each pixel of one slice: what the most demanding method needs while it works, measured."""

_BLOCK = 2**20
DAMAGED = "The file may be damaged: copy or export it again"
"""What to do about bytes that make no sense."""

_LOGGERS = ("pydicom", "tifffile", "PIL", "nibabel", "nibabel.global", "pylibjpeg")
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value, ITU-R BT.601."""


def check_size(
    path: str | PathLike[str],
    shape: Sequence[int],
    *,
    itemsize: int = 4,
    each: int = STACK_BYTES,
    slice_each: int = SLICE_BYTES,
    limit: int | None = None,
    advice: str = "split the file",
) -> int:
    """Refuse what a header promises before anything is allocated, unless it fits into the budget of memory.

    Parameters
    ----------
    path : str or PathLike
    shape : sequence of int
        [Z, H, W, ...], or [H, W]. Colours are values like others: [Z, H, W, 3].
    itemsize : int
        Bytes of one value as the file stores it.
    each : int
        Bytes that everything made of one value takes at the peak, beside twice ``itemsize`` (the file's bytes and the
        stored values).
    slice_each : int
        Bytes per pixel of one slice (of the last two axes, the last three of four) that work on it takes beside that.
    limit : int or None
        Most values, where there is a limit besides the budget.
    advice : str
        What to do about a file that is too large and not damaged.

    Returns
    -------
    int
        Number of values.

    Raises
    ------
    InputError
        If a side is < 1, or there are more values than ``limit`` or than the budget holds.
    """
    count = math.prod(shape)
    sides = " x ".join(str(side) for side in shape)
    if not shape or min(shape) < 1:
        raise InputError(path, f"has no pixels: its size is {sides}", "The header may be damaged")
    if limit is not None and count > limit:
        fix = f"The header may be damaged; if it is not, {advice}"
        raise InputError(path, f"claims {sides} pixels, more than the limit of {limit}", fix)
    slice_count = count // (shape[0] if len(shape) > 2 else 1)
    need = count * (2 * itemsize + each) + slice_count * slice_each
    fix = f"The header may be damaged; if it is not, {advice} or raise --max-memory"
    check_memory(path, need, f"claims {sides} pixels, which take", fix)
    return count


def check_bytes(path: str | PathLike[str], expected: int, found: int, ratio: float = 1.0) -> None:
    """``InputError`` if ``found`` bytes cannot hold ``expected`` bytes of pixels at a compression of ``ratio``."""
    if found * ratio < expected:
        # a compressed stream that cannot possibly hold the image is refused before the image is allocated
        least = math.ceil(expected / ratio)
        words = "" if ratio == 1 else "at least "
        raise InputError(
            path,
            f"pixel data is cut off: expected {words}{least} bytes, found {found}",
            "Copy or export the file again",
        )


def read_into(path: str | PathLike[str], file: IO[bytes], buffer: memoryview, found: int = 0) -> None:
    """Fill ``buffer`` from a stream, a block at a time: at once, an archive would unpack a second copy of it.

    Raises ``InputError`` where the stream ends early; ``found`` counts what was read before.
    """
    done = 0
    while done < len(buffer):
        part = file.read(min(_BLOCK, len(buffer) - done))
        if not part:
            check_bytes(path, found + len(buffer), found + done)
        buffer[done : done + len(part)] = part
        done += len(part)


class _Collect(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.found = texts

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(first_line(record.getMessage()))


@contextmanager
def captured(texts: list[str]) -> Iterator[None]:
    """Warnings and log lines of decoders go to ``texts`` instead of stderr, each once, at most five."""
    noise: list[str] = []
    handler = _Collect(noise)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        try:
            yield
        finally:
            for logger, (handlers, propagate) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
            noise += [
                first_line(item.message)
                for item in caught
                if not issubclass(item.category, (DeprecationWarning, ResourceWarning, ImportWarning))
            ]
            texts += [text for text in dict.fromkeys(noise) if text and text not in texts][:5]


@contextmanager
def reading(
    path: str | PathLike[str], kind: str, texts: list[str], shown: Callable[[str], str] = str
) -> Iterator[None]:
    """``decoding`` with the decoder's chatter kept off stderr: it goes to ``texts``.

    ``shown`` makes of a library's words what may be shown of them.
    """
    words: list[str] = []
    try:
        with decoding(path, kind, DAMAGED, shown), captured(words):
            yield
    finally:
        texts += [shown(word) for word in words]


def to_float(stored: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """float32, or float64 where float32 cannot hold the stored integers exactly or would overflow."""
    if stored.dtype.kind in "iu" and stored.dtype.itemsize > 2 and stored.size:
        if max(abs(int(stored.min())), abs(int(stored.max()))) > 2**24:
            return stored.astype(np.float64)
    elif stored.dtype.kind == "f" and stored.dtype.itemsize > 4 and stored.size:
        if max(abs(float(stored.min())), abs(float(stored.max()))) > float(np.finfo(np.float32).max):
            return stored.astype(np.float64)
    return stored.astype(np.float32)


def replaced(
    path: str | PathLike[str],
    stored: NDArray[Any],
    fill: float | None,
    notes: list[str],
    *,
    slope: Any = 1.0,
    intercept: Any = 0.0,
) -> NDArray[Any]:
    """Stored values without NaN and infinities.

    Parameters
    ----------
    path : str or PathLike
    stored : ndarray, shape (Z, H, W)
        As in the file.
    fill : float or None
        What takes their place, in physical units; None refuses them.
    notes : list of str
        Is told how many there were.
    slope, intercept : float or ndarray that broadcasts to (Z, H, W)
        Physical value = stored · slope + intercept.

    Returns
    -------
    ndarray, shape and dtype of ``stored``; itself where all is finite. What is written later is made of it, so that
    the file's own NaN do not come back.

    Raises
    ------
    InputError
        If there are some and ``fill`` is None, or cannot be stored in that type.
    """
    if stored.dtype.kind != "f" or (finite := np.isfinite(stored)).all():
        return stored
    count = int(stored.size - finite.sum())
    if fill is None:
        z, y, x = (int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
        raise InputError(
            path,
            f"holds NaN or infinite values: {count}, the first at slice {z}, row {y}, column {x}",
            "Add --fill VALUE to replace them",
        )
    with np.errstate(over="ignore"):
        value = np.asarray((fill - np.asarray(intercept, np.float64)) / slope).astype(stored.dtype)
    if not np.isfinite(value).all():
        most = float(np.finfo(stored.dtype).max)
        what = f"stores values as {stored.dtype}, up to {most:g}, and the fill value {fill:g} does not fit"
        raise InputError(path, what, "Use a smaller --fill")
    notes.append(f"{count} NaN or infinite values were replaced by {fill:g}")
    return np.where(finite, stored, value).astype(stored.dtype, copy=False)


def check_fill(fill: float | None) -> None:
    """Raise ``UsageError`` for a fill value that would itself have to be replaced."""
    if fill is not None and not math.isfinite(fill):
        raise OptionError(
            f"{{fill}}: {fill:g} is no finite number. Use a value of the image's background, such as -1000."
        )


def grey(
    path: str | PathLike[str], colour: NDArray[Any], *, luma: bool, notes: list[str], hint: str = ""
) -> NDArray[Any]:
    """One channel from [..., 3]: the common one where all three are equal, else BT.601 luma when it is wished.

    ``hint`` ends the message where it is not, in case the axis is no colour.
    """
    if np.array_equal(colour[..., 0], colour[..., 1]) and np.array_equal(colour[..., 0], colour[..., 2]):
        notes.append("red, green and blue are equal: read as grey, written as grey")
        return np.ascontiguousarray(colour[..., 0])
    if not luma:
        fix = "Add --luma to convert it to grey"
        raise InputError(path, "is a colour image", f"{fix}; {hint}" if hint else fix)
    notes.append("colour converted to grey (BT.601 luma)")
    mixed: NDArray[Any] = colour.astype(np.float64) @ np.array(LUMA)
    return mixed.astype(colour.dtype) if colour.dtype.kind == "f" else np.rint(mixed).astype(colour.dtype)


def to_stored(
    image: GreyImage,
    pixels: NDArray[Any],
    *,
    slope: NDArray[np.float64] | None = None,
    intercept: NDArray[np.float64] | None = None,
    limits: tuple[int, int] | None = None,
    notes: list[str] | None = None,
) -> NDArray[Any]:
    """Values as the file stores them.

    Parameters
    ----------
    image : GreyImage
        As read. Where ``pixels`` equals ``image.pixels`` or is not valid, the stored value comes back exactly.
    pixels : ndarray, shape (Z, H, W)
        New values in ``image.unit``.
    slope, intercept : ndarray, shape (Z,), or None
        value = stored · slope + intercept, per slice.
    limits : (int, int) or None
        Least and greatest storable integer; those of the stored dtype when None.
    notes : list of str, optional
        Is told how many values did not fit.

    Returns
    -------
    ndarray, shape (Z, H, W), dtype of ``image.stored``. Integers are rounded half to even and clipped.

    Raises
    ------
    ValueError
        If the shapes differ or a pixel that would be written is NaN or infinite.
    """
    stored = image.stored
    if stored is None:
        raise ValueError("image has no stored values: it was not read from a file")
    if pixels.shape != image.pixels.shape:
        raise ValueError(f"pixels have shape {pixels.shape}, the image has {image.pixels.shape}")
    out, cut = np.array(stored), 0
    low, high = _range(stored.dtype, limits)
    for z in range(len(out)):  # slice by slice: a stack needs no second float64 copy of itself
        changed = pixels[z] != image.pixels[z]
        if image.valid is not None:
            changed &= image.valid[z]
        if not changed.any():
            continue
        values = pixels[z][changed].astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"slice {z} holds NaN or infinite values: they cannot be written")
        if intercept is not None:
            values -= intercept[z]
        if slope is not None:
            values /= slope[z]
        if stored.dtype.kind in "iu":
            np.rint(values, out=values)
        cut += int(((values < low) | (values > high)).sum())
        out[z][changed] = _cast(np.clip(values, low, high), stored.dtype)
    if cut and notes is not None:
        notes.append(f"{cut} values do not fit into the file's {stored.dtype}: cut to {low:g} ... {high:g}")
    return out


def _range(dtype: np.dtype[Any], limits: tuple[int, int] | None) -> tuple[float, float]:
    """Least and greatest float64 that a storage dtype holds."""
    if dtype.kind == "b":
        return -np.inf, np.inf
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    low, high = limits or (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    top = float(high)
    return float(low), top if int(top) <= high else float(np.nextafter(top, 0))  # 2**63 - 1 is no float64


def _cast(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """float64 [N] within the range of a storage dtype, whole where it holds integers, to that dtype."""
    return np.asarray(values >= 0.5, dtype) if dtype.kind == "b" else values.astype(dtype)
