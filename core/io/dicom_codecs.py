"""From DICOM pixel data to stored values: is there a decoder, and can the file hold what its header promises?"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .pixels import LUMA, check_bytes, check_size

_PACKAGES = {
    "1.2.840.10008.1.2.4.50": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.51": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.57": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.70": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}
_RLE = "1.2.840.10008.1.2.5"
_RETIRED_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (*range(52, 57), *range(58, 67)))
_PALETTE = ("PaletteColorLookupTableDescriptor", "PaletteColorLookupTableData", "SegmentedPaletteColorLookupTableData")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # F7: JPEG-LS


def check_encapsulated(path: Path, dataset: Any, shape: tuple[int, int, int, int], expected: int) -> None:
    """Refuse what cannot be decoded, before a decoder allocates anything.

    Parameters
    ----------
    path : Path
    dataset : pydicom.Dataset
        With encapsulated PixelData.
    shape : tuple of int
        Frames, rows, columns, samples.
    expected : int
        Bytes of the decoded pixels.

    Raises
    ------
    InputError
        If no decoder is installed or known for the transfer syntax (named), a frame is missing, or a stream's own
        header announces another size than the data set (decoders allocate by the stream's header).
    """
    from pydicom.encaps import generate_frames

    _check_decoder(path, dataset.file_meta.TransferSyntaxUID)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=shape[0]))
    if len(frames) < shape[0]:
        what = f"pixel data is cut off: expected {shape[0]} frames, found {len(frames)}"
        raise InputError(path, what, "Copy or export the file again")
    if dataset.file_meta.TransferSyntaxUID == _RLE:
        check_bytes(path, expected, sum(map(len, frames)), 64.0)  # two bytes stand for at most 128
        return
    for number, frame in enumerate(frames[: shape[0]]):
        size = stream_size(frame)
        if size is None:
            raise InputError(path, f"frame {number + 1} holds no image stream", "Copy or export the file again")
        if size != shape[1:3]:
            what = f"frame {number + 1} is {size[0]} x {size[1]}, the header says {shape[1]} x {shape[2]}"
            raise InputError(path, what, "Export the file again")


def _check_decoder(path: Path, syntax: Any) -> None:
    """``InputError`` that names the transfer syntax unless it can be decoded here."""
    from pydicom.pixels.decoders.base import get_decoder

    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        fix = "No decoder for it exists here"
        if str(syntax) in _RETIRED_JPEG:
            fix += "; DCMTK can convert the file: dcmdjpeg OLD NEW"
        raise InputError(path, f"pixel data is {syntax.name}", fix) from None
    if not available:
        package = _PACKAGES.get(str(syntax), "python-gdcm")
        what = f"pixel data is {syntax.name} and no decoder is installed"
        raise InputError(path, what, f"Install one: pip install {package}")


def stream_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream announces, or None."""
    if data[:4] == b"\0\0\0\x0c":  # JP2 boxes around the stream
        start = data.find(b"\xff\x4f\xff\x51")
        data = data[start:] if start >= 0 else data
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 24:
        right, lower, left, upper = struct.unpack(">4I", data[8:24])
        return lower - upper, right - left
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _START_OF_FRAME:
            rows, columns = struct.unpack(">HH", data[position + 5 : position + 9])
            return rows, columns
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _integer(path: Path, dataset: Any, keyword: str, default: int | None = None) -> int:
    """An element as one integer; ``default`` where it is missing or empty, else an ``InputError``."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            if default is None:
                raise InputError(path, f"lacks {keyword}, so its pixels cannot be laid out", "Export it again")
            return default
        return int(value)
    except (TypeError, ValueError, OverflowError):
        shown = dataset.get_item(keyword).value
        text = shown.decode("ascii", "replace") if isinstance(shown, bytes) else str(shown)
        raise InputError(path, f"has {keyword} {text.strip()[:40]!r}, which is no number", "Export it again") from None


def shape_of(path: Path, dataset: Any) -> tuple[int, int, int, int]:
    """Frames, rows, columns, samples per pixel: checked against the limits before anything is allocated."""
    frames = max(1, _integer(path, dataset, "NumberOfFrames", 1))
    rows, columns = _integer(path, dataset, "Rows"), _integer(path, dataset, "Columns")
    samples = _integer(path, dataset, "SamplesPerPixel", 1)
    shape = (frames, rows, columns, samples)
    bits = _integer(path, dataset, "BitsAllocated", 32)
    check_size(path, shape if samples != 1 else shape[:3], itemsize=max(1, bits // 8))
    if samples not in (1, 3):
        raise InputError(path, f"has {samples} samples per pixel", "Only grey (1) and colour (3) are known")
    return shape


def is_colour(dataset: Any) -> bool:
    """Whether the pixels are colours. A single sample without interpretation is taken for MONOCHROME2."""
    if dataset.get("SamplesPerPixel") in (None, 1) and not dataset.get("PhotometricInterpretation"):
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    return not str(dataset.PhotometricInterpretation).startswith("MONOCHROME")


def decode(path: Path, dataset: Any, keyword: str, shape: tuple[int, int, int, int], colour: bool) -> NDArray[Any]:
    """Stored values [Z, H, W], sign-extended, in native byte order; colour as luma."""
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    allocated = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword)
    bits = allocated or _integer(path, dataset, "BitsAllocated")
    if keyword == "PixelData":
        _integer(path, dataset, "PixelRepresentation", 0)
        used = _integer(path, dataset, "BitsStored", bits)
        if not 1 <= used <= bits:
            raise InputError(path, f"has BitsStored {used} with BitsAllocated {bits}", "Export it again")
    expected = math.prod(shape) * bits // 8
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        check_encapsulated(path, dataset, shape, expected)
    elif not colour:
        check_bytes(path, expected, len(dataset[keyword].value))
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0
    high = _integer(path, dataset, "HighBit", -1)
    if keyword == "PixelData" and not colour and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        if high not in (-1, used - 1):
            return _shifted(dataset, shape, bits, used, high)
    array = pixel_array(dataset)
    if colour and str(dataset.PhotometricInterpretation) == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)
        array = (array >> 8).astype(np.uint8) if array.dtype.itemsize == 2 else array
    if colour:
        array = np.rint(array[..., :3].astype(np.float64) @ np.array(LUMA)).astype(array.dtype)
    array = array.reshape(shape[:3])  # [Z, H, W]
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _shifted(dataset: Any, shape: tuple[int, int, int, int], bits: int, used: int, high: int) -> NDArray[Any]:
    """Uncompressed values whose sample does not begin at bit 0: BitsStored bits up to and including HighBit."""
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    raw = np.frombuffer(dataset.PixelData, f"{order}u{bits // 8}", math.prod(shape)).astype(np.int64)
    values = (raw >> max(0, high + 1 - used)) & ((1 << used) - 1)
    if dataset.PixelRepresentation == 1:
        values -= (values >> (used - 1)) << used  # two's complement in `used` bits
    kind = "i" if dataset.PixelRepresentation == 1 else "u"
    return values.astype(f"{kind}{bits // 8}").reshape(shape[:3])


def make_grey(dataset: Any, stored: NDArray[Any]) -> None:
    """Describe a colour data set as the grey one that its luma is."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelRepresentation = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    words = ["PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit", "PaletteColorLookupTableUID"]
    words += ["ICCProfile", "ColorSpace"]
    words += [word.replace("Palette", f"{colour}Palette") for word in _PALETTE for colour in ("Red", "Green", "Blue")]
    for word in words:
        if word in dataset:
            del dataset[word]
    if "UltrasoundColorDataPresent" in dataset:
        dataset.UltrasoundColorDataPresent = 0
