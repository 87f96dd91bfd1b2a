"""Grouping of queries, agreement of seeds, intervals, k-NN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn.core.nets.poolings.contract import TokenShape
from attn.core.probe.classify.figures import overlay
from attn.core.probe.classify.head import ProbeHead, neighbour_scores
from attn.core.probe.classify.measure import interval, multiply_adds
from attn.core.probe.classify.query_maps import (
    agreement,
    complementarity,
    entropies,
    group_maps,
    grouped,
    query_rows,
)


def maps(pictures: int = 5, kinds: int = 3, each: int = 4, tokens: int = 16) -> np.ndarray:
    """Queries of a few kinds, [pictures, kinds * each, tokens]."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.random((pictures, kinds, tokens)) ** 8, each, 1)
    noisy = centres + 0.01 * rng.random(centres.shape)
    return noisy / noisy.sum(-1, keepdims=True)


def test_groups_are_the_kinds() -> None:
    owner = grouped(maps(), groups=3)
    assert [len(set(owner[first : first + 4])) for first in (0, 4, 8)] == [1, 1, 1]
    assert len(set(owner)) == 3
    np.testing.assert_array_equal(grouped(maps(kinds=1)), np.arange(4))
    means = group_maps(maps(), owner)
    np.testing.assert_allclose(means.sum(-1), 1)
    assert means.shape == (5, 3, 16)


def test_diagnostics() -> None:
    flat = np.full((2, 3, 16), 1 / 16)
    np.testing.assert_allclose(entropies(flat), 1)
    assert complementarity(flat) == pytest.approx(0, abs=1e-6)
    corner = np.zeros((1, 1, 16))
    corner[..., 0] = 1
    (row,) = query_rows(corner, (4, 4))
    assert (row.entropy, row.row, row.column) == (0, 1 / 8, 1 / 8)


def test_agreement_pairs_queries() -> None:
    one = maps()
    np.testing.assert_allclose(agreement(one, one[:, ::-1]), 1)
    assert abs(agreement(one, np.full_like(one, 1 / 16)).mean()) < 1e-9  # flat maps agree with nothing


def test_overlay_is_a_picture() -> None:
    drawn = overlay(np.full((8, 8, 3), 128, np.uint8), maps(1, 2, 1)[0].reshape(2, 4, 4))
    assert drawn.shape == (8, 8, 3)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_interval_holds_the_mean() -> None:
    hits = np.random.default_rng(0).random((3, 50)) < 0.7
    found = interval(hits)
    assert found.low < found.mean < found.high
    assert interval(np.ones((1, 9), bool)).low == 1
    assert found.high - found.low > 2 * 1.5 * np.sqrt(0.21 / 150)  # pictures are resampled, not only seeds


def test_multiply_adds_of_efficient_pooling() -> None:
    head = ProbeHead("ep", TokenShape(96, 49, None, queries=8), 10)
    assert multiply_adds(head, torch.randn(2, 49, 96)) == 2 * 8 * 49 * 96 + 96 * 96 + 96 * 10


def test_more_neighbours_than_there_are() -> None:
    train = torch.eye(3)
    (scores,) = neighbour_scores(train, train, torch.arange(3), 3, [(200, 0.1)])
    assert scores.argmax(1).tolist() == [0, 1, 2]
