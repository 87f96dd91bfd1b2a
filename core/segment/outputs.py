"""What `attn segment` writes: mask, probability and overlay at the photo's own size, attention maps, a table."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import attn

from ..errors import InputError, UsageError
from ..io.atomic import atomic_path, write_text
from ..io.bands import bilinear, nearest, resized, spans, write_png
from ..io.kinds import open_regular
from ..memory import read_within
from ..report.model import Item, plain
from ..text import csv_text, csv_value, printable
from .record import RECORD, Record, read_record

if TYPE_CHECKING:
    from ..compare import Comparison
    from ..io.photo.read import Photo
    from .fov import Fov
    from .threshold import Threshold

TOP = 65535
"""Stored value of probability 1."""
GREEN, LINE = np.array((0, 255, 0), np.uint8), np.array((255, 255, 255), np.uint8)
VESSEL_SHARE = 0.7
"""Of green in a vessel's pixel of the overlay; the rest is the photo."""
TABLE = "vessels.csv"
FIXED = ("image", "mask", "model", "threshold")
WORDS = ("prob", "overlay", "attention", "compare")
FIGURE_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Segmented:
    """A photo and what became of it; h x w is the size that was segmented, ``photo.size`` that of the file.

    Parameters
    ----------
    photo : Photo
    fov : Fov
    stored : ndarray, shape (h, w), uint16
        Probability times 65535; 0 outside the field of view, at least 1 inside.
    mask : ndarray of bool, shape (h, w)
    model : str
    threshold : Threshold
    attention : mapping of str to ndarray, float32
    """

    photo: Photo
    fov: Fov
    stored: NDArray[np.uint16]
    mask: NDArray[np.bool_]
    model: str
    threshold: Threshold
    attention: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def prob(self) -> NDArray[np.float32]:
        """The probability as the file stores it. [h, w]."""
        return probability(self.stored)


def side_path(output: Path, word: str, suffix: str = ".png") -> Path:
    """``out/21.mask.png`` and word ``prob`` -> ``out/21.prob.png``; so for ``out/21.png``, which ``-o`` may name."""
    return output.with_name(f"{output.name.removesuffix(output.suffix).removesuffix('.mask')}.{word}{suffix}")


def side_paths(output: Path) -> list[Path]:
    """Every file that may appear beside the mask ``output``."""
    return [side_path(output, word) for word in WORDS] + [side_path(output, "attention", ".npz")]


