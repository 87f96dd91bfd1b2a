"""What a result says of itself: a record in the mask's text, which names the photo it was made from."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from ..errors import InputError
from ..io.bands import read_text
from ..io.kinds import open_regular
from ..text import printable
from .threshold import Origin

RECORD = "attn-segment"
"""Keyword of the mask's text that holds the record, as JSON: a resumed batch reads it back."""
_BLOCK, _BLOCKS = 2**16, 16


@dataclass(frozen=True, slots=True)
class SourcePhoto:
    """Which photo a result was made from.

    Parameters
    ----------
    name : str
        Of the file, without its folder.
    size : int
        In bytes.
    sample : str
        SHA-256 of 16 blocks of 64 KB spread over the file; of all of it up to 1 MB.
    place : str
        Check sum of the folder's path: tells another photo of that name from a changed one, and names no folder.
    """

    name: str
    size: int
    sample: str
    place: str

    def same(self, other: SourcePhoto) -> bool:
        """Whether both are one photo, perhaps moved to another folder."""
        return (self.name, self.size, self.sample) == (other.name, other.size, other.sample)


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept in a mask.

    Parameters
    ----------
    model : str
    threshold : float
    measures : mapping of str to float
        Empty where nothing was measured.
    source : SourcePhoto or None
        None in files of an older attn.
    orientation : int
        EXIF's, which was undone: the result is upright.
    threshold_from : str
        ``Threshold.origin``; empty in files of an older attn.
    """

    model: str
    threshold: float
    measures: dict[str, float | None] = field(default_factory=dict)
    source: SourcePhoto | None = None
    orientation: int = 1
    threshold_from: str = ""

    def text(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)


def source_of(path: Path) -> SourcePhoto:
    """What tells a photo from others. Raises ``InputError`` where it cannot be opened."""
    total = hashlib.sha256()
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _BLOCK * _BLOCKS:
            total.update(file.read(_BLOCK * _BLOCKS))
        else:
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                total.update(file.read(_BLOCK))
    folder = os.path.realpath(path.parent)
    return SourcePhoto(path.name, size, total.hexdigest()[:32], f"{zlib.crc32(os.fsencode(folder)):08x}")


def read_record(mask: Path) -> Record | None:
    """What an earlier run kept in its mask; None for any other file, and for a record that is none. Reads no pixels."""
    try:
        record = json.loads(read_text(mask, RECORD) or "null")
        if not isinstance(record, dict):
            return None
        measures = record.get("measures") or {}
        model, threshold, orientation = record["model"], record["threshold"], record.get("orientation", 1)
        origin = record.get("threshold_from", "")
        if not isinstance(model, str) or not is_number(threshold) or orientation not in range(1, 9):
            return None
        if origin not in ("", *get_args(Origin)):
            return None
        if not all(isinstance(key, str) and (value is None or is_number(value)) for key, value in measures.items()):
            return None
        source = None if (described := record.get("source")) is None else SourcePhoto(**described)
        if source is not None and [*map(type, asdict(source).values())] != [str, int, str, str]:
            return None
    except (OSError, InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    shown = {printable(name): value for name, value in measures.items()}
    return Record(printable(model), float(threshold), shown, source, int(orientation), origin)


def is_number(value: Any) -> bool:
    """Whether it is a finite number as JSON holds it; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
