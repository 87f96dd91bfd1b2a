"""The objects of a picture: their crops, their places in cells, and which of them is searched."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...nets.oat import token_triples
from .shelves import PITCH

GRID = 16
"""Rows and columns of cells that a model's table of positions has."""


@dataclass(frozen=True, slots=True)
class Objects:
    """What a search is over.

    Parameters
    ----------
    boxes : ndarray (N, 4) of float64
        x0, y0, x1, y1 in pixels of the picture.
    target : int
    size : (int, int)
        Height and width of the picture.
    labels : tuple of str
        One for each object; empty: they have none.
    """

    boxes: NDArray[np.float64]
    target: int
    size: tuple[int, int]
    labels: tuple[str, ...] = ()

    @property
    def centres(self) -> NDArray[np.float64]:
        """Of the boxes, x and y (N, 2)."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def screen(self) -> tuple[float, float]:
        """Width and height, as MultiMatch wants them."""
        return float(self.size[1]), float(self.size[0])

    def at(self, size: tuple[int, int]) -> Objects:
        """The same in the picture at another ``size`` (height, width): a large photo is smaller than its file."""
        scale = np.array([size[1] / self.size[1], size[0] / self.size[0]] * 2)
        return replace(self, boxes=self.boxes * scale, size=size)

    def cells(self) -> tuple[NDArray[np.float64], float]:
        """Row and column of each object, real numbers from 0 (N, 2), and by what they were shrunk to fit the table.

        A cell is a box of median size and a quarter more: how far apart objects are is counted in objects.
        """
        sides = np.median(self.boxes[:, 2:] - self.boxes[:, :2], axis=0)
        places = (self.centres - self.centres.min(0)) / (PITCH * sides)
        shrunk = float(max(1.0, places.max() / (GRID - 1)))
        return places[:, ::-1] / shrunk, shrunk


@dataclass(frozen=True, slots=True)
class SceneTensors:
    """Objects as a network takes them.

    Parameters
    ----------
    crops : Tensor (N, h, w, 3) of uint8
        Each stretched to 0..255 (section 5).
    triples : Tensor (N+1, 3) of float32
        Of the encoder.
    places : Tensor (N+3, 3) of float32
        Of all tokens, for the decoder.
    target, rows, cols : int
    """

    crops: Tensor
    triples: Tensor
    places: Tensor
    target: int
    rows: int
    cols: int


def scene_tensors(picture: NDArray[np.uint8], objects: Objects, size: tuple[int, int]) -> SceneTensors:
    """Crops (h, w) of a picture (H, W, 3) and the places of its objects."""
    cells, _ = objects.cells()
    rows, cols = (int(most) + 1 for most in np.rint(cells.max(0)))
    triples = torch.zeros(len(cells) + 1, 3)
    triples[:-1, :2] = torch.from_numpy(cells)
    triples[-1] = triples[objects.target]
    triples[-1, 2] = 1
    places = token_triples(triples, objects.target, rows, cols)
    return SceneTensors(cut(picture, objects.boxes, size), triples, places, objects.target, rows, cols)


def cut(picture: NDArray[np.uint8], boxes: NDArray[np.float64], size: tuple[int, int]) -> Tensor:
    """Crops (N, h, w, 3) of uint8, each stretched so that it has 0 and 255; one of a single value is 0."""
    from PIL import Image

    whole = Image.fromarray(picture)
    found = []
    for box in boxes:
        x0, y0 = (int(edge) for edge in np.floor(box[:2]))
        x1, y1 = (int(edge) for edge in np.ceil(box[2:]))
        inside = tuple((box - (x0, y0, x0, y0)).tolist())
        part = whole.crop((x0, y0, x1, y1))  # resized within the picture, it would mix in what is beside the box
        crop = np.asarray(part.resize(size[::-1], Image.Resampling.BILINEAR, inside), np.float32)
        low, high = crop.min(), crop.max()
        found.append(np.rint(255 * (crop - low) / max(float(high - low), 1e-6)))
    return torch.from_numpy(np.stack(found).astype(np.uint8))
