"""Synthetic people: drawn figures with coloured clothes, and captions with planted errors and filler words.

Specification: methods/ga-dms.md, section 5, "CPU-size version". A caption of the training half names a wrong value in a
fifth of its attributes, as captions written by a language model do; which words are wrong is known.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .tokenizer import split_words

COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.08, 0.08, 0.08), "white": (0.95, 0.95, 0.95), "grey": (0.5, 0.5, 0.5), "red": (0.82, 0.1, 0.12),
    "green": (0.1, 0.6, 0.2), "blue": (0.12, 0.25, 0.8), "yellow": (0.93, 0.85, 0.15), "purple": (0.55, 0.15, 0.65),
}  # fmt: skip
HAIR = {
    "dark": (0.1, 0.07, 0.05),
    "blond": (0.85, 0.72, 0.35),
    "ginger": (0.72, 0.3, 0.1),
    "silver": (0.75, 0.75, 0.78),
}
KINDS = {"hair": tuple(HAIR), "top": tuple(COLOURS), "bottom": tuple(COLOURS), "shoes": tuple(COLOURS),
         "bag": (*COLOURS, "no")}  # fmt: skip
"""Attribute -> its values. "no" bag: none is carried."""
TEMPLATES = (
    "a person with {hair} hair wears a {top} shirt {bottom} trousers and {shoes} shoes and carries {bag} bag",
    "the {hair} haired pedestrian has {bag} bag a {top} shirt {shoes} shoes and {bottom} trousers",
    "in a {top} shirt and {bottom} trousers this person with {hair} hair walks in {shoes} shoes with {bag} bag",
    "with {bag} bag and {shoes} shoes someone in {bottom} trousers and a {top} shirt has {hair} hair",
)
FILLERS = ("probably", "today", "slowly", "outside", "really", "nicely", "somewhere", "quietly", "again", "perhaps")
SIZE = (64, 32)


@dataclass(frozen=True, slots=True)
class People:
    """A set of images with captions.

    Parameters
    ----------
    images : ndarray [n, 3, H, W], uint8
    image_ids : ndarray [n], int64
        Who is seen; without gaps from 0.
    captions : tuple of m str
    caption_image : ndarray [m], int64
        The image of each caption.
    right, wrong : tuple of m frozenset of int
        Which words of each caption name an attribute as it is, and as it is not.
    """

    images: NDArray[np.uint8]
    image_ids: NDArray[np.int64]
    captions: tuple[str, ...]
    caption_image: NDArray[np.int64]
    right: tuple[frozenset[int], ...]
    wrong: tuple[frozenset[int], ...]


def make_people(
    persons: int, seed: int, *, images_each: int = 2, captions_each: int = 2, errors: float = 0.2, fillers: int = 3,
    skip: int = 0, size: tuple[int, int] = SIZE,
) -> People:  # fmt: skip
    """Draw people and describe them.

    Parameters
    ----------
    persons, images_each, captions_each : int
        Captions are per image.
    seed : int
        The same seed gives the same set.
    errors : float
        Share of attribute words that are wrong.
    fillers : int
        Words without meaning per caption.
    skip : int
        Persons of this seed that are passed over, so that two halves of one seed share nobody.

    Raises
    ------
    ValueError
        If there are not so many different people.
    """
    everyone = list(itertools.product(*KINDS.values()))
    if skip + persons > len(everyone):
        raise ValueError(f"there are {len(everyone)} different people, {skip + persons} were asked for")
    order = np.random.default_rng((seed, 0)).permutation(len(everyone))[skip : skip + persons]
    rng = np.random.default_rng((seed, 1, skip))
    images, captions, right, wrong = [], list[str](), list[frozenset[int]](), list[frozenset[int]]()
    for person in order:
        attributes = dict(zip(KINDS, everyone[person], strict=True))
        for _ in range(images_each):
            images.append(draw_person(attributes, rng, size))
            for _ in range(captions_each):
                caption, good, bad = describe(attributes, rng, errors, fillers)
                captions.append(caption)
                right.append(good)
                wrong.append(bad)
    return People(
        np.stack(images), np.arange(persons).repeat(images_each), tuple(captions),
        np.arange(len(images)).repeat(captions_each), tuple(right), tuple(wrong),
    )  # fmt: skip


def draw_person(
    attributes: dict[str, str], rng: np.random.Generator, size: tuple[int, int] = SIZE
) -> NDArray[np.uint8]:
    """A figure [3, H, W], uint8: place, light, height, background and grain are random."""
    height, width = size
    unit = height / 64 * rng.uniform(0.85, 1.0)
    image = np.empty((3, height, width))
    shade = np.linspace(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), height)
    image[:] = rng.uniform(0.25, 0.75, (3, 1, 1)) + shade[:, None]
    middle, top = width / 2 + rng.uniform(-3, 3) * unit, (height - 60 * unit) * rng.uniform(0.2, 0.8)
    light = rng.uniform(0.8, 1.1) * rng.uniform(0.95, 1.05, 3)

    def box(y0: float, y1: float, x0: float, x1: float, colour: ArrayLike) -> None:
        """A box in units of the figure: down from its top, across from its middle."""
        rows = slice(*(max(0, round(top + y * unit)) for y in (y0, y1)))
        columns = slice(*(max(0, round(middle + x * unit)) for x in (x0, x1)))
        image[:, rows, columns] = (np.asarray(colour, float) * light)[:, None, None]

    skin = np.array([0.8, 0.6, 0.48]) * rng.uniform(0.5, 1.1)
    box(2, 7, -4, 4, HAIR[attributes["hair"]])
    box(5, 12, -3, 3, skin)
    box(12, 32, -7, 7, COLOURS[attributes["top"]])
    box(30, 34, -8, -5, skin)
    lean = rng.uniform(-1, 1)
    box(32, 53, -6, -0.5 + lean, COLOURS[attributes["bottom"]])
    box(32, 53, 0.5 + lean, 6, COLOURS[attributes["bottom"]])
    box(53, 58, -7, -0.5, COLOURS[attributes["shoes"]])
    box(53, 58, 0.5, 7, COLOURS[attributes["shoes"]])
    if attributes["bag"] != "no":
        side = rng.choice((-1, 1))
        box(22, 36, min(side * 6, side * 12), max(side * 6, side * 12), COLOURS[attributes["bag"]])
    image += rng.normal(0, 0.03, image.shape)
    out: NDArray[np.uint8] = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return out


def describe(
    attributes: dict[str, str], rng: np.random.Generator, errors: float, fillers: int
) -> tuple[str, frozenset[int], frozenset[int]]:
    """A caption, and the places of its right and of its wrong attribute words."""
    template = str(rng.choice(TEMPLATES))
    said, right = {}, {}
    for kind, value in attributes.items():
        others = [other for other in KINDS[kind] if other != value]
        right[kind] = rng.random() >= errors
        said[kind] = value if right[kind] else str(rng.choice(others))
    words = [(word, "") for word in template.split()]
    words = [(said[w[1:-1]], w[1:-1]) if w.startswith("{") else (w, "") for w, _ in words]
    for _ in range(fillers):
        words.insert(int(rng.integers(len(words) + 1)), (str(rng.choice(FILLERS)), ""))
    good = frozenset(i for i, (_, kind) in enumerate(words) if kind and right[kind])
    bad = frozenset(i for i, (_, kind) in enumerate(words) if kind and not right[kind])
    caption = " ".join(word for word, _ in words)
    assert len(split_words(caption)) == len(words)
    return caption, good, bad


def write_people(halves: dict[str, People], folder: Path) -> Path:
    """Write sets as PNG and one generic JSONL; the key is the split. Returns the JSONL's path."""
    from ...io.atomic import write_bytes, write_text

    lines = []
    first = 0
    for split, people in halves.items():
        for i, (image, person) in enumerate(zip(people.images, people.image_ids.tolist(), strict=True)):
            name = f"images/{split}-{i:05d}.png"
            write_bytes(folder / name, _png(image))
            captions = [people.captions[c] for c in np.flatnonzero(people.caption_image == i)]
            lines.append({"image": name, "captions": captions, "id": first + person, "split": split})
        first += int(people.image_ids.max()) + 1
    write_text(folder / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return folder / "captions.jsonl"


def _png(image: NDArray[np.uint8]) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()