def quantise(prob: NDArray[np.floating[Any]], fov: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Probabilities as 16 bits; 0 marks what is outside the field of view and nothing else."""
    stored = np.rint(np.clip(prob, 0, 1) * TOP).astype(np.uint16)
    return np.where(fov, np.maximum(stored, 1), 0).astype(np.uint16)


def probability(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Stored values as probabilities, same shape."""
    return np.asarray(stored / np.float32(TOP), np.float32)


def thinned(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """``values`` [H, W] at another size, nearest neighbour."""
    return nearest(values, (size[0], size[1]), 0, size[0])


def least(threshold: float) -> int:
    """Least stored value that is a vessel: value / 65535 >= threshold. At least 1, so never outside the field."""
    return max(1, math.ceil(threshold * TOP - 1e-6))


def write_outputs(
    output: Path | None,
    done: Segmented,
    record: Record,
    compared: Comparison | None = None,
) -> dict[str, str]:
    """Write everything for one photo; the mask comes last, so that its presence means "complete".

    Parameters
    ----------
    output : Path or None
        Of the mask; None writes nothing.
    done : Segmented
    record : Record
        Kept in the mask.
    compared : Comparison, optional
        Drawn side by side, in [0, 1].

    Returns
    -------
    dict of str to str: the files beside the mask, by what they are.
    """
    if output is None:
        return {}
    size, text = done.photo.size, {"Description": describe(done)}
    files = {"overlay": side_path(output, "overlay"), "probability": side_path(output, "prob")}
    if done.attention:
        files |= _write_attention(output, done.attention)
    if compared is not None:
        files["compare"] = side_path(output, "compare")
        compared.draw(files["compare"], window=(0.0, 1.0), unit="")
    prob = (stored for _, stored in stored_bands(done))
    write_png(files["probability"], size, prob, bits=16, text=text)
    write_png(files["overlay"], size, _overlay_bands(done), channels=3, text=text)
    masks = ((stored >= least(done.threshold.value)).astype(np.uint8) * 255 for _, stored in stored_bands(done))
    write_png(output, size, masks, text=text | {RECORD: record.text()})
    return {name: str(path) for name, path in files.items()}


def describe(done: Segmented) -> str:
    """One line that says how the pictures were made, for the files themselves."""
    threshold = f"threshold {done.threshold.value:g} ({done.threshold.origin})"
    how = f"attn {attn.__version__} segment, model {done.model}, {threshold}"
    return f"{how}. For research, not for diagnosis."


def _write_attention(output: Path, maps: Mapping[str, NDArray[np.float32]]) -> dict[str, Path]:
    from ..report.figure import comparison

    numbers, picture = side_path(output, "attention", ".npz"), side_path(output, "attention")
    with atomic_path(numbers) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{name: np.asarray(values, np.float32) for name, values in maps.items()})  # type: ignore[arg-type]
    size = max((values.shape for values in maps.values()), key=lambda shape: shape[0] * shape[1])
    even = {name: small(resized(values, size)) for name, values in maps.items()}
    comparison(even, picture, window=(0.0, 1.0), unit="", cmap="viridis", title="attention")
    return {"attention": numbers, "attention_figure": picture}


def small(image: NDArray[Any]) -> NDArray[np.float32]:
    """No side longer than a figure can show: [h, w] thinned out evenly."""
    step = -(-max(image.shape) // FIGURE_SIDE)
    return np.asarray(image[::step, ::step], np.float32)


def stored_bands(done: Segmented) -> Iterator[tuple[tuple[int, int], NDArray[np.uint16]]]:
    """(start, stop) and the stored probability of these rows at the photo's own size. uint16 [n, W]."""
    size = done.photo.size
    for band in spans(size):
        if done.stored.shape == size:
            yield band, done.stored[slice(*band)]
        else:
            prob = bilinear(done.stored, size, *band) / TOP
            yield band, quantise(prob, nearest(done.fov.mask, size, *band))


def _overlay_bands(done: Segmented) -> Iterator[NDArray[np.uint8]]:
    """The photo with vessels in green and the field of view outlined. uint8 [n, W, 3] each."""
    size, outline = done.photo.size, _outline(done.fov.mask)
    for band, stored in stored_bands(done):
        rows = np.stack([bilinear(channel, size, *band) for channel in done.photo.pixels], axis=-1)  # [n, W, 3]
        picture = np.rint(np.clip(rows, 0, 1) * 255).astype(np.uint8)
        vessel = stored >= least(done.threshold.value)
        picture[vessel] = np.rint(picture[vessel] * (1 - VESSEL_SHARE) + GREEN * VESSEL_SHARE).astype(np.uint8)
        picture[nearest(outline, size, *band)] = LINE
        yield picture


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rim of a field of view, inside it; none where the frame cuts the field off. [h, w]."""
    from scipy.ndimage import minimum_filter

    width = max(1, round(max(mask.shape) / 500))
    inner = minimum_filter(mask.astype(np.uint8), size=2 * width + 1, mode="nearest")
    return np.asarray(mask & (inner == 0))


def measured_rows(items: Iterable[Item], folder: Path) -> list[dict[str, Any]]:
    """A row from every mask that was measured, in this run or in an earlier one that was killed."""
    rows = []
    for item in items:
        record = read_record(Path(item.output)) if item.output else None
        if record is not None and record.measures:
            mask = printable(os.path.relpath(str(item.output), folder))
            fixed = {"image": printable(item.input), "mask": mask, "model": record.model, "threshold": record.threshold}
            rows.append(fixed | {name: value for name, value in record.measures.items() if name not in fixed})
    return rows


def check_table(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier ``vessels.csv``, none where there is none. Raises ``UsageError`` if it is not ours."""
    if not os.path.lexists(path):
        return []
    try:
        with open_regular(path) as file:
            text = read_within(file, path).decode("utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        names = next(rows, [])
        if tuple(names[: len(FIXED)]) == FIXED and len(set(names)) == len(names) and "\0" not in text:
            cells = [[csv_value(cell) for cell in row] for row in rows if row]
            if all(len(row) <= len(names) for row in cells):
                return [dict(zip(names, row + [""] * (len(names) - len(row)), strict=True)) for row in cells]
    except (OSError, InputError, UnicodeDecodeError, csv.Error):
        pass
    raise UsageError(f"{path} exists and is no table of attn segment: move it away, or name another place with -o.")


def write_table(path: Path, old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> None:
    """Write ``vessels.csv``: rows of this run in the place of older ones of the same mask, other older rows kept."""
    rows = {str(row["mask"]): row for row in [*old, *new]}
    columns = list(dict.fromkeys([*FIXED, *(key for row in [*new, *old] for key in row)]))
    cells = [[plain(row.get(key, "")) for key in columns] for row in rows.values()]
    write_text(path, csv_text([columns, *cells]))
