"""A series as a volume: what neighbours may add, and what they must not. All series are 64 x 64 and generated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from attn.core.denoise.adaptive import volume
from attn.core.denoise.adaptive.method import fit
from attn.core.denoise.adaptive.mixture import PRESETS, drawn_by
from attn.core.denoise.adaptive.neighbours import LOW, Slice, SliceGeometry, pair
from attn.core.denoise.adaptive.noise_model import estimate
from attn.core.denoise.adaptive.volume import denoise_volume, denoise_with, slicewise
from attn.core.denoise.base import FitOptions

PRESET = PRESETS["default"]
SIDE, STD = 64, 0.02
STILL = (0, 0)


def disc(radius: float, row: float = 31.5, column: float = 31.5) -> np.ndarray:
    rows, columns = np.ogrid[:SIDE, :SIDE]
    return np.hypot(rows - row, columns - column) <= radius


def truth(shift: int = 0) -> np.ndarray:
    """A disc with two inserts, ``shift`` pixels further down; as a scanner blurs it."""
    flat = np.where(disc(27, 31.5 + shift), 0.5, 0.2) + 0.15 * disc(5, 22 + shift, 24) - 0.1 * disc(4, 42 + shift, 40)
    return gaussian_filter(flat, 0.8).astype(np.float32)


def noise(seed: int) -> np.ndarray:
    """Correlated from pixel to pixel."""
    smooth = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE)), 0.7, mode="wrap")
    return (STD * smooth / smooth.std()).astype(np.float32)


def alone(x: np.ndarray, seed: int = 0, **options) -> Slice:
    return slicewise(x.astype(np.float32), options.pop("valid", None), PRESET, seed, **options)


def geometry(count: int, step: float = 2.0, **more) -> SliceGeometry:
    return SliceGeometry(tuple(step * i for i in range(count)), (STILL,) * count, **more)


def error(y: np.ndarray, clean: np.ndarray) -> float:
    return float(np.sqrt(np.mean((y - clean) ** 2)))


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    return np.stack([truth() + noise(seed) for seed in range(5)])


@pytest.fixture(scope="module")
def slices(series: np.ndarray) -> list[Slice]:
    return [alone(x, seed) for seed, x in enumerate(series)]


@pytest.fixture(scope="module")
def results(series: np.ndarray) -> dict[int, np.ndarray]:
    return {i: found.result for i, found in denoise_volume(series, geometry(5), PRESET)}


def test_neighbours_make_every_slice_better(slices, results):
    assert list(results) == list(range(5))
    for i, own in enumerate(slices):
        assert error(results[i], truth()) < 0.9 * error(own.alone, truth())
        assert results[i].dtype == np.float32


def test_a_slice_without_neighbours_is_the_slice_wise_one_to_the_bit(series, slices):
    found = denoise_with(slices[2], [], PRESET)
    assert np.array_equal(found.result, slices[2].alone)
    assert found.correlations == ()
    assert not found.from_neighbours.any()
    assert np.array_equal(found.weights.sum((1, 2)), [SIDE * SIDE, 0, 0, 0])
    far = dict(denoise_volume(series[:2], geometry(2, step=100.0), PRESET))
    for i in range(2):
        assert np.array_equal(far[i].result, slices[i].alone)


@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_by_itself_a_slice_is_what_the_method_makes_of_it(series, strength):
    valid = np.ones((SIDE, SIDE), bool)
    valid[:10] = False
    x = torch.from_numpy(series[0])
    fitted = fit(x, FitOptions(seed=5), valid=valid).with_strength(strength)
    own = alone(series[0], drawn_by(5), valid=valid, strength=strength)
    assert np.array_equal(denoise_with(own, [], PRESET).result, fitted(x, valid).numpy())


def test_a_constant_slice_stays_as_it_is(series):
    level = np.full((SIDE, SIDE), 0.3, np.float32)
    found = dict(denoise_volume(np.stack([series[0], level, series[1]]), geometry(3), PRESET))
    assert np.array_equal(found[1].result, level)
    assert np.isfinite(found[0].result).all()


def test_the_order_of_the_files_changes_nothing(series, results):
    order = [3, 0, 4, 1, 2]
    mixed = SliceGeometry(tuple(2.0 * i for i in order), (STILL,) * 5)
    for k, found in denoise_volume(series[order], mixed, PRESET):
        assert np.array_equal(found.result, results[order[k]])


def test_every_slice_is_looked_at_once_and_a_window_of_them_is_held(series, slices, monkeypatch):
    looked_at, windows = [], []
    monkeypatch.setattr(volume, "slicewise", lambda x, *_, **__: looked_at.append(x) or slices[0])
    monkeypatch.setattr(volume, "denoise_with", lambda own, others, preset, allowed: windows.append(len(others) + 1))
    assert [i for i, _ in denoise_volume(np.repeat(series, 2, 0), geometry(10), PRESET)] == list(range(10))
    assert len(looked_at) == 10
    assert windows == [4, 5, 6, 7, 7, 7, 7, 6, 5, 4]


def test_neighbours_are_three_places_on_either_side_within_reach():
    assert geometry(9).near(4, (64, 64)) == [(i, STILL) for i in (1, 2, 3, 5, 6, 7)]
    assert geometry(9, step=7.0).near(4, (64, 64)) == [(i, STILL) for i in (2, 3, 5, 6)]  # 16 mm at most
    assert geometry(3, step=100.0).near(1, (64, 64)) == []
    assert SliceGeometry((4.0, 0.0, 2.0), (STILL,) * 3).near(2, (64, 64)) == [(1, STILL), (0, STILL)]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (1, 0, 3, 2, 4)])
def test_slices_at_one_position_count_once_and_which_does_not_hang_on_the_order(order):
    positions, keys = (0.0, 2.0, 2.004, 4.0, 4.0), ("a", "c", "b", "e", "d")
    placed = SliceGeometry(
        tuple(positions[i] for i in order), (STILL,) * 5, tuple(keys[i] for i in order)
    )  # fmt: skip
    seen = {keys[i]: [placed.keys[j] for j, _ in placed.near(k, (64, 64))] for k, i in enumerate(order)}
    assert seen == {"a": ["b", "d"], "b": ["a", "d"], "c": ["a", "d"], "d": ["a", "b"], "e": ["a", "b"]}


def test_a_tilted_series_is_shifted_into_place(slices):
    tilted = [alone(truth(shift) + noise(seed), seed) for seed, shift in ((0, -6), (2, 0), (4, 6))]
    at = SliceGeometry((0.0, 2.0, 4.0), ((6.0, 0.3), (0.0, 0.0), (-6.2, -0.4)))
    assert at.near(1, (SIDE, SIDE)) == [(0, (-6, 0)), (2, (6, 0))]
    there = pair(tilted[1], tilted[2], (6, 0)).still
    assert np.array_equal(there.x[:-6], tilted[2].x[6:])
    assert there.low[:-6].max() < 1
    assert there.low[-6:].min() > 1e5
    placed, lost, upright = (
        denoise_with(own, [(before, up), (after, down)], PRESET)
        for own, before, after, up, down in (
            (tilted[1], tilted[0], tilted[2], (-6, 0), (6, 0)),
            (tilted[1], tilted[0], tilted[2], STILL, STILL),
            (slices[2], slices[0], slices[4], STILL, STILL),
        )
    )
    middle = np.s_[10:-10]
    assert error(placed.result[middle], truth()[middle]) == pytest.approx(
        error(upright.result[middle], truth()[middle]), rel=0.02
    )  # fmt: skip
    assert error(lost.result[middle], truth()[middle]) > error(placed.result[middle], truth()[middle])
    assert lost.from_neighbours[middle].mean() < 0.95 * placed.from_neighbours[middle].mean()
    # a quarter of the slice away is another place
    assert SliceGeometry((0.0, 2.0), (STILL, (16.0, 0.0))).near(0, (SIDE, SIDE)) == []


def test_the_same_noise_is_no_neighbour(slices, series):
    twin = alone(series[2] + 0.3 * noise(9), 7)
    found = denoise_with(slices[2], [(twin, STILL)], PRESET)
    assert (found.left_out, found.correlations) == (1, ())
    assert np.array_equal(found.result, slices[2].alone)
    beside = denoise_with(slices[2], [(twin, STILL), (slices[1], STILL)], PRESET)
    assert (beside.left_out, beside.correlations) == (1, (0.0,))


def test_shared_noise_is_counted(monkeypatch):
    own, beside = noise(1), noise(2)
    here, there = alone(truth() + own), alone(truth() + (0.5 * own + 0.75**0.5 * beside), 1)
    counted = denoise_with(here, [(there, STILL)], PRESET)
    assert counted.correlations[0] == pytest.approx(0.5, abs=0.12)
    seen = pair(here, there)
    assert seen.moved is not seen.still
    expected = seen.still.x + 0.05 * counted.correlations[0] * there.level / here.level * here.noise
    assert np.allclose(seen.moved.x, expected, atol=1e-6)
    assert np.median(seen.half / here.level) == pytest.approx((1 - counted.correlations[0]) ** 0.5, rel=0.1)
    monkeypatch.setattr("attn.core.denoise.adaptive.neighbours.RHO_FROM", 9.0)
    ignored = denoise_with(here, [(there, STILL)], PRESET)
    assert ignored.correlations == (0.0,)
    assert ignored.from_neighbours.mean() > counted.from_neighbours.mean()


def test_a_noisier_neighbour_counts_less(slices):
    loud = alone(truth() + 2 * noise(6), 6)
    assert pair(slices[0], loud).weight == pytest.approx(0.25, rel=0.25)
    assert pair(loud, slices[0]).weight == 1.0
    quiet, noisy = (denoise_with(a, [(b, STILL)], PRESET) for a, b in ((slices[0], loud), (loud, slices[0])))
    assert error(quiet.result, truth()) < 1.01 * error(slices[0].alone, truth())
    assert error(noisy.result, truth()) < 0.9 * error(loud.alone, truth())
    far_louder = alone(truth() + 5 * noise(6), 6)
    assert pair(slices[0], far_louder) is None
    assert pair(far_louder, slices[0]).weight == 1.0


def test_padding_of_a_neighbour_is_not_drawn_in(slices):
    block = np.zeros((SIDE, SIDE), bool)
    block[24:56, 16:48] = True
    beside = replace(slices[1], valid=~block)
    told, untold = (denoise_with(slices[0], [(other, STILL)], PRESET) for other in (beside, slices[1]))
    assert told.from_neighbours[28:52, 20:44].max() < 1e-6 < 0.1 < untold.from_neighbours[28:52, 20:44].mean()
    assert told.from_neighbours[~block].mean() > 0.1
    empty = replace(slices[1], valid=np.zeros((SIDE, SIDE), bool))
    nothing = denoise_with(slices[0], [(empty, STILL)], PRESET)
    assert nothing.left_out == 1
    assert np.array_equal(nothing.result, slices[0].alone)


def test_slices_of_other_sizes_are_refused(slices):
    with pytest.raises(ValueError, match="no neighbour"):
        pair(slices[0], alone((truth() + noise(3))[:, :60]))


def kept(
    with_it: list[Slice], without: list[Slice], lesion: np.ndarray, index: int, size: float, **guard: float
) -> float:
    """Share of a lesion of slice 2 in a result of slice ``index``."""
    around = [j for j in range(5) if j != index]
    with_it, without = (
        denoise_with(s[index], [(s[j], STILL) for j in around], PRESET, **guard).result for s in (with_it, without)
    )
    return float((with_it - without)[lesion].mean() / size)


def test_a_lesion_of_one_slice_stays_there_and_leaves_no_ghost(series, slices):
    lesion, size = disc(5, 30, 44), 2 * STD
    marked = alone(series[2] + size * gaussian_filter(lesion.astype(np.float32), 0.8), 2)
    changed = [*slices[:2], marked, *slices[3:]]
    core = disc(3.5, 30, 44)
    slice_wise = float((marked.alone - slices[2].alone)[core].mean() / size)
    assert kept(changed, slices, core, 2, size) > slice_wise
    assert abs(kept(changed, slices, core, 3, size)) < 0.05
    unguarded = {"allowed": 1e9}  # the guard is what keeps it
    assert kept(changed, slices, core, 2, size, **unguarded) < 0.8 * slice_wise
    assert kept(changed, slices, core, 3, size, **unguarded) > 0.05


def test_strength_scales_the_filters_and_not_their_weights(series, slices):
    def denoised(strength):
        own = alone(series[2], 2, strength=strength)
        return denoise_with(own, [(slices[1], STILL), (slices[3], STILL)], PRESET)

    plain, ones, none, more = (denoised(s) for s in (1.0, np.ones((SIDE, SIDE)), 0.0, 1.5))
    assert np.array_equal(plain.result, ones.result)
    assert np.allclose(none.result, series[2], atol=1e-6)
    for other in (none, more):
        assert np.array_equal(other.weights, plain.weights)
    assert error(more.result, series[2]) > error(plain.result, series[2])
    half = denoised(np.where(np.arange(SIDE) < 32, 0.0, 1.0)[None] * np.ones((SIDE, 1)))
    assert np.allclose(half.result[:, :32], series[2, :, :32], atol=1e-6)
    assert np.allclose(half.result[:, 32:], plain.result[:, 32:], atol=1e-6)


def test_a_noise_model_of_another_slice_is_used(series, slices):
    model = estimate(series[0])
    own, other = alone(series[0], model=model), alone(series[1], 1, model=model)
    assert np.array_equal(own.alone, slices[0].alone)
    assert other.level is model.level
    assert not np.array_equal(other.flat, model.flat)
    assert pair(own, other).rho == 0.0  # what the slices share is looked at in their own pixels


def test_the_guard_of_oblong_pixels_reaches_as_far_down_as_across(series):
    square, oblong = alone(series[0]), alone(series[0], aspect=4.0)
    assert np.array_equal(square.low, gaussian_filter(series[0], LOW))
    assert np.array_equal(oblong.low, gaussian_filter(series[0], (LOW / 2, LOW * 2)))
