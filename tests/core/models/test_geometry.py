"""Vectors over tokens land where the model looked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import IMAGES, build, inputs, last_hidden
from torch import nn

from attn.core.errors import UsageError
from attn.core.models.geometry import Geometry, PatchGrid, geometry_of, tiled
from attn.core.models.images import ImagePreparation, PreparedImage

PLAIN = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("name", IMAGES)
def test_counts_are_those_of_the_model(name: str) -> None:
    model = build(name)
    geometry = geometry_of(model, PreparedImage(torch.zeros(3, 16, 16), (100, 50), (0, 0, 100, 50)))
    assert geometry.count == last_hidden(model, inputs(name)).shape[1]
    assert geometry.tiles[0].grid == (4, 4)
    assert geometry.prefix == {"siglip": 0, "deit": 2, "dinov2 with registers": 5}.get(name, geometry.count - 16)
    assert geometry.patch_size() == (25, 12.5)


def test_a_patch_is_at_its_pixels() -> None:
    """Brightness that one patch sees comes back as the pixels that made it."""
    prepare = ImagePreparation((8, 8), fit="crop", cover=8, **PLAIN)
    image = np.zeros((3, 16, 32), np.float32)
    image[:, 4:8, 20:24] = 1
    prepared = prepare.prepared(image)
    assert (prepared.size, prepared.box) == ((16, 32), (0, 8, 16, 24))
    geometry = Geometry((16, 32), 1, 0, (PatchGrid(1, (4, 4), prepared.box),))
    patches = prepared.pixels[0].unfold(0, 2, 2).unfold(1, 2, 2).mean((2, 3)).flatten()
    brightest = int(patches.argmax())
    assert geometry.positions()[brightest].tolist() == [6, 22]
    laid = geometry.on_pixels(np.concatenate([[9], patches.numpy()]))
    assert np.isnan(laid[:, :8]).all()
    assert np.isnan(laid[:, 24:]).all()
    assert np.argwhere(laid > 0.5).tolist() == [[y, x] for y in range(4, 8) for x in range(20, 24)]
    assert np.array_equal(laid, geometry.on_pixels(patches.numpy()), equal_nan=True)
    assert np.array_equal(laid[::2, ::2], geometry.on_pixels(patches.numpy(), size=(8, 16)), equal_nan=True)
    assert prepared.of((32, 64)).box == (0, 16, 32, 48)


@pytest.mark.parametrize(
    ("fit", "cover", "shape", "box"),
    [
        ("squash", None, (10, 40), (0, 0, 10, 40)),
        ("crop", None, (10, 40), (0, 15, 10, 25)),
        ("crop", 16, (32, 16), (12, 4, 20, 12)),
        ("crop", 4, (4, 4), (-2, -2, 6, 6)),
    ],
)
def test_boxes(fit: Any, cover: Any, shape: tuple[int, int], box: tuple[float, ...]) -> None:
    prepared = ImagePreparation((8, 8), fit=fit, cover=cover, **PLAIN).prepared(np.ones((3, *shape), np.float32))
    assert prepared.box == pytest.approx(box)
    assert prepared.size == shape


def test_rows_and_columns() -> None:
    geometry = Geometry((30, 20), 0, 0, (PatchGrid(0, (2, 3), (0, 0, 30, 20)),))
    assert geometry.grid_positions().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_tiles_and_overview() -> None:
    geometry = tiled((8, 12), (2, 3), (2, 2), start=5, between=1)
    assert [tile.start for tile in geometry.tiles] == [5, 10, 15, 20, 25, 30, 35]
    assert geometry.count == 39
    assert len(geometry.patches()) == len(geometry.positions()) == 28
    values = np.zeros(28)
    values[4:8] = 2  # the second cell
    laid = geometry.on_pixels(values)
    assert laid[:4, 4:8].tolist() == [[1] * 4] * 4  # mean of the cell and the overview
    assert laid.sum() == 16
    with pytest.raises(ValueError, match="no common rows"):
        geometry.grid_positions()


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="10 x 16 pixels is no multiple of patches of 4 x 4"):
        geometry_of(build("vit"), PreparedImage(torch.zeros(3, 10, 16), (1, 1), (0, 0, 1, 1)))
    with pytest.raises(UsageError, match="tokens of Linear are in a picture"):
        geometry_of(nn.Linear(2, 2), PreparedImage(torch.zeros(3, 8, 8), (1, 1), (0, 0, 1, 1)))
    with pytest.raises(ValueError, match="5 tokens, 4 patches"):
        Geometry((4, 4), 1, 0, (PatchGrid(1, (2, 2), (0, 0, 4, 4)),)).on_pixels(np.zeros(6))
