"""The threshold of a photo: calibration against drawn truths, expected F1 against all thresholds tried one by one."""

import numpy as np
import pytest

from attn.core.segment.outputs import quantise
from attn.core.segment.threshold import (
    FARTHEST,
    LEAST_CALIBRATED,
    SHARE,
    Calibration,
    counts,
    expected_f1,
    fit_calibration,
    photo_threshold,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(slope=0.6, offset=-0.5, share=0.1, side=200, seed=0):
    """A map whose calibration is known, with a truth drawn from it: about ``share`` of vessels."""
    generator = np.random.default_rng(seed)
    vessel = generator.random((side, side)) < share
    logit = np.where(vessel, 3.0, -5.0) + generator.normal(size=vessel.shape) * 2.0
    prob = sigmoid(logit)
    truth = generator.random(prob.shape) < sigmoid(slope * logit + offset)
    return prob, truth, np.ones(prob.shape, bool)


def test_the_calibration_that_drew_the_truth_is_found():
    found = fit_calibration([drawn(seed=seed) for seed in range(3)])
    assert (found.slope, found.offset) == pytest.approx((0.6, -0.5), abs=0.05)


def test_photos_count_alike_whatever_their_size_and_empty_ones_not_at_all():
    prob, truth, fov = drawn()
    large = (np.tile(prob, (2, 2)), np.tile(truth, (2, 2)), np.tile(fov, (2, 2)))
    other = drawn(offset=1.0, seed=1)
    blank = (prob, truth, np.zeros_like(fov))
    assert fit_calibration([large, other, blank]) == fit_calibration([(prob, truth, fov), other])


def test_vessels_told_without_error_have_a_finite_calibration():
    truth = np.arange(100).reshape(10, 10) % 10 == 0
    found = fit_calibration([(np.where(truth, 0.9, 0.1), truth, np.ones_like(truth))])
    assert 1 < found.slope <= 20
    assert abs(found.offset) < 5


def test_no_pixel_to_calibrate_with():
    with pytest.raises(ValueError, match="no pixel"):
        fit_calibration([])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        fit_calibration([(np.full((2, 2), 1.5), np.ones((2, 2), bool), np.ones((2, 2), bool))])


def test_expected_f1_is_that_of_the_definition():
    prob, _, fov = drawn(side=20)
    stored = quantise(prob, fov)
    calibration = Calibration(0.6, -0.5)
    curve = expected_f1(counts(stored, fov), calibration.probability())
    p = calibration.probability()[stored]
    for level in (1, 300, 30000, 65000):
        above = stored >= level
        assert curve[level] == pytest.approx(2 * p[above].sum() / (above.sum() + p.sum()))


def test_the_threshold_of_a_photo_like_those_calibrated_on_is_that_of_its_truth():
    calibration = Calibration(0.6, -0.5)
    prob, truth, fov = drawn(share=0.09)
    stored = quantise(prob, fov)
    chosen = photo_threshold(counts(stored, fov), calibration)
    assert abs(chosen.moved) < 0.3
    assert not chosen.limited

    def f1(threshold):
        found = stored / 65535 >= threshold
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    assert f1(chosen.value) > max(f1(t) for t in np.linspace(0.02, 0.98, 97)) - 0.005


def test_probabilities_that_another_camera_moved_move_the_threshold_with_them():
    prob, _, fov = drawn(slope=1.0, offset=0.0)
    chosen = []
    for moved in (-2.5, 0.0, 2.5):
        stored = quantise(sigmoid(np.log(prob / (1 - prob)) + moved), fov)
        chosen.append(photo_threshold(counts(stored, fov), Calibration()))
    low, middle, high = chosen
    assert low.value < middle.value < high.value
    assert low.moved > middle.moved > high.moved


@pytest.mark.parametrize("level", [1, 60, 65535])
def test_a_photo_without_vessels_or_of_nothing_else_is_told(level):
    chosen = photo_threshold(np.bincount([level], minlength=65536) * 1000, Calibration())
    assert chosen.limited
    assert abs(chosen.moved) <= FARTHEST
    assert 0 < chosen.value < 1
    assert Calibration().probability(chosen.moved)[round(chosen.value * 65535)] >= LEAST_CALIBRATED


def test_an_empty_field_of_view_has_no_threshold():
    with pytest.raises(ValueError, match="field of view is empty"):
        photo_threshold(np.zeros(65536, np.int64), Calibration())


def test_the_share_of_vessels_is_what_pulls():
    """Of two photos with the same ranks, the one that seems to hold too many vessels is thought to overstate."""
    assert SHARE == 0.10
    many, few = (drawn(share=share, slope=1.0, offset=0.0) for share in (0.3, 0.03))
    moved = [photo_threshold(counts(quantise(p, fov), fov), Calibration()).moved for p, _, fov in (many, few)]
    assert moved[0] < -0.1 < 0.1 < moved[1]
