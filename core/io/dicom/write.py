"""DICOM out: the file that was read with new pixels, saying truthfully that it is derived and from what.

Source: methods/filter2noise.md, section 8, rule 5; DICOM PS3.3 C.7.6.1, C.7.5.2 and C.12.1.

Nothing comes from the clock or from chance: the same source, pixels and derivation give the same bytes, UIDs included.
InstanceCreationDate and -Time are therefore left out (both are optional) rather than set to something untrue.
"""

from __future__ import annotations

import copy
import hashlib
import io
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...text import first_line
from ..atomic import write_bytes
from ..image import Derivation, GreyImage
from ..pixels import captured, to_stored
from .parse import without_values
from .read import PIXEL_KEYWORDS, DicomSource

IMPLEMENTATION_UID = "2.25.301467295518427431229671372021594164739"
_NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122: names that are OIDs
_ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.130")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_STALE = (
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "IconImageSequence",  # a thumbnail of the old pixels
    "DigitalSignaturesSequence",  # signatures of the old content
    "MACParametersSequence",
    "DataSetTrailingPadding",
    "PixelDataProviderURL",
    "InstanceCreationDate",
    "InstanceCreationTime",
    *PIXEL_KEYWORDS,
)
_TOLD = ("IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence", "PixelDataProviderURL")
"""Of these, what a user may miss; the rest describes how the old pixels were packed, or when."""
_SWAPPED_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def derived_uid(*parts: str) -> str:
    """A UID that is a function of ``parts``: 2.25 followed by a name-based UUID (PS3.5 B.2, RFC 4122)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(31).join(parts)).int}"


def write_dicom(
    image: GreyImage,
    pixels: NDArray[Any],
    path: Path,
    derivation: Derivation | None = None,
    notes: list[str] | None = None,
) -> None:
    """A ``GreyWriter``: uncompressed DICOM (Explicit VR Little Endian) with the data set that was read.

    ``derivation`` makes the file a derived instance of a new series: UIDs, ImageType, DerivationDescription, source
    reference, equipment. None changes the instance UID only, and that only when a pixel changed, which is noted.
    Raises ``InputError`` also where the data set cannot be written whatever is left out of it.
    """
    source = image.source
    if not isinstance(source, DicomSource) or image.stored is None:
        raise ValueError("a DICOM file can only be written like one that was read")
    notes = [] if notes is None else notes
    limits = _limits(source.dataset, image.stored)
    stored = to_stored(image, pixels, slope=source.slope, intercept=source.intercept, limits=limits, notes=notes)
    try:
        with captured([]):
            data = _file(image, source, stored, limits, derivation, notes)
    except Exception as error:  # pydicom raises whatever a damaged value causes
        detail = without_values(first_line(error)) or type(error).__name__
        raise InputError(image.path, f"cannot be written as DICOM ({detail})", "Its header is damaged") from error
    write_bytes(path, data)


def _file(
    image: GreyImage,
    source: DicomSource,
    stored: NDArray[Any],
    limits: tuple[int, int] | None,
    derivation: Derivation | None,
    notes: list[str],
) -> bytes:
    """The bytes of the file with ``stored`` [Z, H, W] as its pixels."""
    from pydicom.datadict import keyword_for_tag

    dataset = copy.deepcopy(source.dataset)
    _swap_words(dataset)
    for tag in list(dataset.keys()):
        keyword = keyword_for_tag(tag)
        if tag.group in (0x0000, 0x0002) or keyword in _STALE:
            del dataset[tag]  # command and file header elements do not belong into a data set
            if keyword in _TOLD:
                notes.append(f"{keyword} belongs to the old pixels and is left out")
    _set_pixels(dataset, source, stored, limits, notes)
    same = not source.luma and bool((stored == image.stored).all())
    if same and derivation is not None:
        notes.append("no stored value changed: the result says so, and claims no smoothing")
    if derivation is not None or not same:
        _set_identity(dataset, stored, derivation)
    if derivation is not None:
        _set_derivation(dataset, derivation, same)
    _set_meta(dataset)
    return _encoded(dataset, notes)


def _limits(dataset: Any, stored: NDArray[Any]) -> tuple[int, int] | None:
    """Least and greatest value of BitsStored bits; of all bits where a lossy decoder already left that range."""
    if stored.dtype.kind == "f":
        return None
    bits, signed = int(dataset.get("BitsStored") or 8 * stored.dtype.itemsize), stored.dtype.kind == "i"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    info = np.iinfo(stored.dtype)
    if stored.min() < low or stored.max() > high:
        return int(info.min), int(info.max)
    return max(low, int(info.min)), min(high, int(info.max))


def _set_pixels(
    dataset: Any, source: DicomSource, stored: NDArray[Any], limits: tuple[int, int] | None, notes: list[str]
) -> None:
    """Pixel data and the elements that describe it, all consistent with each other."""
    data = stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
    data += b"\0" * (len(data) % 2)
    if limits is None:
        dataset.add_new(source.keyword, "OF" if stored.dtype.itemsize == 4 else "OD", data)
        return
    allocated, signed = 8 * stored.dtype.itemsize, stored.dtype.kind == "i"
    dataset.BitsAllocated = allocated
    dataset.BitsStored = (limits[1] - limits[0]).bit_length()
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(signed)
    dataset.add_new("PixelData", "OB" if allocated == 8 else "OW", data)
    dataset["PixelData"].is_undefined_length = False
    for keyword, value in (("SmallestImagePixelValue", stored.min()), ("LargestImagePixelValue", stored.max())):
        if keyword in dataset:
            del dataset[keyword]
            if allocated <= 16:
                dataset.add_new(keyword, "SS" if signed else "US", int(value))
    if source.lossy:
        dataset.LossyImageCompression = "01"
    for group in range(0x6000, 0x6100, 2):  # overlays in unused bits of the pixels: those bits are gone
        if (group, 0x0010) in dataset and (group, 0x3000) not in dataset:
            for tag in [tag for tag in dataset.keys() if tag.group == group]:
                del dataset[tag]
            notes.append(f"overlay {group:04X} lay in the colour pixels and is left out")


def _set_identity(dataset: Any, stored: NDArray[Any], derivation: Derivation | None) -> None:
    """A new SOPInstanceUID and a reference to the instance it comes from."""
    from pydicom.dataset import Dataset

    old_class, old_uid = dataset.get("SOPClassUID"), dataset.get("SOPInstanceUID")
    words = (derivation.description, derivation.series_uid) if derivation else ("", "")
    dataset.SOPInstanceUID = derived_uid(str(old_uid or ""), *words, hashlib.sha256(stored.data).hexdigest())
    if old_class and old_uid:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = old_class, old_uid
        item.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
        dataset.SourceImageSequence = [item, *_several(dataset, "SourceImageSequence")]


def _set_derivation(dataset: Any, derivation: Derivation, same: bool) -> None:
    """What makes the instance a derived one of a new series; ``same``: without a change of its pixels."""
    from pydicom.dataset import Dataset

    from attn import __version__

    dataset.SeriesInstanceUID = derivation.series_uid
    enhanced = str(dataset.get("SOPClassUID")) in _ENHANCED  # there the second value has to be PRIMARY (C.8.16.1)
    second = "PRIMARY" if enhanced else "SECONDARY"
    dataset.ImageType = ["DERIVED", second, *_several(dataset, "ImageType")[2:]]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in dataset.get(groups) or []:
            for name in ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence"):
                for frame in item.get(name) or []:
                    frame.FrameType = ["DERIVED", "PRIMARY", *_several(frame, "FrameType")[2:]]
    said = "The pixel values are unchanged. " if same else ""
    new = f"{said}{_plain(derivation.description)}"[:1024]
    before = str(dataset.get("DerivationDescription") or "").strip()[: max(0, 1022 - len(new))]
    dataset.DerivationDescription = f"{before}; {new}" if before else new
    if not same:
        dataset.DerivationCodeSequence = [*_several(dataset, "DerivationCodeSequence"), _code("113087", "Smoothing")]
    suffix = _plain(derivation.suffix)[:64]
    old = str(dataset.get("SeriesDescription") or "").strip()
    dataset.SeriesDescription = f"{old[: max(0, 63 - len(suffix))]} {suffix}".strip()
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName, item.SoftwareVersions = "attn", "attn", __version__
    item.PurposeOfReferenceCodeSequence = [_code("109103", "Modifying Equipment")]
    dataset.ContributingEquipmentSequence = [*_several(dataset, "ContributingEquipmentSequence"), item]


def _several(dataset: Any, keyword: str) -> list[Any]:
    """The values, or items, of an element; empty where it is missing."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)


