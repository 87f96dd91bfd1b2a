"""From DICOM pixel data to stored values: is there a decoder, and can the file hold what its header promises?"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..pixels import LUMA, check_bytes, check_size
from .bits import Samples, extended, values_of

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
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
_RLE = "1.2.840.10008.1.2.5"
_RETIRED_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (*range(52, 57), *range(58, 67)))
_PALETTE = ("PaletteColorLookupTableDescriptor", "PaletteColorLookupTableData", "SegmentedPaletteColorLookupTableData")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # F7: JPEG-LS


@dataclass(frozen=True, slots=True)
class Stream:
    """What a compressed stream says of itself: rows and columns, bits of a value, whether values are signed."""

    size: tuple[int, int]
    precision: int
    signed: bool = False


def check_encapsulated(
    path: Path, dataset: Any, shape: tuple[int, int, int, int], expected: int, notes: list[str]
) -> list[Stream]:
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
    notes : list of str
        Takes what is left out.

    Returns
    -------
    list of Stream
        One per frame; none for RLE, which says nothing of itself.

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
        what = f"pixel data is cut off: NumberOfFrames says {shape[0]} frames, found {len(frames)}"
        raise InputError(path, what, "Copy or export the file again")
    if len(frames) > shape[0]:
        notes.append(
            f"NumberOfFrames says {shape[0]}, the pixel data hold {len(frames)} frames: the others are left out"
        )
    if dataset.file_meta.TransferSyntaxUID == _RLE:
        check_bytes(path, expected, sum(map(len, frames)), 64.0)  # two bytes stand for at most 128
        return []
    streams = []
    for number, frame in enumerate(frames[: shape[0]]):
        stream = stream_header(frame)
        if stream is None:
            raise InputError(path, f"frame {number + 1} holds no image stream", "Copy or export the file again")
        if stream.size != shape[1:3]:
            what = f"frame {number + 1} is {stream.size[0]} x {stream.size[1]}"
            what += f", the header says {shape[1]} x {shape[2]} (Rows, Columns)"
            raise InputError(path, what, "Export the file again")
        streams.append(stream)
    return streams


def _check_decoder(path: Path, syntax: Any) -> None:
    """``InputError`` that names the transfer syntax unless it can be decoded here."""
    from pydicom.pixels.decoders.base import get_decoder

    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        fix = "No decoder for it exists here"
        if str(syntax) in _RETIRED_JPEG:
            fix += "; DCMTK can convert the file: dcmdjpeg OLD NEW"
        name = "of a transfer syntax that is not known" if syntax.name == str(syntax) else syntax.name
        raise InputError(path, f"pixel data is {name}", fix) from None
    if not available:
        package = _PACKAGES.get(str(syntax), "python-gdcm")
        what = f"pixel data is {syntax.name} and no decoder is installed"
        raise InputError(path, what, f"Install one: pip install {package}")


def stream_header(data: bytes) -> Stream | None:
    """What a JPEG, JPEG-LS or JPEG 2000 stream announces, or None."""
    if data[:4] == b"\0\0\0\x0c":  # JP2 boxes around the stream
        start = data.find(b"\xff\x4f\xff\x51")
        data = data[start:] if start >= 0 else data
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 43:
        right, lower, left, upper = struct.unpack(">4I", data[8:24])
        return Stream((lower - upper, right - left), (data[42] & 127) + 1, bool(data[42] & 128))
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _START_OF_FRAME:
            precision, rows, columns = struct.unpack(">BHH", data[position + 4 : position + 9])
            return Stream((rows, columns), precision)
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
        number = int(value)
    except InputError:
        raise
    except Exception:  # pydicom parses on access and raises whatever the damage causes
        number = None
    if number is None or abs(number) >= 2**31:  # the value is not shown: it may be anything, a name as well
        raise InputError(path, f"has a {keyword} that is no number of a possible size", "Export it again")
    return number


def shape_of(path: Path, dataset: Any, notes: list[str]) -> tuple[int, int, int, int]:
    """Frames, rows, columns, samples per pixel: checked against the limits before anything is allocated."""
    frames = _integer(path, dataset, "NumberOfFrames", 1)
    if frames < 1:
        notes.append(f"NumberOfFrames is {frames}: read as one frame")
        dataset.NumberOfFrames = frames = 1
    rows, columns = _integer(path, dataset, "Rows"), _integer(path, dataset, "Columns")
    samples = _integer(path, dataset, "SamplesPerPixel", 1)
    shape = (frames, rows, columns, samples)
    bits = _integer(path, dataset, "BitsAllocated", 32)
    check_size(path, shape if samples != 1 else shape[:3], itemsize=min(8, max(1, bits // 8)))
    if samples not in (1, 3):
        raise InputError(path, f"has {samples} samples per pixel", "Only grey (1) and colour (3) are known")
    return shape


def is_colour(dataset: Any) -> bool:
    """Whether the pixels are colours. A single sample without interpretation is taken for MONOCHROME2."""
    interpretation = dataset.get("PhotometricInterpretation")
    if dataset.get("SamplesPerPixel") in (None, 1) and not interpretation:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        return False
    return not str(interpretation or "").startswith("MONOCHROME")


def decode(
    path: Path, dataset: Any, keyword: str, shape: tuple[int, int, int, int], colour: bool, notes: list[str]
) -> NDArray[Any]:
    """Stored values [Z, H, W], sign-extended, in native byte order; colour as luma.

    The header elements that describe the samples are corrected where the data show that they are wrong, with a note.
    """
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    if not isinstance(dataset[keyword].value, bytes) or not dataset[keyword].value:
        raise InputError(path, f"has a {keyword} without pixels", "Copy or export the file again")
    allocated = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword)
    bits = allocated or _integer(path, dataset, "BitsAllocated")
    if bits not in (8, 16, 32, 64):
        raise InputError(path, f"has BitsAllocated {bits}: only 8, 16, 32 and 64 are known", "Export it again")
    used = _integer(path, dataset, "BitsStored", bits)
    if keyword == "PixelData" and not 1 <= used <= bits:
        raise InputError(path, f"has BitsStored {used} with BitsAllocated {bits}", "Export it again")
    sign = _integer(path, dataset, "PixelRepresentation", 0)
    if sign not in (0, 1):
        raise InputError(path, f"has PixelRepresentation {sign}: only 0 and 1 are known", "Export it again")
    if dataset.get("PixelRepresentation") is None:
        dataset.PixelRepresentation = 0
    if (shape[3] == 3) != (colour and str(dataset.get("PhotometricInterpretation")) != "PALETTE COLOR"):
        what = f"has SamplesPerPixel {shape[3]}, which does not fit its PhotometricInterpretation"
        raise InputError(path, what, "Correct the header or export it again")
    expected = math.prod(shape) * bits // 8
    streams: list[Stream] | None = None
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        streams = check_encapsulated(path, dataset, shape, expected, notes)
    elif not colour:
        _check_native(path, len(dataset[keyword].value), expected, shape, notes)
    if keyword == "PixelData" and not colour:
        samples = _samples(path, dataset, shape, bits, streams, bool(sign), notes)
        high = _integer(path, dataset, "HighBit", used - 1)
        values = values_of(dataset, samples, min(used, 8 * samples.raw.dtype.itemsize), high, bool(sign), notes)
        dataset.BitsAllocated = 8 * values.dtype.itemsize
        return np.ascontiguousarray(values)
    array = pixel_array(dataset)
    if colour and str(dataset.PhotometricInterpretation) == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)
        array = (array >> 8).astype(np.uint8) if array.dtype.itemsize == 2 else array
    if colour:
        array = np.rint(array[..., :3].astype(np.float64) @ np.array(LUMA)).astype(array.dtype)
    array = array.reshape(shape[:3])  # [Z, H, W]
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _check_native(path: Path, stored: int, expected: int, shape: tuple[int, int, int, int], notes: list[str]) -> None:
    """``InputError`` unless uncompressed pixel data of ``stored`` bytes hold the image; a note where they hold more."""
    frame = expected // shape[0]
    if shape[0] > 1 and stored < expected and stored >= frame:
        what = f"pixel data is cut off: NumberOfFrames says {shape[0]} frames"
        raise InputError(
            path, f"{what} ({expected} bytes), found {stored / frame:.3g}", "Copy or export the file again"
        )
    check_bytes(path, expected, stored)
    if stored >= expected + frame:
        total = stored // frame
        notes.append(f"NumberOfFrames says {shape[0]}, the pixel data hold {total} frames: the others are left out")
    elif stored > expected + 1:
        notes.append(f"{stored - expected} bytes follow the pixels and are left out")


def _samples(
    path: Path,
    dataset: Any,
    shape: tuple[int, int, int, int],
    bits: int,
    streams: list[Stream] | None,
    signed: bool,
    notes: list[str],
) -> Samples:
    """Bit patterns [Z, H, W] as they were coded: nothing masked, shifted or sign-extended that was not in the file."""
    if streams is None:
        syntax = dataset.file_meta.TransferSyntaxUID
        order = "<" if syntax.is_little_endian else ">"
        data = dataset.PixelData
        if bits == 8 and order == ">" and dataset["PixelData"].VR == "OW":  # bytes in words of the other order
            data = np.frombuffer(data, np.uint16, len(data) // 2).byteswap().tobytes()
        raw = np.frombuffer(data, f"{order}u{bits // 8}", math.prod(shape)).reshape(shape[:3])
        return Samples(raw.astype(raw.dtype.newbyteorder("="), copy=False), bits)
    widest = max((stream.precision for stream in streams), default=bits)
    size = max(bits // 8, 1 if widest <= 8 else 2 if widest <= 16 else 4)
    if 8 * size > bits:
        notes.append(f"BitsAllocated says {bits} bits, the compressed values have {widest}: all of them are kept")
    used = _integer(path, dataset, "BitsStored", bits)
    patterns: NDArray[Any] = np.empty(shape[:3], f"u{size}")
    for z, frame in enumerate(_frames(path, dataset, shape)):
        patterns[z] = _pattern(frame, streams[z], used, signed, notes) if streams else frame
    whole = not streams or (signed and any(stream.signed or stream.precision < used for stream in streams))
    return Samples(patterns, 8 * size if whole else max(1, widest))


def _pattern(frame: NDArray[Any], stream: Stream, used: int, signed: bool, notes: list[str]) -> NDArray[Any]:
    """One decoded frame [H, W] as the stream means it: signed numbers, or patterns of its precision."""
    precise = min(stream.precision, 8 * frame.dtype.itemsize)
    if signed and (stream.signed or precise < used):
        return extended(frame, precise, True)
    if stream.signed and (extended(frame, precise, True) < 0).any():
        word = "the compressed values are signed, PixelRepresentation says unsigned: read as the header says"
        notes += [] if word in notes else [word]
    return extended(frame, precise, False)


def _frames(path: Path, dataset: Any, shape: tuple[int, int, int, int]) -> Iterator[NDArray[Any]]:
    """Each compressed frame decoded [H, W], as unsigned integers of the size that the decoder gives."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = get_decoder(syntax)
    # of the decoders of JPEG 2000 this one gives the samples as they were coded
    plugin = "pylibjpeg" if str(syntax) in _JPEG_2000 and "pylibjpeg" in decoder.available_plugins else ""
    decoded = decoder.iter_buffer(dataset, decoding_plugin=plugin)
    for _ in range(shape[0]):
        data, _ = next(decoded)
        size = len(data) // (shape[1] * shape[2])
        if size not in (1, 2, 4, 8) or len(data) != size * shape[1] * shape[2]:
            raise InputError(path, "has compressed pixels of another size than the header says", "Export it again")
        yield np.frombuffer(data, f"<u{size}").reshape(shape[1:3])


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
