"""DICOM in: any grey image of any transfer syntax that a decoder here can unpack, in HU where the file says how.

Source: methods/filter2noise.md, section 8, rules 1-3 and 6; DICOM PS3.3 C.7.6.3, C.11.1 and C.7.6.16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...text import one_line
from ..image import GreyImage
from ..pixels import reading, replaced, to_float
from .codecs import decode, is_colour, make_grey, shape_of
from .padding import valid_pixels
from .parse import DEEPEST, parse, without_values
from .place import functional_groups, pixel_spacing
from .series import slice_info

_UNITS = {
    "BQML": "Bq/ml", "CNTS": "counts", "CPS": "counts/s", "CPSML": "counts/s/ml", "PROPCNTS": "proportional to counts",
    "PROPCPS": "proportional to counts/s", "GML": "g/ml", "CM2ML": "cm2/ml", "PCNT": "percent", "NONE": "none",
    "MLMING": "ml/min/g", "MLG": "ml/g", "MLMINML": "ml/min/ml", "MLML": "ml/ml", "UMOLML": "umol/ml",
    "UMOLMINML": "umol/min/ml", "MGMINML": "mg/min/ml", "1CM": "1/cm", "STDDEV": "standard deviations", "SUV": "SUV",
}  # fmt: skip
"""PET Units (PS3.3 C.8.9.1.1.3) in words."""
_TYPES = {
    "HU": "HU", "OD": "OD/1000", "MGML": "mg/ml", "Z_EFF": "Z_EFF", "ED": "ED", "EDW": "EDW", "HU_MOD": "HU_MOD",
    "PCT": "percent",
}  # fmt: skip
"""RescaleType (PS3.3 C.11.1.1.2) in words."""
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_RCT", "YBR_ICT")
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LOSSY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 203))


@dataclass(frozen=True, slots=True)
class DicomSource:
    """What ``write_dicom`` needs: the data set without its pixels, and how values are stored.

    Parameters
    ----------
    dataset : pydicom.Dataset
    keyword : str
        Which element held the pixels.
    slope, intercept : ndarray, shape (Z,), float64, or None
        value = stored · slope + intercept of each frame; None where ``pixels`` are the stored values.
    lossy : bool
        The pixels went through a lossy coding.
    luma : bool
        Colour was converted to grey.
    """

    dataset: Any
    keyword: str
    slope: NDArray[np.float64] | None
    intercept: NDArray[np.float64] | None
    lossy: bool
    luma: bool


def read_dicom(path: Path, *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read a DICOM file, single or multi-frame, with or without preamble.

    Parameters
    ----------
    path : Path
    luma : bool
        Convert colour (RGB, YBR, palette) to grey instead of refusing it.
    fill : float or None
        What replaces NaN and infinities of float pixel data; None refuses them.

    Returns
    -------
    GreyImage, pixels [Z, H, W]: float32 of stored · slope + intercept where the file has a rescale. In HU for CT whose
    rescale type is HU or not given, in the unit that PET Units or RescaleType name, else in "rescaled" values that
    compare within a series; the stored values where there is no rescale. MONOCHROME1 concerns display only.
    ``valid`` is False where the value is PixelPaddingValue (up to PixelPaddingRangeLimit), and in CT in the flat region
    below -1100 HU that reaches a corner of the image: scanners often fill the outside of the reconstructed circle with
    such a value and do not say so.

    Raises
    ------
    InputError
        If the file is damaged or cut off, holds no image, is in colour, or needs a decoder that is not installed.
    """
    notes: list[str] = []
    with reading(path, "DICOM", notes, shown=without_values):
        dataset = parse(path)
        keyword = pixel_keyword(path, dataset)
        shape = shape_of(path, dataset, notes)
        lossy = str(dataset.file_meta.TransferSyntaxUID) in _LOSSY or str(dataset.get("LossyImageCompression")) == "01"
        if not dataset.get("PhotometricInterpretation") and shape[3] == 1:
            notes.append("PhotometricInterpretation is missing or empty: taken as MONOCHROME2")
        colour = is_colour(dataset)
        if colour and not luma:
            named = str(dataset.get("PhotometricInterpretation", ""))
            kind = f" ({named})" if named in _COLOURS else ", or says so in its PhotometricInterpretation"
            raise InputError(path, f"is a colour image{kind}", "Add --luma to convert it to grey")
        stored = decode(path, dataset, keyword, shape, colour, notes)  # [Z, H, W]
        if colour:
            notes.append("colour converted to grey (BT.601 luma)")
            make_grey(dataset, stored)
        slope, intercept, unit = _rescale(path, dataset, len(stored), notes)
        stored = replaced(path, stored, fill, notes, slope=_column(slope, 1.0), intercept=_column(intercept, 0.0))
        pixels = _physical(stored, slope, intercept) if slope is not None else to_float(stored)
        if not np.isfinite(pixels).all():
            raise InputError(path, "has a rescale that gives values out of range", "Correct the header")
        valid = valid_pixels(dataset, stored, pixels if unit == "HU" else None, lossy, notes)
        info = slice_info(dataset)
        spacing = pixel_spacing(dataset)
        for word in PIXEL_KEYWORDS:  # the pixels are in `stored`; a second copy would travel to every worker
            if word in dataset:
                del dataset[word]
        _drop_damaged(dataset, notes)
        modality = str(dataset.get("Modality") or "")
    source = DicomSource(dataset, keyword, slope, intercept, lossy, colour)
    warnings = tuple(one_line(text) for text in dict.fromkeys(notes))
    return GreyImage(
        path, "dicom", pixels, unit, valid, spacing, modality, stored, source, info, warnings, info["places"]
    )


