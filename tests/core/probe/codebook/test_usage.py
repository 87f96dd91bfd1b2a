"""Diagnostics of codebooks whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attn.core.probe.codebook.usage import BLOCK, geometry, nearest, precision, specialisation, usage


def test_codes_that_know_the_goal() -> None:
    """Frames of four goals in turn, one code each, and four codes that nothing uses."""
    goals = np.arange(100) % 4
    found = usage(np.eye(8)[goals], goals, 4)
    metrics = found.metrics()
    assert metrics["soft_perplexity"] == pytest.approx(4)
    assert metrics["hard_perplexity"] == pytest.approx(4)
    assert metrics["mutual_information"] == pytest.approx(math.log(4))
    assert metrics["goal_information"] == pytest.approx(math.log(4))
    assert metrics["goal_information_share"] == pytest.approx(1)
    assert (metrics["dead_hard"], metrics["dead_soft"]) == (0.5, 0.5)
    assert (metrics["codes_per_frame"], metrics["mean_top1_prob"]) == (1, 1)
    goal, lift = found.lift()
    assert goal.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert lift[:4].tolist() == pytest.approx([4] * 4)
    assert np.isnan(lift[4:]).all()
    assert [row["goal"] for row in specialisation(found, "abcd")] == list("abcd")
    assert not found.collapsed()


def test_codes_that_know_nothing() -> None:
    """Diffuse: full perplexity of the mean, no information."""
    rows = usage(np.full((50, 16), 1 / 16), np.arange(50) % 2, 2)
    metrics = rows.metrics()
    assert metrics["soft_perplexity"] == pytest.approx(16)
    assert metrics["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert metrics["goal_information"] == pytest.approx(0, abs=1e-12)
    assert len(rows.collapsed()) == 2
    assert len(usage(np.eye(100)[np.zeros(9, int)]).collapsed()) == 3


def test_blocks_add_up() -> None:
    rng = np.random.default_rng(1)
    probs, goals = rng.dirichlet(np.ones(12), 2 * BLOCK + 7), rng.integers(3, size=2 * BLOCK + 7)
    metrics = usage(probs, goals, 3).metrics()
    own = -(probs * np.log(probs)).sum(1)
    assert metrics["mean_conditional_entropy"] == pytest.approx(own.mean())
    assert metrics["codes_per_frame"] == pytest.approx(np.exp(own).mean())
    mean = probs.mean(0)
    assert metrics["marginal_entropy"] == pytest.approx(-(mean * np.log(mean)).sum())
    joint = np.histogram2d(probs.argmax(1), goals, (np.arange(13), np.arange(4)))[0] / len(goals)
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = (joint[joint > 0] * np.log(joint[joint > 0] / outer[joint > 0])).sum()
    assert metrics["goal_information"] == pytest.approx(expected)


def test_rows_that_are_no_distribution_are_named() -> None:
    probs = np.full((BLOCK + 5, 4), 0.25)
    for wrong in ([0.5, 0.5, 0.5, 0.5], [-0.5, 0.5, 0.5, 0.5], [np.nan, 0.5, 0.25, 0.25]):
        probs[BLOCK + 2] = wrong
        with pytest.raises(ValueError, match=f"row {BLOCK + 2} is no distribution"):
            usage(probs)
    with pytest.raises(ValueError, match="no frames"):
        usage(probs[:0])


def test_neighbours() -> None:
    rows = np.array([[1.0, 0], [2, 0], [0, 1], [1, 0.1], [3, 0]])
    assert nearest(rows, rows, own=True)[0].tolist() == [1, 4, 3]
    assert nearest(np.array([[0.0, 5]]), rows).tolist() == [[2, 3, 0]]
    assert nearest(rows[:2], rows[:2], own=True).tolist() == [[1], [0]]
    many = np.random.default_rng(0).normal(size=(BLOCK + 9, 5))
    found = nearest(many, many, own=True)
    assert not (found == np.arange(len(many))[:, None]).any()
    labels = np.array([0, 0, 1, 1, 0])
    assert precision(np.array([[1, 4, 3]]), np.array([0]), labels) == pytest.approx(2 / 3)


def test_geometry_of_known_codes() -> None:
    found = geometry(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
    assert found["mean_cosine"] == pytest.approx(-1 / 3)
    assert found["effective_rank"] == pytest.approx(2)
    np.testing.assert_allclose(found["spectrum"], [0.5, 0.5])
    line = geometry(np.array([[1.0, 1], [2, 2], [4, 4]]))
    assert line["effective_rank"] == pytest.approx(1, abs=1e-6)
    assert math.isnan(geometry(np.ones((1, 3)))["mean_cosine"])  # type: ignore[arg-type]
