"""One text or picture of a gallery, and what of a source is none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.records import whole_text
from ...io.tables import StoredImage, read_picture


@dataclass(frozen=True, slots=True)
class Entry:
    """One text or picture of a gallery; its content is read when it is asked for.

    Parameters
    ----------
    id : str
        Unique in its source: as the file says, else the path below the folder (``/`` between parts).
    kind : {"text", "image"}
    name : str
        What reports call it.
    stamp : str
        Changes when the content does: size and time of a file, or a hash of the text.
    path : Path or None
        The file that holds it alone.
    text : str or None
        The text, where it came with a list.
    stored : StoredImage or None
        The picture inside a table.
    meta : mapping
        Further fields of its record, for filters, and ``path`` where there is one.
    """

    id: str
    kind: Literal["text", "image"]
    name: str
    stamp: str
    path: Path | None = None
    text: str | None = None
    stored: StoredImage | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def read_text(self) -> str:
        """The text. Raises ``InputError`` if its file cannot be read or is no UTF-8."""
        if self.text is not None or self.path is None:
            return self.text or ""
        return whole_text(self.path)

    def read_pixels(self, max_side: int | None = None) -> NDArray[np.float32]:
        """The picture [3, H, W], RGB in [0, 1]. Raises ``InputError`` if it cannot be read."""
        image = self.stored or self.path
        if image is None:
            raise InputError(self.name, "is a text, not a picture", "Use a model that reads texts")
        return read_picture(image, max_side)


@dataclass(frozen=True, slots=True)
class Unseen:
    """What of a source is not among its entries.

    Parameters
    ----------
    prefix : str or None
        How the ids begin of what was not looked into; None where that is nothing.
    error : InputError or None
    warning : str
    """

    prefix: str | None
    error: InputError | None = None
    warning: str = ""


def text_stamp(text: str) -> str:
    """16 hex digits that change with the text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
