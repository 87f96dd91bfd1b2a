"""From a file's bytes to a DICOM data set within the budget of memory, and what may be said of the values in it."""

from __future__ import annotations

import io
import os
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import InputError
from ...memory import FIX, budget, check_memory
from ...sizes import show_bytes
from ..kinds import open_regular

DEEPEST = 32
"""Levels of sequences in sequences. Real files have five; thousands exhaust the stack of whoever looks at them."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_VALUES = re.compile(r"(?<!\w)['\"].*['\"](?!\w)|(?<=remains: ).*|\b\d+(?:\.\d+){3,}|\d{9,}")


def without_values(text: str) -> str:
    """A library's words about a data set, without what it quotes from it: values may identify a patient."""
    return _VALUES.sub("(not shown)", text)


class _Honest(io.BufferedReader):
    """A file of which never more is asked than there is: room for what a header promises would be made before."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self._size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > 2**16:
            size = max(0, min(size, self._size - self.tell()))
        return super().read(size)


def parse(path: Path, *, pixels: bool = True) -> Any:
    """The data set, with a transfer syntax in its ``file_meta`` even where the file names none.

    Parameters
    ----------
    path : Path
    pixels : bool
        False stops before the pixel data.

    Raises
    ------
    InputError
        If the file, or what it unpacks to, is more than the budget of memory holds.
    Exception
        Whatever pydicom raises for damaged bytes.
    """
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with _Honest(open_regular(path).detach()) as file:  # type: ignore[attr-defined]
        if pixels:  # its elements, and those of the file that is written
            check_memory(path, 3 * os.fstat(file.fileno()).st_size, "its header and pixels take")
        _check_deflated(path, file)
        file.seek(0)
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
    if not isinstance(getattr(dataset, "file_meta", None), FileMetaDataset):
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _check_deflated(path: Path, file: BinaryIO) -> None:
    """Refuse a deflated data set that unpacks to more than the budget holds.

    The file header is read as pydicom reads it, so that no other reading of it can lead past this check.
    """
    from pydicom.filereader import _read_command_set_elements, _read_file_meta_info, read_preamble

    read_preamble(file, True)
    meta = _read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return
    _read_command_set_elements(file)
    limit, total = budget() // 4, 0  # unpacked, its elements, and the file that is written
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    block = file.read(2**16)
    while block and not unpack.eof:
        total += len(unpack.decompress(block, 2**24))
        if total > limit:
            raise InputError(path, f"unpacks to more than {show_bytes(limit)}", FIX)
        block = unpack.unconsumed_tail or file.read(2**16)
