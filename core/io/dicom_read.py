"""DICOM in: any grey image of any transfer syntax that a decoder here can unpack, in HU where the file says how.

Source: methods/filter2noise.md, section 8, rules 1-3 and 6; DICOM PS3.3 C.7.6.3, C.11.1 and C.7.6.16.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..memory import budget
from ..text import one_line
from .dicom_codecs import decode, is_colour, make_grey, shape_of
from .dicom_padding import valid_pixels
from .dicom_series import slice_info
from .image import GreyImage
from .kinds import open_regular
from .pixels import reading, replaced, to_float

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")
_DEFLATED = "1.2.840.10008.1.2.1.99"


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
    GreyImage, pixels [Z, H, W]. In HU (float32 of stored · slope + intercept) for CT with a rescale whose type is HU or
    not given; otherwise the stored values: MR, PET and others keep their own scale. MONOCHROME1 concerns display only.
    ``valid`` is False where the value is PixelPaddingValue (up to PixelPaddingRangeLimit), and in CT in the flat region
    below -1100 HU that reaches a corner of the image: scanners often fill the outside of the reconstructed circle with
    such a value and do not say so.

    Raises
    ------
    InputError
        If the file is damaged or cut off, holds no image, is in colour, or needs a decoder that is not installed.
    """
    notes: list[str] = []
    with reading(path, "DICOM", notes):
        dataset = _parse(path)
        keyword = _pixel_keyword(path, dataset)
        shape = shape_of(path, dataset, notes)
        lossy = str(dataset.file_meta.TransferSyntaxUID) in _LOSSY or str(dataset.get("LossyImageCompression")) == "01"
        colour = is_colour(dataset)
        if colour and not luma:
            interpretation = dataset.get("PhotometricInterpretation", "no photometric interpretation")
            raise InputError(path, f"is a colour image ({interpretation})", "Add --luma to convert it to grey")
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
        spacing = _spacing(dataset)
        for word in PIXEL_KEYWORDS:  # the pixels are in `stored`; a second copy would travel to every worker
            if word in dataset:
                del dataset[word]
        _drop_damaged(dataset, notes)
        modality = str(dataset.get("Modality") or "")
    source = DicomSource(dataset, keyword, slope, intercept, lossy, colour)
    warnings = tuple(one_line(text) for text in dict.fromkeys(notes))
    return GreyImage(path, "dicom", pixels, unit, valid, spacing, modality, stored, source, info, warnings)


def _drop_damaged(dataset: Any, notes: list[str]) -> None:
    """Leave out top-level elements that cannot be understood: nothing could write them or look at them later."""
    for tag in list(dataset.keys()):
        if _is_damaged(dataset, tag):
            del dataset[tag]
            notes.append(f"element {tag} is damaged and left out")


def _is_damaged(dataset: Any, tag: Any) -> bool:
    """Whether an element, or one inside it, cannot be parsed. Looks at a copy: untouched elements are written as is."""
    from pydicom.dataelem import RawDataElement, convert_raw_data_element

    element = dataset.get_item(tag)
    try:
        if isinstance(element, RawDataElement):
            element = convert_raw_data_element(element, ds=dataset)
        return element.VR == "SQ" and any(_is_damaged(item, inner) for item in element.value for inner in item.keys())
    except Exception:  # pydicom raises whatever the damage causes
        return True


def _parse(path: Path) -> Any:
    """The data set, with a transfer syntax in its ``file_meta`` even where the file names none."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    _check_deflated(path)
    dataset = pydicom.dcmread(path, force=True)
    if not isinstance(getattr(dataset, "file_meta", None), FileMetaDataset):
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _check_deflated(path: Path) -> None:
    """Refuse a deflated data set that would unpack to more than any image may hold."""
    limit = budget() // 3
    with open_regular(path) as file:
        head = file.read(4096)
        if _DEFLATED.encode() not in head or head[128:132] != b"DICM":
            return
        file.seek(144 + int.from_bytes(head[140:144], "little"))  # group 0002 ends where its group length says
        unpack, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        block = file.read(2**16)
        while block and not unpack.eof:
            total += len(unpack.decompress(block, 2**24))
            block = unpack.unconsumed_tail or file.read(2**16)
            if total > limit:
                raise InputError(path, f"unpacks to more than {limit} bytes", "It may be damaged")


def _pixel_keyword(path: Path, dataset: Any) -> str:
    """Which element holds the pixels, or an error that says what the file is instead."""
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            if dataset.get("Modality") == "SEG" or dataset.get("BitsAllocated") == 1:
                raise InputError(path, "is a segmentation mask of 1 bit, not a grey image", "Leave it out")
            return keyword
    if uid := dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"):
        if dataset.get("SOPClassUID") or "DirectoryRecordSequence" in dataset:
            modality = dataset.get("Modality")
            what = f"holds no image: no pixel data in this {uid.name}" + (f" ({modality})" if modality else "")
            raise InputError(path, what, "Leave it out")
    if "TransferSyntaxUID" in dataset.file_meta and dataset.file_meta.get("MediaStorageSOPClassUID"):
        raise InputError(path, "is cut off or damaged: no image follows the file header", "Copy or export it again")
    raise InputError(path, "is not DICOM or holds no image: no pixel data found", "Leave it out or export it again")


def _groups(dataset: Any, frames: int, name: str) -> list[Any]:
    """For each frame the item of functional group ``name`` (per-frame before shared), or None."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    common = (shared[0].get(name) or [None])[0] if len(shared) else None
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    return [((each[z].get(name) or [common])[0] if z < len(each) else common) for z in range(frames)]


def _rescale(
    path: Path, dataset: Any, frames: int, notes: list[str]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, str]:
    """Slope and intercept [Z] and the unit; None and "stored" where values stay as they are."""
    if "ModalityLUTSequence" in dataset:
        notes.append("a modality lookup table is kept; values are the stored ones, not HU")
        return None, None, "stored"
    items = [item or dataset for item in _groups(dataset, frames, "PixelValueTransformationSequence")]
    if dataset.get("Modality") != "CT" or any(item.get("RescaleSlope") is None for item in items):
        return None, None, "stored"
    slope = np.array([float(item.RescaleSlope) for item in items])
    intercept = np.array([float(item.get("RescaleIntercept") or 0.0) for item in items])
    if not (np.isfinite(slope).all() and np.isfinite(intercept).all() and (slope != 0).all()):
        raise InputError(path, "has a RescaleSlope of 0 or no number", "Correct the header or export it again")
    kinds = {str(item.get("RescaleType") or "") for item in items}
    captured_secondarily = str(dataset.get("SOPClassUID", "")).startswith("1.2.840.10008.5.1.4.1.1.7")
    if captured_secondarily and "HU" not in kinds:  # a screen copy: its slope 1 and intercept 0 mean nothing
        return None, None, "stored"
    if "US" in kinds:
        notes.append("the rescale type is US (unspecified); values are taken as HU")
    if other := kinds - {"", "HU", "US"}:
        return slope, intercept, " ".join(sorted(other))
    return slope, intercept, "HU"


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


def _spacing(dataset: Any) -> tuple[float, float] | None:
    """Row and column spacing in mm: PixelSpacing, at top level or in the first frame's group, else at the detector."""
    group = _groups(dataset, 1, "PixelMeasuresSequence")[0] or {}
    for value in (dataset.get("PixelSpacing"), group.get("PixelSpacing"), dataset.get("ImagerPixelSpacing")):
        try:
            row, column = (float(one) for one in value or ())
        except (TypeError, ValueError):
            continue
        if 0 < row < math.inf and 0 < column < math.inf:
            return row, column
    return None
