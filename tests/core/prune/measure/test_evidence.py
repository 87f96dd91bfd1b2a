"""Which tokens are evidence and which are padding, on grids that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attn.core.models.geometry import Geometry, PatchGrid, tiled
from attn.core.prune.measure.evidence import evidence, padding, padding_share, recall

GRID = Geometry((40, 40), 0, 0, (PatchGrid(0, (4, 4), (0, 0, 40, 40)),))
"""Patches of 10 px."""


def test_evidence_needs_a_quarter_of_a_patch() -> None:
    box = np.array([[10.0, 10, 25, 20]])  # all of patch 5, half of patch 6
    assert evidence(GRID, box).tolist() == [5, 6]
    assert evidence(GRID, np.array([[10.0, 10, 22.5, 20]])).tolist() == [5]  # exactly a quarter is not more
    assert evidence(GRID, np.array([[0.0, 0, 5, 4], [5, 0, 10, 4]])).tolist() == []  # two boxes, a fifth each
    assert evidence(GRID, np.array([[0.0, 0, 5, 4], [4, 0, 10, 5]])).tolist() == [0]


def test_recall() -> None:
    wanted = evidence(GRID, np.array([[10.0, 10, 30, 30]]))
    assert wanted.tolist() == [5, 6, 9, 10]
    assert recall(torch.tensor([0, 5, 6, 9]), wanted) == 0.75
    assert math.isnan(recall(torch.tensor([0]), torch.tensor([])))


def test_padding_of_a_letterboxed_picture() -> None:
    """A picture 20 high and 40 wide in the middle of a square."""
    boxed = Geometry((20, 40), 0, 0, (PatchGrid(0, (4, 4), (-10, 0, 30, 40)),))
    outside = padding(boxed)
    assert outside.tolist() == [1] * 4 + [0] * 8 + [1] * 4
    assert padding_share(torch.tensor([0, 4, 5, 15]), outside) == 0.5
    assert padding(Geometry((25, 40), 0, 0, (PatchGrid(0, (4, 4), (0, 0, 40, 40)),))).tolist() == pytest.approx(
        [0] * 8 + [0.5] * 4 + [1] * 4
    )


def test_tokens_without_a_place_are_no_padding_and_no_evidence() -> None:
    cells = tiled((40, 40), (1, 2), (2, 2), start=1, between=3)  # tokens 1-4 and 8-11, and an overview 15-18
    assert cells.count == 19
    assert padding(cells).tolist() == [0] * 19
    assert evidence(cells, np.array([[0.0, 0, 20, 20]])).tolist() == [1, 2, 15]
    assert evidence(cells, np.array([[20.0, 20, 40, 40]])).tolist() == [10, 11, 18]
