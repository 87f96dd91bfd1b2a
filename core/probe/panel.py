"""What is kept of a figure, so that it can be made again without model or photo, to the byte.

``photo.vit.png`` has beside it ``photo.vit.npz`` (all arrays that the drawing needs, the shrunk picture among them) and
``photo.vit.json`` (how it was made, and what was found, in tables). A figure is a pure function of these two files:
``write_figure`` draws what it reads back from them, and so does ``attn probe redraw``. Which function, the table
``FIGURES`` of this folder says. Contract: methods/probe-peers.md, section 5, item 12, and section 6.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import attn

from ..errors import InputError, decoding
from ..io.arrays import read_archive
from ..io.atomic import atomic_path, write_text
from ..io.kinds import open_regular
from ..memory import read_within
from ..report.canvas import canvas
from ..report.model import plain
from ..report.sections import Section
from . import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
"""Of the JSON beside a figure; a reader refuses what is newer."""
FIX = "Name a NAME.KIND.json that attn probe wrote"
BESIDE = (".npz", ".json")
"""Suffixes of arrays and facts, which have the name of their figure."""
SHOWN = 640
"""Pixels of the longer side of a picture that is kept for a drawing."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How a figure was made; also in the text chunks of its PNG.

    Parameters
    ----------
    command : str
        As it was typed; empty of a library call.
    model, fingerprint : str
        What the user called it, and the hash of its weights.
    picture : str
        sha256 of the user's file, hexadecimal; empty where the figure is of no single file.
    seed : int or None
    request : str
        What makes two results the same (``frame.request_of``).
    version : str
        Of attn.
    """

    command: str = ""
    model: str = ""
    fingerprint: str = ""
    picture: str = ""
    seed: int | None = None
    request: str = ""
    version: str = attn.__version__


@dataclass(frozen=True, slots=True)
class FigureData:
    """All that a drawing may read.

    Parameters
    ----------
    kind : str
        Of ``FIGURES``.
    title : str
    arrays : mapping of str to ndarray
        Numbers of any shape.
    facts : mapping of str to Any
        As JSON holds them.
    origin : Origin
    """

    kind: str
    title: str
    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    @property
    def text(self) -> dict[str, str]:
        """The text chunks of the PNG."""
        known = {"kind": self.kind, **{entry.name: getattr(self.origin, entry.name) for entry in fields(Origin)}}
        return {
            "Title": self.title,
            **{f"attn-{name}": str(value) for name, value in known.items() if value not in ("", None)},
        }


class FigureFile(Protocol):
    """Opens the file of a figure: ``with canvas((width, height), layout="constrained") as figure``, in pixels."""

    def __call__(self, size: tuple[int, int], layout: Any = None) -> AbstractContextManager[Figure]: ...


Drawing = Callable[[FigureData, FigureFile], None]


def write_figure(
    path: Path, data: FigureData, *, metrics: Mapping[str, float] | None = None, sections: Sequence[Section] = (),
    warnings: Sequence[str] = (),
) -> dict[str, str]:  # fmt: skip
    """Write arrays, facts and figure beside each other, the figure last: its presence means "complete".

    Parameters
    ----------
    path : Path
        Of the figure, ``.png``; the others have its name with another suffix.
    data : FigureData
    metrics, sections, warnings
        What was found, for the JSON.

    Returns
    -------
    dict of str to str: ``figure``, ``arrays`` and ``facts``, as an ``Item`` names its files.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    drawing_of(data.kind)
    arrays, facts = map(path.with_suffix, BESIDE)
    with atomic_path(arrays) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **dict[str, Any](data.arrays))
    document = {
        "schema": SCHEMA, "kind": data.kind, "title": data.title, "origin": plain(data.origin),
        "arrays": {name: list(array.shape) for name, array in data.arrays.items()}, "facts": plain(data.facts),
        "metrics": plain(metrics or {}), "tables": {section.name: plain(section.plain()) for section in sections},
        "warnings": list(warnings),
    }  # fmt: skip
    write_text(facts, json.dumps(document, indent=1, allow_nan=False) + "\n")
    draw_figure(path, read_figure(facts))  # not ``data``: what is drawn is what lies there
    return {"figure": str(path), "arrays": str(arrays), "facts": str(facts)}


def draw_figure(path: Path, data: FigureData) -> None:
    """Make the PNG of what was read. Raises ``InputError`` if it cannot be written."""
    drawing_of(data.kind)(data, partial(canvas, path, text=data.text))


def drawing_of(kind: str) -> Drawing:
    """The function that draws a kind of figure; it loads no model."""
    function: Drawing = pkgutil.resolve_name(FIGURES[kind])
    return function


def read_document(path: Path) -> dict[str, Any]:
    """The JSON beside a figure.

    Raises
    ------
    InputError
        If it is none of ours, damaged, or of a newer attn.
    """
    document = _json(path)
    if not _of_a_figure(document):
        raise InputError(path, "is no JSON that attn probe wrote beside a figure", FIX)
    if document["schema"] > SCHEMA:
        raise InputError(path, f"is of schema {document['schema']}, this attn reads up to {SCHEMA}", "Update attn")
    if document["kind"] not in FIGURES:
        raise InputError(path, f"is a figure of kind {document['kind']!r}, which this attn cannot draw", "Update attn")
    return dict(document)


def is_of_a_figure(path: Path) -> bool:
    """Whether a JSON is one that lies beside a figure; of a damaged one nobody knows. Raises ``InputError``."""
    return _of_a_figure(_json(path))


def _of_a_figure(document: Any) -> bool:
    return (
        isinstance(document, dict) and isinstance(document.get("schema"), int) and isinstance(document.get("kind"), str)
    )


def _json(path: Path) -> Any:
    with open_regular(path) as file, decoding(path, "the JSON of a figure", FIX):
        return json.loads(read_within(file, path, what="holds"))


def read_figure(path: Path) -> FigureData:
    """What ``write_figure`` wrote, by the name of its JSON.

    Raises
    ------
    InputError
        If one of the two files is missing, damaged, or does not fit the other.
    """
    document = read_document(path)
    place = path.with_suffix(".npz")
    with decoding(path, "the JSON of a figure", "Make the figure again with its command"):
        shapes = {str(name): tuple(shape) for name, shape in document["arrays"].items()}
        origin = Origin(**document["origin"])
        title, facts = str(document["title"]), dict(document["facts"])
    arrays = read_archive(place, shapes, shapes)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            what = f"array {name} is {list(arrays[name].shape)}, {path.name} says {list(shape)}"
            raise InputError(place, what, "The two files belong to different runs: make the figure again")
    return FigureData(document["kind"], title, arrays, facts, origin)


def shown(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture [3, H, W] in [0, 1] as a drawing needs it: [h, w, 3] in 0..255, no side over ``SHOWN``."""
    from PIL import Image

    from ..models.pictures import eight_bits

    image = Image.fromarray(eight_bits(pixels))
    image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return np.asarray(image)


def extent(data: FigureData) -> tuple[float, float, float, float]:
    """Where a map [h, w] lies on ``data.arrays["picture"]``, for ``imshow``: (left, right, bottom, top).

    The facts ``size`` (H, W) and ``box`` (top, left, bottom, right) say so in pixels of the user's file.
    """
    height, width = data.arrays["picture"].shape[:2]
    down, across = height / data.facts["size"][0], width / data.facts["size"][1]
    top, left, bottom, right = data.facts["box"]
    return left * across - 0.5, right * across - 0.5, bottom * down - 0.5, top * down - 0.5