def _drop_damaged(dataset: Any, notes: list[str]) -> None:
    """Leave out top-level elements that cannot be understood: nothing could write them or look at them later."""
    for tag in list(dataset.keys()):
        if _is_damaged(dataset, tag):
            del dataset[tag]
            notes.append(f"element {tag} is damaged, or nests too deeply, and is left out")


def _is_damaged(dataset: Any, tag: Any, depth: int = 0) -> bool:
    """Whether an element, or one inside it, cannot be parsed, or nests deeper than anybody could look.

    Looks at a copy: untouched elements are written as is.
    """
    from pydicom.dataelem import RawDataElement, convert_raw_data_element

    if depth > DEEPEST:
        return True
    element = dataset.get_item(tag)
    try:
        if isinstance(element, RawDataElement):
            element = convert_raw_data_element(element, ds=dataset)
        if element.VR != "SQ":
            return False
        return any(_is_damaged(item, inner, depth + 1) for item in element.value for inner in item.keys())
    except Exception:  # pydicom raises whatever the damage causes
        return True


def pixel_keyword(path: Path, dataset: Any) -> str:
    """Which element holds the pixels, or an error that says what the file is instead."""
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            if dataset.get("Modality") == "SEG" or dataset.get("BitsAllocated") == 1:
                raise InputError(path, "is a segmentation mask of 1 bit, not a grey image", "Leave it out")
            return keyword
    if uid := dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"):
        if dataset.get("SOPClassUID") or "DirectoryRecordSequence" in dataset:
            known = getattr(uid, "name", uid) != uid  # else it is a UID that somebody made: not shown
            kind = uid.name if known else "data set of a SOPClassUID that is not known"
            raise InputError(path, f"holds no image: no pixel data in this {kind}", "Leave it out")
    if "TransferSyntaxUID" in dataset.file_meta and dataset.file_meta.get("MediaStorageSOPClassUID"):
        raise InputError(path, "is cut off or damaged: no image follows the file header", "Copy or export it again")
    raise InputError(path, "is not DICOM or holds no image: no pixel data found", "Leave it out or export it again")


