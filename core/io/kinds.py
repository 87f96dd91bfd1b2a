"""Which kind of file something is, told by its first bytes and never by its name."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError
from .image import Kind

SUFFIXES: dict[str, Kind] = {
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".npy": "npy",
    ".npz": "npz",
    ".nii": "nifti",
    ".nii.gz": "nifti",
}
"""Suffixes under which a directory is searched, and the kind people mean by them."""

MAGIC: dict[str, tuple[bytes, ...]] = {
    "png": (b"\x89PNG\r\n\x1a\n",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # the last two: BigTIFF
    "npy": (b"\x93NUMPY",),
    "npz": (b"PK\x03\x04", b"PK\x05\x06"),  # the second: an empty archive
    "nifti": (b"\x1f\x8b",),
    "jpeg": (b"\xff\xd8\xff",),
    "gif": (b"GIF8",),
    "bmp": (b"BM",),
}
"""What files of a kind begin with."""

_MARKED: tuple[Kind, ...] = ("png", "tiff", "npy", "npz", "nifti")
_FOREIGN: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    (MAGIC["jpeg"], "a JPEG photo", "Convert it to PNG: 8-bit lossy grey values are a poor start for denoising"),
    (MAGIC["gif"], "a GIF picture", "Convert it to PNG"),
    (MAGIC["bmp"], "a BMP picture", "Convert it to PNG"),
    (b"\x89HDF", "an HDF5 file", "Export the array as NPY"),
    (b"NRRD", "an NRRD volume", "Convert it to NIfTI or DICOM"),
    (b"%PDF", "a PDF document", ""),
    (b"MATLAB 5.0", "a MATLAB file", "Export the array as NPY"),
    ((b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL picture", "Convert it to PNG or TIFF"),
    ((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "), "a JPEG 2000 picture", "Convert it to PNG or TIFF"),
    (
        tuple(bytes((0, 0, 0, size)) + b"ftyp" for size in range(8, 128, 4)),
        "an HEIC, AVIF or MP4 file",
        "Convert to PNG",
    ),
    (b"RIFF", "a WebP, WAV or AVI file", "Convert it to PNG"),
    (b"v/1\x01", "an OpenEXR picture", "Convert it to float TIFF"),
    (b"SIMPLE  =", "a FITS file", "Export the array as NPY"),
    ((b"ObjectType", b"NDims", b"CDF\x01", b"CDF\x02"), "a MetaImage or NetCDF file", "Convert it to NIfTI"),
    ((b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "a packed archive", "Unpack it"),
)
HEAD = 352
"""So many first bytes tell the kind of a file: a NIfTI header without extension."""
READABLE = "Readable are DICOM, PNG, TIFF, NPY, NPZ and NIfTI"


def suffix_of(path: Path) -> str:
    """The suffix in lower case, ``.nii.gz`` as one; empty where the name ends in digits only (``IM.0001``)."""
    if path.name.lower().endswith(".nii.gz"):
        return path.name[-7:].lower()
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def split_key(path: Path) -> tuple[Path, str | None]:
    """``FILE.npz#KEY`` to file and key; the key is None where a file of the whole name exists or no # follows .npz."""
    head, mark, key = path.name.partition(".npz#")
    return (path.with_name(head + ".npz"), key) if mark and key and head and not os.path.exists(path) else (path, None)


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (``HEAD`` bytes) is DICOM, with or without a preamble.

    Without one, the data set begins at once, in little or big endian: an element of group 0002 or 0008, then a value
    representation of two capitals, or (implicit) a length that an element at that place can have.
    """
    if head[128:132] == b"DICM":
        return True
    for order in ("little", "big"):
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
        if group in (2, 8) and element <= 0xFF and len(head) >= 8:
            explicit = head[4:6].isalpha() and head[4:6].isupper()
            if explicit or int.from_bytes(head[4:8], order) <= 0xFFFF:  # type: ignore[arg-type]
                return True
    return False


def is_dicomdir(head: bytes) -> bool:
    """Whether ``head`` (``HEAD`` bytes) begins a DICOMDIR, the table of contents of a medium: no image is in it."""
    return head[128:132] == b"DICM" and b"1.2.840.10008.1.3.10\0" in head


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open for reading; ``InputError`` for what is missing, forbidden, a directory or no regular file.

    Every file of a user is opened here: a pipe would wait for its writer, a device never end. What is looked at is what
    was opened, not what had the name before.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(path, "does not exist", "Check the name") from None
    except PermissionError:
        raise InputError(path, "may not be read", "Check its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name; OSError: a socket
        reason = getattr(error, "strerror", None) or error
        raise InputError(path, f"cannot be opened ({reason})", "Check the name") from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(path, "rb", opener=lambda name, flags: handle)  # keeps its name
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise InputError(path, "is a directory", "Name the files in it")
    raise InputError(path, "is not a regular file", "Save it to disk first")


def sniff(path: Path) -> Kind:
    """The kind of a file by its content.

    Parameters
    ----------
    path : Path

    Returns
    -------
    {"dicom", "png", "tiff", "npy", "npz", "nifti"}. A file without ``DICM`` is called DICOM when it begins like a
    DICOM data set (group 0002 or 0008); whether that holds is for the reader to find out.

    Raises
    ------
    InputError
        If the file cannot be opened, is empty, or is of no readable kind.
    """
    with open_regular(path) as file:
        head = file.read(HEAD)
    if not head:
        raise InputError(path, "is empty (0 bytes)", "Copy or export it again")
    if head[128:132] == b"DICM":
        return "dicom"
    for kind in _MARKED:
        if head.startswith(MAGIC[kind]):
            return kind
    if head[344:348] in (b"n+1\0", b"n+2\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "nifti"
    if is_dicom(head):
        return "dicom"
    for magic, name, fix in _FOREIGN:
        if head.startswith(magic):
            raise InputError(path, f"is {name}", fix)
    text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
    claimed = SUFFIXES.get(suffix_of(path))
    name = {"dicom": "DICOM", "nifti": "NIfTI"}.get(claimed or "", (claimed or "").upper())
    begins = "it is text" if text else "its first bytes are of no known kind"
    raise InputError(path, f"is not {name}: {begins}" if name else f"is no image file: {begins}", READABLE)
