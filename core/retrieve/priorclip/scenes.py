"""Synthetic remote-sensing scenes: small views from above with a scene label, an object mask and captions.

Ours (methods/priorclip.md, section 5, "CPU-size version"): a stand-in for RSICD and RSITMD, which may not be shipped.
A scene has one to four objects of one kind and colour in one part of the picture, perhaps a road or its like, a ground
of one of three tones, and clutter that no caption mentions. Captions are templates; each leaves something out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...io.atomic import atomic_path, write_text

SIZE = 64
CAPTIONS = 5
"""Captions per image, as RSICD and RSITMD have."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a scene is made of: the ground's word and colour, its objects, its stripe (word, colour, width in px)."""

    phrase: str
    ground: str
    colour: tuple[float, float, float]
    objects: str
    shape: str
    stripe: str
    stripe_colour: tuple[float, float, float]
    stripe_width: int


KINDS: Mapping[str, Kind] = {
    "airport": Kind("an airport", "grass", (0.42, 0.52, 0.32), "plane", "cross", "runway", (0.35, 0.35, 0.38), 8),
    "farmland": Kind("farmland", "cropland", (0.62, 0.58, 0.30), "barn", "square", "track", (0.55, 0.42, 0.28), 3),
    "forest": Kind("a forest", "woodland", (0.14, 0.33, 0.16), "cabin", "small", "path", (0.50, 0.42, 0.30), 2),
    "harbour": Kind("a harbour", "water", (0.16, 0.30, 0.48), "boat", "long", "pier", (0.60, 0.58, 0.54), 4),
    "desert": Kind("a desert", "sand", (0.80, 0.69, 0.47), "tent", "diamond", "track", (0.65, 0.52, 0.34), 3),
    "parking": Kind("a parking lot", "asphalt", (0.36, 0.36, 0.38), "car", "long", "kerb", (0.72, 0.72, 0.70), 2),
    "residential": Kind("a residential area", "lawn", (0.45, 0.60, 0.36), "house", "square", "road",
                        (0.50, 0.50, 0.52), 5),
    "tanks": Kind("an oil depot", "soil", (0.56, 0.48, 0.40), "tank", "disc", "road", (0.42, 0.40, 0.40), 5),
}  # fmt: skip
"""Scene label -> kind."""
COLOURS = {"white": (0.95, 0.95, 0.95), "red": (0.78, 0.16, 0.14), "yellow": (0.93, 0.82, 0.15),
           "black": (0.06, 0.06, 0.07)}  # fmt: skip
PLACES = {"upper left": (0, 0), "upper right": (0, 1), "lower left": (1, 0), "lower right": (1, 1),
          "centre": (0.5, 0.5)}  # fmt: skip
TONES = {"dark": 0.75, "plain": 1.0, "pale": 1.2}
NUMBERS = ("one", "two", "three", "four")
LINES = ("no", "horizontal", "vertical")
_REGION, _CELL, _RADIUS = 32, 15, 5  # px: side of the part with the objects, of an object's cell, reach of an object


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture.

    Parameters
    ----------
    name : str
        ``LABEL_NUMBER.png``: the label stands before the first "_", as in the public sets.
    pixels : ndarray, shape (64, 64, 3), uint8
    objects : ndarray, shape (64, 64), bool
        Where an object that the captions name covers the ground.
    captions : tuple of str
    """

    name: str
    label: str
    pixels: NDArray[np.uint8]
    objects: NDArray[np.bool_]
    captions: tuple[str, ...]


def coarse_captions(label: str) -> tuple[str, ...]:
    """What a picture of that label says without being looked at: the pairs of stage 1."""
    phrase = KINDS[label].phrase if label in KINDS else label.replace("-", " ")
    return tuple(f"{view} of {phrase}" for view in ("a satellite image", "an aerial photo", "a view from above"))


def _outline(shape: str, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pixels an object covers, from the distances to its centre in px."""
    ay, ax = np.abs(y), np.abs(x)
    match shape:
        case "disc":
            return np.asarray(y**2 + x**2 <= _RADIUS**2)
        case "square":
            return np.asarray((ay <= 4) & (ax <= 4))
        case "small":
            return np.asarray((ay <= 3) & (ax <= 3))
        case "diamond":
            return np.asarray(ay + ax <= _RADIUS)
        case "long":
            return np.asarray((ay <= 2) & (ax <= 5))
        case "cross":
            return np.asarray(((ay <= 1) & (ax <= 5)) | ((ax <= 1) & (ay <= 5)))
    raise ValueError(f"no shape {shape!r}")