def _rescale(
    path: Path, dataset: Any, frames: int, notes: list[str]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, str]:
    """Slope and intercept [Z] and the unit; None and "stored" where values stay as they are."""
    if "ModalityLUTSequence" in dataset:
        notes.append("a modality lookup table is kept; values are the stored ones, not HU")
        return None, None, "stored"
    modality = str(dataset.get("Modality") or "")
    items = [item or dataset for item in functional_groups(dataset, frames, "PixelValueTransformationSequence")]
    pairs = [tuple(_number(path, item, word) for word in ("RescaleSlope", "RescaleIntercept")) for item in items]
    if all(pair == (None, None) for pair in pairs):
        if modality == "CT":
            notes.append("CT without RescaleSlope and RescaleIntercept: values are the stored ones, not HU")
        return None, None, "stored"
    kinds = {_word(item, "RescaleType") for item in items}
    captured_secondarily = str(dataset.get("SOPClassUID", "")).startswith("1.2.840.10008.5.1.4.1.1.7")
    if captured_secondarily and "HU" not in kinds:  # a screen copy: its slope 1 and intercept 0 mean nothing
        if any(pair not in ((1, 0), (1, None), (None, 0)) for pair in pairs):
            notes.append("the rescale of a secondary capture is not applied: values are the stored ones")
        return None, None, "stored"
    for position, (word, default) in enumerate((("RescaleSlope", 1), ("RescaleIntercept", 0))):
        if any(pair[position] is None for pair in pairs):
            notes.append(f"{word} is missing or empty: taken as {default}")
            for item, pair in zip(items, pairs, strict=True):
                if pair[position] is None:
                    setattr(item, word, default)
    slope = np.array([1.0 if pair[0] is None else pair[0] for pair in pairs])
    intercept = np.array([0.0 if pair[1] is None else pair[1] for pair in pairs])
    if (slope == 0).any():
        raise InputError(path, "has a RescaleSlope of 0", "Correct the header or export it again")
    if modality != "CT" and (slope == 1).all() and (intercept == 0).all() and modality != "PT":
        return None, None, "stored"
    return slope, intercept, _unit(dataset, modality, kinds, notes)


def _unit(dataset: Any, modality: str, kinds: set[str], notes: list[str]) -> str:
    """The unit of rescaled values, in words of this program's own: a header may hold anything."""
    if modality == "CT" and kinds <= {"", "HU", "US"}:
        if "US" in kinds:
            notes.append("the rescale type is US (unspecified); values are taken as HU")
        return "HU"
    if modality == "PT" and (unit := _UNITS.get(_word(dataset, "Units"))):
        return unit
    known = [_TYPES[kind] for kind in sorted(kinds - {"", "US"}) if kind in _TYPES]
    if len(known) == len(kinds - {"", "US"}) and known:
        return " ".join(known)
    if kinds - {"", "US"}:
        notes.append("RescaleType names a unit that is not known: values are rescaled, without a unit")
    return "rescaled"


def _number(path: Path, item: Any, keyword: str) -> float | None:
    """A finite number; None where the element is missing or empty; ``InputError`` that names it for anything else."""
    try:
        value = item.get(keyword)
        if value is None or value == "":
            return None
        number = float(value)
    except Exception:  # pydicom parses on access and raises whatever the damage causes
        number = math.nan
    if not math.isfinite(number):
        raise InputError(path, f"has a {keyword} that is no number", "Correct the header or export it again")
    return number


def _word(item: Any, keyword: str) -> str:
    """A short text, or empty for what is missing or damaged."""
    try:
        return str(item.get(keyword) or "").strip()
    except Exception:  # as above
        return ""


def _physical(
    stored: NDArray[Any], slope: NDArray[np.float64], intercept: NDArray[np.float64] | None
) -> NDArray[np.floating[Any]]:
    """stored · slope + intercept per frame; rounded once, to the type that ``to_float`` picks."""
    out = np.empty(stored.shape, to_float(stored[:1]).dtype)
    for z, frame in enumerate(stored):
        out[z] = frame * slope[z] + (0.0 if intercept is None else intercept[z])
    return out


def _column(values: NDArray[np.float64] | None, default: float) -> NDArray[np.float64]:
    """One number per frame as [Z, 1, 1]."""
    return np.asarray(default if values is None else values, np.float64).reshape(-1, 1, 1)
