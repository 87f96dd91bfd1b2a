"""Scenes as pictures: 96 x 96 pixels, 8 bits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scenes import BOX, BOX_SIDE, OBJECTS, SIDE, SIZES, Scenes

RGB = np.array(
    [[215, 35, 40], [40, 160, 50], [45, 70, 215], [235, 215, 45], [130, 45, 175], [70, 210, 220], [240, 135, 30],
     [250, 165, 200]],
    np.float32,
)  # fmt: skip
"""Of ``words.COLOURS``."""
GREY = 127
"""Of the bars: what pads a picture to a square."""
STROKES = 30
"""At density 1."""
_LARGEST = int(SIZES.max())
_FINE = 6
"""Samples of a pixel's side when sprites are drawn."""
_FONT = (
    "0110 1001 1001 1001 1001 1001 1001 0110", "0010 0110 0010 0010 0010 0010 0010 0111",
    "0110 1001 0001 0001 0010 0100 1000 1111", "1110 0001 0001 0110 0001 0001 0001 1110",
    "0010 0110 0110 1010 1010 1111 0010 0010", "1111 1000 1000 1110 0001 0001 1001 0110",
    "0110 1000 1000 1110 1001 1001 1001 0110", "1111 0001 0001 0010 0010 0100 0100 0100",
    "0110 1001 1001 0110 1001 1001 1001 0110", "0110 1001 1001 1001 0111 0001 0001 0110",
)  # fmt: skip
"""Rows of the digits, 4 x 8 pixels."""
_PAPER, _INK = 235, 20


def render(rng: np.random.Generator, scenes: Scenes) -> NDArray[np.uint8]:
    """Pictures of scenes.

    Parameters
    ----------
    rng : Generator
        Of what the scenes leave open: background, strokes, shades, noise.
    scenes : Scenes

    Returns
    -------
    ndarray of uint8 [B, 96, 96, 3]
    """
    count = len(scenes)
    canvas = np.zeros((count, SIDE + _LARGEST, SIDE + _LARGEST, 3), np.float32)  # sprites may stand out
    canvas[:, :SIDE, :SIDE] = _backgrounds(rng, scenes)
    _scatter(rng, canvas, scenes)
    for slot in range(OBJECTS):
        chosen = np.nonzero(scenes.present[:, slot])[0]
        shade = RGB[scenes.colour[chosen, slot]] + rng.uniform(-12, 12, (len(chosen), 3))
        alpha = _sprites()[scenes.shape[chosen, slot], scenes.size[chosen, slot]]
        _paste(
            canvas, chosen, scenes.x[chosen, slot], scenes.y[chosen, slot], alpha, np.clip(shade, 0, 255)[:, None, None]
        )
    chosen = np.nonzero(scenes.present[:, BOX])[0]
    card = _cards()[scenes.digit[chosen]][..., None]
    whole = np.ones((len(chosen), BOX_SIDE, BOX_SIDE), np.float32)
    _paste(canvas, chosen, scenes.x[chosen, BOX], scenes.y[chosen, BOX], whole, card)
    picture = canvas[:, :SIDE, :SIDE] + 4 * _grain()[rng.integers(0, len(_grain()), count)]
    for scene in np.nonzero(scenes.letterbox)[0]:
        x0, y0, x1, y1 = scenes.region[scene]
        inside = picture[scene, y0:y1, x0:x1].copy()
        picture[scene] = GREY
        picture[scene, y0:y1, x0:x1] = inside
    out: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return out


def _paste(
    canvas: NDArray[np.float32], chosen: NDArray[Any], x: NDArray[Any], y: NDArray[Any], alpha: NDArray[Any],
    colour: NDArray[Any],
) -> None:  # fmt: skip
    """Lay squares onto the pictures ``chosen``; alpha [n, s, s], colour broadcasts to [n, s, s, 3]."""
    steps = np.arange(alpha.shape[-1])
    place = (chosen[:, None, None], (y[:, None] + steps)[:, :, None], (x[:, None] + steps)[:, None, :])
    canvas[place] = canvas[place] * (1 - alpha[..., None]) + alpha[..., None] * colour


