"""Compressed DICOM pixels: is there a decoder, and can the streams hold what the header promises?"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ..errors import InputError
from .pixels import check_bytes

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