def draw_scene(generator: np.random.Generator, label: str, number: int, kind: Kind | None = None) -> Scene:
    """One scene of a label, told in the words of another kind if one is given. ``KeyError`` for an unknown label."""
    kind = kind or KINDS[label]
    count = int(generator.integers(1, 5))
    colour, place, tone = (str(generator.choice(list(words))) for words in (COLOURS, PLACES, TONES))
    line = str(generator.choice(LINES))
    row, column = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    canvas = np.full((SIZE, SIZE, 3), kind.colour) * TONES[tone]
    if label == "farmland":
        canvas *= 1 + 0.12 * np.sign(np.sin(row * (2 * np.pi / 8)))[:, :, None]
    if label == "forest":
        canvas *= 1 + 0.35 * (generator.random((SIZE // 4, SIZE // 4)).repeat(4, 0).repeat(4, 1)[:, :, None] - 0.5)
    if line != "no":
        across = row if line == "horizontal" else column
        canvas[np.abs(across - generator.integers(12, SIZE - 12)) < kind.stripe_width / 2 + 0.1] = kind.stripe_colour
    for _ in range(int(generator.integers(8, 16))):  # clutter
        y, x = generator.integers(0, SIZE - 4, 2)
        h, w = generator.integers(1, 4, 2)
        canvas[y : y + h, x : x + w] = generator.uniform(0.1, 0.9, 3)
    objects = np.zeros((SIZE, SIZE), np.bool_)
    top, left = (int(share * (SIZE - _REGION)) for share in PLACES[place])
    for cell in generator.permutation(4)[:count]:
        centre = np.array([top, left]) + _CELL * np.array(divmod(int(cell), 2)) + 8 + generator.integers(-1, 2, 2)
        objects |= _outline(kind.shape, row - centre[0], column - centre[1])
    canvas[objects] = COLOURS[colour]
    canvas = canvas * generator.uniform(0.9, 1.1) + generator.normal(0, 0.03, canvas.shape)
    pixels = (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)
    captions = _captions(kind, count, colour, place, tone, line)
    return Scene(f"{label}_{number:05d}.png", label, pixels, objects, captions)


def _captions(kind: Kind, count: int, colour: str, place: str, tone: str, line: str) -> tuple[str, ...]:
    number, things = NUMBERS[count - 1], kind.objects + "s" * (count > 1)
    ground = kind.ground if tone == "plain" else f"{tone} {kind.ground}"
    where = "in the centre" if place == "centre" else f"in the {place}"
    stripe = f"no {kind.stripe}" if line == "no" else f"a {line} {kind.stripe}"
    return (
        f"{number} {colour} {things} {where} of {kind.phrase}",
        f"{number} {things} on {ground} with {stripe}",
        f"{kind.phrase} on {ground} with {colour} {things} {where}",
        f"there is {stripe} and {number} {colour} {things}",
        f"{number} {colour} {things} {where} on {ground}, {stripe}",
    )


def draw_scenes(count: int, seed: int) -> list[Scene]:
    """``count`` scenes, the labels in turn; the same for the same seed."""
    labels = list(KINDS)
    return [draw_scene(np.random.default_rng((seed, i)), labels[i % len(labels)], i) for i in range(count)]


def write_scenes(folder: Path, splits: Mapping[str, Sequence[Scene]]) -> Path:
    """Write PNGs and the JSON of Karpathy's splits, as PriorCLIP reads it.

    Parameters
    ----------
    folder : Path
        Gets ``dataset.json`` and ``images/``.
    splits : mapping of str to sequence of Scene
        By ``train``, ``val``, ``test``. Names must be unique over all of them.

    Returns
    -------
    Path of ``dataset.json``.

    Raises
    ------
    ValueError
        If two scenes have the same name.
    InputError
        If a file cannot be written.
    """
    from PIL import Image

    rows: list[dict[str, object]] = []
    for split, scenes in splits.items():
        for scene in scenes:
            with atomic_path(folder / "images" / scene.name) as temporary:
                Image.fromarray(scene.pixels).save(temporary, format="PNG")
            sentences = [{"raw": caption} for caption in scene.captions]
            rows.append({"filename": scene.name, "split": split, "sentences": sentences})
    if len({row["filename"] for row in rows}) < len(rows):
        raise ValueError("two scenes have the same name: draw the splits as parts of one draw_scenes call")
    path = folder / "dataset.json"
    write_text(path, json.dumps({"dataset": "attn-synthetic", "images": rows}, indent=1) + "\n")
    return path
