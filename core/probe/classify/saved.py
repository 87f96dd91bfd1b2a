"""Features that others saved: ``tokens`` (n, N, C) and ``labels`` (n), perhaps ``cls`` (n, C), ``grid`` (h, w) and
``classes``, in NPZ or safetensors. They are unpacked into mapped files, piece by piece.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, decoding
from ...io.atomic import write_text
from ...io.kinds import open_regular
from ...memory import check_memory
from .data import ClassSet, identity_of
from .features import FACTS, VERSION, Features

SUFFIXES = (".npz", ".safetensors")
ROWS = 256
"""Pictures that are unpacked at a time."""
FIX = "Save tokens (n, N, C) and labels (n), perhaps cls (n, C), grid (h, w) and classes"


@dataclass(frozen=True, slots=True)
class Member:
    """An array of the file: its shape, and its rows piece by piece."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Callable[[], Iterator[NDArray[Any]]]

    def all(self) -> NDArray[Any]:
        return np.concatenate(list(self.pieces())) if self.shape[0] else np.empty(self.shape, self.dtype)


def is_saved_features(source: str) -> bool:
    return Path(source).suffix.lower() in SUFFIXES


def read_saved_features(source: str, cache: Path) -> tuple[ClassSet, Features]:
    """Labels and features of a file; the layer is called 0.

    Raises
    ------
    InputError
        If it cannot be read, an array is missing or does not fit the others, or a value is NaN or infinite.
    """
    path = Path(source).expanduser()
    with open_regular(path):  # a pipe or a device is refused here
        status = path.stat()
    with decoding(path, "features", FIX), _members(path) as members:
        tokens, labels = (_member(path, members, name, ndim) for name, ndim in (("tokens", 3), ("labels", 1)))
        cls = _member(path, members, "cls", 2) if "cls" in members else None
        for name, other in (("labels", labels), ("cls", cls)):
            if other is not None and other.shape[0] != tokens.shape[0]:
                raise InputError(path, f"{name} has {other.shape[0]} rows, tokens has {tokens.shape[0]}", FIX)
        identity = identity_of((str(path.absolute()), status.st_size, status.st_mtime_ns))
        pictures = _class_set(path, source, labels, members.get("classes"), identity)
        grid = _grid(path, members.get("grid"), tokens.shape[1])
        folder = cache / identity_of((VERSION, identity))
        named = {"tokens": tokens} | ({"cls": cls} if cls is not None else {})
        reused = _unpack(path, folder, named)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in named}
    of_cls = {0: arrays["cls"]} if "cls" in arrays else {}
    return pictures, Features({0: arrays["tokens"]}, of_cls, grid, reused=reused * len(pictures), folder=folder)


def _unpack(path: Path, folder: Path, members: dict[str, Member]) -> bool:
    """Copy the members to files that can be mapped, and check every value; whether they had been there."""
    about = {name: list(member.shape) for name, member in members.items()}
    try:
        if json.loads((folder / FACTS).read_text(encoding="utf-8")) == about:
            return True
    except (OSError, ValueError):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    for name, member in members.items():
        if member.dtype.kind != "f":
            raise InputError(path, f"{name} is {member.dtype}, no floating-point numbers", FIX)
        kind = np.dtype(np.float16) if member.dtype == np.float16 else np.dtype(np.float32)
        into = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, member.shape)  # type: ignore[no-untyped-call]
        row = 0
        for piece in member.pieces():
            bad = ~np.isfinite(piece).all(axis=tuple(range(1, piece.ndim)))
            if bad.any():
                what = f"{name} has NaN or infinite values in row {row + int(bad.argmax()) + 1}"
                raise InputError(path, what, "Make the features again, or leave that row out")
            into[row : row + len(piece)] = piece
            row += len(piece)
        into.flush()
    write_text(folder / FACTS, json.dumps(about))
    return False