def _plain(text: str) -> str:
    """ASCII, as every DICOM character set can hold it; a backslash would separate values."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")


def _code(value: str, meaning: str) -> Any:
    """One item of a code sequence, from DICOM's own terminology."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _set_meta(dataset: Any) -> None:
    """A fresh file header; the UIDs that every instance must have are filled in where the source lacks them."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    from attn import __version__

    if not dataset.get("SOPClassUID"):
        dataset.SOPClassUID = dataset.file_meta.get("MediaStorageSOPClassUID") or _SECONDARY_CAPTURE
    if not dataset.get("SOPInstanceUID"):
        dataset.SOPInstanceUID = derived_uid(str(dataset.get("StudyInstanceUID") or ""), str(dataset.SOPClassUID))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not dataset.get(keyword):
            setattr(dataset, keyword, derived_uid(keyword, str(dataset.SOPInstanceUID)))
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = f"ATTN_{__version__}"[:16]
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128


def _swap_words(dataset: Any) -> None:
    """Turn the words of big endian binary elements around, at every depth: pydicom copies their bytes as they are."""
    if dataset.file_meta.TransferSyntaxUID.is_little_endian:
        return
    for element in dataset.iterall():
        size = _SWAPPED_WORDS.get(element.VR)
        if size and isinstance(element.value, bytes) and len(element.value) % size == 0:
            element.value = np.frombuffer(element.value, f"u{size}").byteswap().tobytes()


def _encoded(dataset: Any, notes: list[str]) -> bytes:
    """The file's bytes; if an element of the source cannot be encoded, without every such element, named in notes."""
    try:
        return _file_bytes(dataset)
    except Exception:  # pydicom raises whatever a damaged value causes
        for tag in [tag for tag in dataset.keys() if not _encodable(dataset, tag)]:
            del dataset[tag]
            notes.append(f"element {tag} cannot be written and is left out")
    return _file_bytes(dataset)


def _file_bytes(dataset: Any) -> bytes:
    from pydicom import dcmwrite

    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _encodable(dataset: Any, tag: Any) -> bool:
    """Whether one top-level element can be written."""
    from pydicom.dataset import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    try:
        alone = Dataset()
        alone[tag] = dataset[tag]
        if "PixelRepresentation" in dataset:
            alone.PixelRepresentation = dataset.PixelRepresentation  # decides what "US or SS" is
        write_dataset(buffer, alone)
    except Exception:  # as above
        return False
    return True