def _backgrounds(rng: np.random.Generator, scenes: Scenes) -> NDArray[np.float32]:
    """Plain, gradient, noise or stripes, [B, 96, 96, 3]."""
    count = len(scenes)
    step = (np.arange(SIDE) / SIDE - 0.5).astype(np.float32)
    angle = rng.random((count, 1, 1)).astype(np.float32) * 2 * np.pi
    slope = np.cos(angle) * step[None, None, :] + np.sin(angle) * step[None, :, None]
    waves = rng.uniform(4, 12, (count, 1, 1)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    noise = _noise()[rng.integers(0, len(_noise()), count)]
    kinds = (np.zeros_like(slope), 1.6 * slope, 0.55 * noise, 0.7 * np.sin(2 * np.pi * waves * slope + phase))
    field = np.choose(scenes.background[:, None, None], kinds)
    base = rng.uniform(70, 185, (count, 1)) + rng.uniform(-14, 14, (count, 3))
    contrast = rng.uniform(15, 40, (count, 1)) * (1 + rng.uniform(-0.3, 0.3, (count, 3)))
    out: NDArray[np.float32] = base[:, None, None] + field[..., None] * contrast[:, None, None].astype(np.float32)
    return out


def _scatter(rng: np.random.Generator, canvas: NDArray[np.float32], scenes: Scenes) -> None:
    """Strokes that distract."""
    amount = np.round(scenes.density * STROKES).astype(int)
    side = _strokes().shape[-1]
    for number in range(int(amount.max(initial=0))):
        chosen = np.nonzero(amount > number)[0]
        x, y = rng.integers(0, SIDE - side, (2, len(chosen)))
        alpha = 0.75 * _strokes()[rng.integers(0, len(_strokes()), len(chosen))]
        _paste(canvas, chosen, x, y, alpha, rng.uniform(20, 235, (len(chosen), 1, 1, 3)))


@cache
def _sprites() -> NDArray[np.float32]:
    """Opacity of every shape in every size, in the upper left corner, [6, 3, 18, 18]."""
    out = np.zeros((6, len(SIZES), _LARGEST, _LARGEST), np.float32)
    for number, size in enumerate(SIZES):
        step = (np.arange(size * _FINE) + 0.5) / (size * _FINE) * 2 - 1
        y, x = np.meshgrid(step, step, indexing="ij")
        radius, angle = np.hypot(x, y), np.arctan2(x, -y)
        turn = 2 * np.pi / 5
        point = np.abs((angle + turn / 2) % turn - turn / 2) / (turn / 2)  # 0 at the tips of the star, 1 between them
        shapes = (
            radius <= 1,
            (np.abs(x) < 0.9) & (np.abs(y) < 0.9),
            (y < 0.95) & (np.abs(x) <= (y + 1) / 1.95),
            (np.abs(x) < 0.3) | (np.abs(y) < 0.3),
            (radius <= 1) & (radius >= 0.52),
            radius <= 0.4 / (0.4 + 0.6 * point**0.8),
        )
        for shape, mask in enumerate(shapes):
            out[shape, number, :size, :size] = mask.reshape(size, _FINE, size, _FINE).mean((1, 3))
    return out


@cache
def _strokes() -> NDArray[np.float32]:
    """Short lines of four lengths and eight directions, [32, 7, 7]."""
    out = []
    for length in (3, 4, 5, 6):
        for turn in range(8):
            angle = np.pi * turn / 8
            along = np.linspace(-length / 2, length / 2, 25)
            line = np.zeros((7, 7), np.float32)
            line[np.rint(3 + along * np.sin(angle)).astype(int), np.rint(3 + along * np.cos(angle)).astype(int)] = 1
            out.append(line)
    return np.stack(out)


@cache
def _cards() -> NDArray[np.float32]:
    """Digits in their boxes, grey values, [10, 14, 14]."""
    cards = np.full((10, BOX_SIDE, BOX_SIDE), _PAPER, np.float32)
    cards[:, [0, -1]] = _INK
    cards[:, :, [0, -1]] = _INK
    for digit, rows in enumerate(_FONT):
        ink = np.array([[int(pixel) for pixel in row] for row in rows.split()])
        cards[digit, 3:11, 5:9] = np.where(ink, _INK, _PAPER)
    return cards


@cache
def _noise() -> NDArray[np.float32]:
    """64 fields of 1/f noise, mean 0, deviation 1, [64, 96, 96]."""
    rng = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    frequency[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((64, SIDE, SIDE))) / frequency).real
    field -= field.mean((1, 2), keepdims=True)
    out: NDArray[np.float32] = (field / field.std((1, 2), keepdims=True)).astype(np.float32)
    return out


@cache
def _grain() -> NDArray[np.float32]:
    """Noise of single pixels, [16, 96, 96, 1]."""
    return np.random.default_rng(11).standard_normal((16, SIDE, SIDE, 1)).astype(np.float32)
