"""Which bits of a DICOM sample are its value: decided from the header and the data, the same for every transfer syntax.

Headers are often wrong about BitsStored and HighBit, and old files keep overlays or nothing in particular in the bits
beside the value. What is odd is said; nothing is cut off, shifted or kept in silence.
Source: DICOM PS3.5 8.1, PS3.3 C.7.6.3 and C.9.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Raw = NDArray[np.unsignedinteger[Any]]
_SLICES = 16
"""Slices of a stack, of those that are odd, by which it is judged."""
_RARE = 0.02
"""Share of neighbours across a boundary of BitsStored that may look one way or the other by chance."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Decoded samples before anybody has said which of their bits are the value.

    Parameters
    ----------
    raw : ndarray of unsigned integers, shape (Z, H, W)
        Bit patterns.
    width : int
        Bits of a pattern that the coding carries: BitsAllocated, or the precision of a compressed stream.
    """

    raw: Raw
    width: int


def values_of(dataset: Any, samples: Samples, used: int, high: int, signed: bool, notes: list[str]) -> NDArray[Any]:
    """Stored values; overlays in unused bits become overlays of their own, and the header says what is so.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Its BitsStored, HighBit and overlay groups are corrected.
    samples : Samples
    used, high : int
        BitsStored and HighBit as the header gives them.
    signed : bool
        PixelRepresentation 1.
    notes : list of str
        Takes what was odd.

    Returns
    -------
    ndarray, shape (Z, H, W), signed or unsigned, of the size of ``samples.raw``.
    """
    raw, width = samples.raw, samples.width
    overlays = _embedded(dataset)
    if (below := _overlays_inside(raw, overlays, used, signed)) is not None:
        notes.append(f"BitsStored says {used} bits, but from bit {below} up there are overlays: the values end below")
        used, high = below, below - 1
    bits = min(used, width)
    shift = _shift(raw, width, used, high, signed, {bit for bit in overlays.values() if not 0 <= bit < bits}, notes)
    raw = _take_overlays(dataset, raw, width, overlays, range(shift, shift + bits), notes)
    if shift:
        raw, width = raw >> raw.dtype.type(shift), width - shift
    values, needed = _choose(dataset, raw, width, bits, signed, notes)
    if needed > used:
        notes.append(f"BitsStored says {used} bits, but the pixels use {needed}: all of them are kept")
    dataset.BitsStored = max(used, needed)
    dataset.HighBit = dataset.BitsStored - 1
    return values


def extended(raw: Raw, bits: int, signed: bool) -> NDArray[Any]:
    """The low ``bits`` of each pattern as numbers: two's complement where ``signed``."""
    size = 8 * raw.dtype.itemsize
    if not signed:
        return raw if bits >= size else raw & raw.dtype.type((1 << bits) - 1)
    values: NDArray[Any] = raw.view(f"i{raw.dtype.itemsize}")
    if bits < size:
        values = (values << (size - bits)) >> (size - bits)
    return values


def _shift(raw: Raw, width: int, used: int, high: int, signed: bool, overlay: set[int], notes: list[str]) -> int:
    """Bits below the value: what HighBit says, unless the data show that they begin at bit 0."""
    if high == used - 1:
        return 0
    says = high + 1 - used
    if not 0 < says <= width - used:
        notes.append(f"HighBit {high} does not fit BitsStored {used}: the values are read from bit 0 up")
        return 0
    clear = raw.dtype.type(((1 << width) - 1) & ~sum(1 << bit for bit in overlay))
    seen = int(np.bitwise_or.reduce(raw, axis=None) & clear)
    if not seen & ((1 << says) - 1):
        notes.append(f"HighBit is {high} with BitsStored {used}: the values were shifted down by {says} bits")
        return says
    fits = seen >> used == 0 or (signed and _needed(extended(raw & clear, width, True), True) <= used)
    if fits:
        notes.append(f"HighBit says {high}, but the pixels lie in bits 0 to {used - 1} and are read from there")
        return 0
    notes.append(f"HighBit is {high} with BitsStored {used}: the {says} bits below the values are left out")
    return says


