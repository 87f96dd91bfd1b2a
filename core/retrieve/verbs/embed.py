"""Both sides of a data set as vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.tables import read_picture
from ...progress import Watcher
from ..data.evalset import Content, EvalSet
from ..encoders.base import Encoder, Side
from ..encoders.kept import BLOCK_IMAGES, BLOCK_TEXTS, MAX_SIDE


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of a data set, in its order, and what of it could not be read (rows of zeros)."""

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    truncated: int
    failed: Mapping[str, str]


def embed(data_set: EvalSet, encoder: Encoder, watcher: Watcher) -> Embedded:
    """Vectors of all documents and queries; zeros where an image cannot be read."""
    failed: dict[str, str] = {}
    sides: list[NDArray[np.float32]] = []
    truncated = 0
    for side, contents in (("document", data_set.documents), ("query", data_set.queries)):
        vectors, cut = encode(contents, encoder, side, watcher, failed)  # type: ignore[arg-type]
        sides.append(vectors)
        truncated += cut
    return Embedded(sides[0], sides[1], truncated, failed)


def encode(
    contents: Mapping[str, Content], encoder: Encoder, side: Side, watcher: Watcher, failed: dict[str, str]
) -> tuple[NDArray[np.float32], int]:
    """Vectors [n, dim] and how many texts were cut; a failed image is a row of zeros and an entry of ``failed``."""
    out = np.zeros((len(contents), encoder.fingerprint.dim), np.float32)
    items, cut = list(contents.items()), 0
    texts = isinstance(items[0][1], str)
    size = BLOCK_TEXTS if texts else BLOCK_IMAGES
    for at in range(0, len(items), size):
        block = items[at : at + size]
        if texts:
            encoded = encoder.encode_texts([str(content) for _, content in block], side=side)
            out[at : at + size] = encoded.vectors
            cut += int(encoded.truncated.sum())
        else:
            rows, pixels = [], []
            for row, (_, image) in enumerate(block, at):
                assert not isinstance(image, str)  # all of one sort
                try:
                    pixels.append(read_picture(image, MAX_SIDE))
                    rows.append(row)
                except InputError as error:
                    failed[str(image)] = error.reason
            if rows:
                out[rows] = encoder.encode_images(pixels).vectors
        watcher.step(f"embed {side}s", min(at + size, len(items)), len(items))
    return out, cut
