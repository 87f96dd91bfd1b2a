"""TIFF written like one that was read (tifffile)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..atomic import atomic_path
from ..image import Derivation, GreyImage
from ..pixels import captured, to_stored
from .read import DESCRIPTION


def write_tiff(
    image: GreyImage,
    pixels: NDArray[Any],
    path: Path,
    derivation: Derivation | None = None,
    notes: list[str] | None = None,
) -> None:
    """A ``GreyWriter``: type, byte order, resolution and tags are those that were read; compressed stays compressed."""
    import tifffile

    stored, source = to_stored(image, pixels, notes=notes), dict(image.source or {})
    pages = stored.reshape(source.pop("shape", None) or stored.shape)
    pages = pages if pages.ndim == 3 else pages[None]
    tags: list[list[Any]] = source.pop("tags", [])
    order, big = source.pop("byteorder", "<"), source.pop("bigtiff", False) or stored.nbytes > 2**32 - 2**25
    source.setdefault("photometric", "minisblack")
    with atomic_path(path) as temporary, captured([]):
        # ome: not by the file's name, for the description that was read stays
        with tifffile.TiffWriter(temporary, byteorder=order, bigtiff=big, ome=False) as writer:
            for number, page in enumerate(pages):
                extra = tags[number] if number < len(tags) else []
                if derivation and number == 0 and all(tag[0] != DESCRIPTION for tag in extra):
                    extra = [*extra, (DESCRIPTION, 2, 0, derivation.description.encode("ascii", "replace"), False)]
                writer.write(page, contiguous=False, metadata=None, software="attn", extratags=extra, **source)