def _class_set(path: Path, source: str, labels: Member, names: Member | None, identity: str) -> ClassSet:
    known = labels.all()
    if known.dtype.kind in "iu":
        lowest = int(known.min()) if known.size else 0
        if lowest < 0:
            row = int(known.argmin()) + 1
            raise InputError(path, f"row {row} has no label ({lowest})", "Label it, or leave it out")
        texts = [str(text) for text in names.all()] if names is not None else []
        if names is not None and int(known.max()) >= len(texts):
            raise InputError(path, f"labels go up to {int(known.max())}, classes has {len(texts)} names", FIX)
        present, numbers = np.unique(known, return_inverse=True)
        classes = tuple(texts[number] if texts else str(number) for number in present)
    elif known.dtype.kind == "U":
        if (known == "").any():
            raise InputError(path, f"row {int((known == '').argmax()) + 1} has no label", "Label it, or leave it out")
        present, numbers = np.unique(known, return_inverse=True)
        classes = tuple(map(str, present))
    else:
        raise InputError(path, f"labels are {known.dtype}: neither whole numbers nor texts", FIX)
    if len(classes) < 2:
        raise InputError(path, f"has {len(classes)} class only", "A probe tells classes apart: add another")
    count = len(known)
    return ClassSet(
        source, tuple(f"row {row + 1}" for row in range(count)), numbers.astype(np.int64), classes, ("",) * count, (),
        identity,
    )  # fmt: skip


def _grid(path: Path, member: Member | None, tokens: int) -> tuple[int, int] | None:
    if member is None:
        return None
    sides = member.all().ravel()
    if len(sides) != 2 or sides.dtype.kind not in "iu" or int(sides[0]) * int(sides[1]) != tokens:
        said = " x ".join(map(str, sides[:4]))
        raise InputError(path, f"grid {said} does not hold {tokens} tokens", "Write (h, w) of the patches")
    return int(sides[0]), int(sides[1])


def _member(path: Path, members: dict[str, Member], name: str, ndim: int) -> Member:
    if name not in members:
        raise InputError(path, f"has no array {name!r} (it has {', '.join(sorted(members)) or 'nothing'})", FIX)
    if len(members[name].shape) != ndim or 0 in members[name].shape:
        raise InputError(path, f"{name} is {list(members[name].shape)}", FIX)
    return members[name]


@contextmanager
def _members(path: Path) -> Iterator[dict[str, Member]]:
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            yield {name[:-4]: _of_zip(path, archive, name) for name in names}
    else:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            yield {name: _of_slice(file, name) for name in file.keys()}


def _of_zip(path: Path, archive: zipfile.ZipFile, name: str) -> Member:
    def header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)  # type: ignore[no-untyped-call,no-any-return]

    with archive.open(name) as file:
        shape, fortran, dtype = header(file)
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise InputError(path, f"{name[:-4]} is no plain array in C order", "Save it with np.savez")

    def pieces() -> Iterator[NDArray[Any]]:
        with archive.open(name) as file:
            header(file)
            if not shape:
                yield np.frombuffer(file.read(dtype.itemsize), dtype)
                return
            row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            count = min(ROWS, shape[0])
            check_memory(path, 3 * row * count, f"{count} rows of {name[:-4]} take")
            for first in range(0, shape[0], count):
                rows = min(count, shape[0] - first)
                data = file.read(row * rows)
                if len(data) != row * rows:
                    raise InputError(path, f"{name[:-4]} ends before its last row", "Save or copy it again")
                yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])

    return Member(shape, dtype, pieces)


def _of_slice(file: Any, name: str) -> Member:
    part = file.get_slice(name)
    shape = tuple(part.get_shape())
    kinds = {"F16": np.float16, "BF16": np.float32, "F32": np.float32, "F64": np.float64, "I64": np.int64}
    kind = np.dtype(kinds.get(part.get_dtype(), np.int32 if part.get_dtype() == "I32" else np.void))

    def pieces() -> Iterator[NDArray[Any]]:
        for first in range(0, shape[0] if shape else 0, ROWS):
            piece = part[first : first + ROWS]
            yield (piece.float() if part.get_dtype() == "BF16" else piece).numpy()

    return Member(shape, kind, pieces)