def _embedded(dataset: Any) -> dict[int, int]:
    """Overlay groups without data of their own, and the bit of the samples in which each is said to lie."""
    groups = {}
    for group in range(0x6000, 0x6100, 2):
        if (group, 0x0010) in dataset and (group, 0x3000) not in dataset:
            try:
                groups[group] = int(dataset[group, 0x0102].value)
            except (KeyError, TypeError, ValueError):
                groups[group] = -1
    return groups


def _overlays_inside(raw: Raw, overlays: dict[int, int], used: int, signed: bool) -> int | None:
    """The lowest bit of overlays that are said to lie inside the value, where the data show that they do not."""
    inside = [bit for bit in overlays.values() if 0 < bit < used]
    if not inside:
        return None
    lowest = min(inside)
    others = raw & raw.dtype.type(((1 << used) - 1) & ~sum(1 << bit for bit in set(inside)))
    if int(others.max()) >> lowest:
        return None
    kept = extended(others, lowest, signed)
    places = np.flatnonzero((raw != others).any(axis=(1, 2)))
    some = places[:: max(1, len(places) // _SLICES)]
    smooth, jumps, like_noise = _evidence(extended(raw[some], used, signed), kept[some], lowest, None)
    return lowest if like_noise and smooth <= _RARE * (smooth + jumps) else None


def _take_overlays(dataset: Any, raw: Raw, width: int, overlays: dict[int, int], value: range, notes: list[str]) -> Raw:
    """Turn overlays in bits outside ``value`` into overlay data, and clear those bits."""
    clear = (1 << (8 * raw.dtype.itemsize)) - 1
    for group, bit in overlays.items():
        if bit in value or not 0 <= bit < width:
            for tag in [tag for tag in dataset.keys() if tag.group == group]:
                del dataset[tag]
            why = "a bit of the pixel values" if bit in value else "no bit of the pixels"
            notes.append(f"overlay {group:04X} is said to lie in {why}: it is left out, the pixels stay as they are")
            continue
        plane = (raw >> raw.dtype.type(bit)) & raw.dtype.type(1)
        _add_overlay(dataset, group, plane.astype(np.bool_))
        clear &= ~(1 << bit)
        notes.append(f"overlay {group:04X} lay in bit {bit} of the pixels: taken out of them, kept as an overlay")
    return raw & raw.dtype.type(clear) if overlays else raw


def _add_overlay(dataset: Any, group: int, plane: NDArray[np.bool_]) -> None:
    """Overlay data of its own from bits [Z, H, W] (PS3.3 C.9.2)."""
    data = np.packbits(plane.ravel(), bitorder="little").tobytes()
    frames, rows, columns = plane.shape
    if frames > 1:
        dataset.add_new((group, 0x0015), "IS", str(frames))
        dataset.add_new((group, 0x0051), "US", 1)
    for element, vr, fixed in ((0x0010, "US", rows), (0x0011, "US", columns), (0x0100, "US", 1), (0x0102, "US", 0)):
        dataset.add_new((group, element), vr, fixed)
    for element, vr, default in ((0x0040, "CS", "G"), (0x0050, "SS", [1, 1])):
        if (group, element) not in dataset:
            dataset.add_new((group, element), vr, default)
    dataset.add_new((group, 0x3000), "OW", data + b"\0" * (len(data) % 2))


def _choose(dataset: Any, raw: Raw, width: int, bits: int, signed: bool, notes: list[str]) -> tuple[NDArray[Any], int]:
    """The values, read from ``bits`` bits as the header says or from all; and how many bits they take."""
    full, kept = extended(raw, width, signed), extended(raw, bits, signed)
    if bits >= width:
        return full, bits
    padding = _is_padding(dataset, full)
    odd = full != kept
    if padding is not None:
        odd &= ~padding
    if not odd.any():  # nothing beyond BitsStored but signs that are extended
        return _merged(kept, full, padding), bits
    real = full if padding is None else full[~padding]
    above = (raw if padding is None else raw[~padding]) >> raw.dtype.type(bits)
    places = np.flatnonzero(odd.any(axis=(1, 2)))
    some = places[:: max(1, len(places) // _SLICES)]  # enough to judge by, in whatever a stack has
    if signed and not above.any():  # negative values whose signs were not extended, or large positive ones
        smooth, jumps, _ = _evidence(full[some], kept[some], bits, None if padding is None else padding[some])
        if smooth <= jumps:
            return _merged(kept, full, padding), bits
        return full, _needed(real, signed)
    if (above == above.flat[0]).all():  # pixel values that spread would have crossed a boundary of the bits above
        spread = kept if padding is None else kept[~padding]
        stray = int(spread.max()) - int(spread.min()) >= 1 << max(0, bits - 2)
    else:
        smooth, jumps, like_noise = _evidence(full[some], kept[some], bits, None if padding is None else padding[some])
        stray = like_noise and smooth <= _RARE * (smooth + jumps)
    if stray:
        notes.append(f"bits above the {bits} of BitsStored hold something that is no pixel value: they are left out")
        return _merged(kept, full, padding), bits
    return full, _needed(real, signed)


def _merged(kept: NDArray[Any], full: NDArray[Any], padding: NDArray[np.bool_] | None) -> NDArray[Any]:
    """``kept``, with padding as it stands in the file."""
    return kept if padding is None else np.where(padding, full, kept)


def _needed(values: NDArray[Any], signed: bool) -> int:
    """Bits that hold all values."""
    low, high = int(values.min()), int(values.max())
    return max(high.bit_length(), (~low if low < 0 else low).bit_length()) + signed if signed else high.bit_length()


def _is_padding(dataset: Any, full: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where a sample is the padding value to the last bit: it may lie outside BitsStored."""
    paddings = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        try:
            value = int(dataset[keyword].value)
        except Exception:  # missing, or pydicom raises whatever the damage causes
            continue
        info, span = np.iinfo(full.dtype), 1 << 8 * full.dtype.itemsize
        paddings.append(value - span if value > info.max else value + span if value < info.min else value)
    if not paddings:
        return None
    same = (full >= min(paddings)) & (full <= max(paddings))
    return same if same.any() and not same.all() else None


def _evidence(
    full: NDArray[Any], kept: NDArray[Any], bits: int, padding: NDArray[np.bool_] | None
) -> tuple[int, int, bool]:
    """Compare neighbours that differ above ``bits``: in how many is the step smaller with all bits, and without?

    Values that go on above BitsStored cross its boundary in small steps; bits that are no part of the value leave steps
    behind that are no larger than elsewhere once they are gone. Whether that is so is the third result.
    """
    smooth = jumps = 0
    crossing: list[NDArray[Any]] = []
    others: list[NDArray[Any]] = []
    for z in range(len(full)):
        a, b = full[z].astype(np.int64), kept[z].astype(np.int64)
        above = (a - b) >> bits  # what the bits above add, in units of their lowest
        for axis in (0, 1):
            first, second = (np.abs(np.diff(values, axis=axis)) for values in (a, b))
            differ = np.diff(above, axis=axis) != 0
            if padding is not None:
                inside = ~padding[z]
                both = inside[1:] & inside[:-1] if axis == 0 else inside[:, 1:] & inside[:, :-1]
                differ &= both
            smooth += int((first < second)[differ].sum())
            jumps += int((first > second)[differ].sum())
            crossing.append(second[differ])
            others.append(second[~differ])
    there, rest = np.concatenate(crossing), np.concatenate(others)
    if not there.size or not rest.size:
        return smooth, jumps, False
    large = max(1.0, 6.0 * float(np.median(rest)))
    return smooth, jumps, float((there > large).mean()) <= _RARE + 3.0 * float((rest > large).mean())
