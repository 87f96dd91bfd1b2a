"""Every reader of a user's file, in one table: where its files come from, and how they are damaged.

A reader may give anything or raise ``AttnError``; whatever else it raises would reach a user as "internal error". A new
reader is one row here. ``fuzz_io`` holds the images of `attn denoise`, with limits on time and memory.
"""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Files = Mapping[str, bytes]
LONG = "9" * 5000
VALUES = (
    None, True, -1, 0, 1, 10**30, 1e308, float("nan"), float("inf"), "", "\0", "\x1b[31m", "=1+1", "\ud800", "../../x",
    [], {}, [None], {"": None}, [[[[]]]], "x" * 70000,
)  # fmt: skip
BYTES = (
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"\r", b"\n", b"\t", b'"', b"{", LONG.encode(),
    b"\x1b[2J",
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """How a kind of file is read, from ``files``; the one named ``target`` is damaged (None: any of them)."""

    name: str
    files: Callable[[], Files]
    read: Callable[[Path], object]
    target: str | None = None

    def damaged(self, rng: random.Random, folder: Path) -> Path:
        """Write the files into ``folder``, one of them damaged, and return the path to read."""
        files = dict(self.files())
        victim = self.target or rng.choice(sorted(files))
        files[victim] = damage(victim, files[victim], rng)
        for name, data in files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return folder / victim if self.target is not None and len(files) == 1 else folder


def damage(name: str, data: bytes, rng: random.Random) -> bytes:
    """One way or another, also ways that need the form of the file."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [_bits, _bits, _cut, _zeros, _splice, _insert, _empty]
    suffix = Path(name).suffix
    if suffix in (".json", ".jsonl"):
        ways += [_json_value] * 6
    if suffix == ".safetensors":
        ways += [_header_value] * 4 + [_nan_weights]
    if suffix == ".npz":
        ways += [_npz_array] * 6
    if suffix in (".tsv", ".csv", ".txt", ".run"):
        ways += [_cell] * 6
    return rng.choice(ways)(data, rng)


def _bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 3, 30))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _zeros(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]


def _splice(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randrange(1, 64) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(BYTES) + data[at:]


def _empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def _changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one part replaced, left out, or put in."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        how = rng.random()
        if how < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.25:
            return {**value, str(rng.choice(VALUES)): value[key]}
        return {**value, key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


def _dumped(value: Any, rng: random.Random) -> str:
    text = json.dumps(value)
    return text.replace("10" + "0" * 29, LONG) if rng.random() < 0.5 else text


def _json_value(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().splitlines()
    try:
        return _dumped(_changed(json.loads(data), rng), rng).encode()
    except ValueError:  # JSON lines
        at = rng.randrange(len(lines))
        lines[at] = _dumped(_changed(json.loads(lines[at]), rng), rng)
        return "\n".join(lines).encode()


def _header_value(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header, or our description in it, says something else."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    ours = header.get("__metadata__", {}).get("attn")
    if ours and rng.random() < 0.7:
        header["__metadata__"]["attn"] = _dumped(_changed(json.loads(ours), rng), rng)
    else:
        header = _changed(header, rng)
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + data[8 + size :]


def _nan_weights(data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    return data[: 8 + size] + b"\xff" * (len(data) - 8 - size)  # NaN in every float type


def _npz_array(data: bytes, rng: random.Random) -> bytes:
    """An archive with one array of another type, shape or content."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    others: tuple[Any, ...] = (
        array.astype(array.dtype.newbyteorder(">")), array[None], array.ravel()[:0], np.float32(1),
        np.array(["a", "b"]),
        np.array([b"x"]), np.zeros(3, "c16"), np.full(array.shape, np.nan), np.full(array.shape, 1e30), array.ravel(),
        np.zeros(2, [("a", "i4")]), np.array([], np.str_), np.zeros((0, 5)), np.array("2001-01-01", "M8[D]"),
    )  # fmt: skip
    arrays[name] = rng.choice(others)
    if rng.random() < 0.1:
        del arrays[name]
    out = io.BytesIO()
    np.savez(out, **arrays)
    changed = out.getvalue()
    if rng.random() < 0.2:  # a header whose numbers have thousands of digits
        changed = changed.replace(b"'shape': (", b"'shape': (" + LONG[:200].encode(), 1)
    return changed


def _cell(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().split("\n")
    at = rng.randrange(len(lines))
    mark = "\t" if "\t" in lines[at] else "," if "," in lines[at] else " "
    cells = lines[at].split(mark)
    new = rng.choice((*VALUES, "1e999", "-0", LONG, "NaN", '"', "a b"))
    cells[rng.randrange(len(cells))] = str(new)
    if rng.random() < 0.2:
        cells.append("more")
    lines[at] = mark.join(cells)
    return "\n".join(lines).encode("utf-8", "surrogatepass")
