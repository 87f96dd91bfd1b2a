"""Fitted exponents and crossovers on curves whose answer is known."""

import numpy as np
import pytest

from attn.core.bench.scaling import crossover, fit

LENGTHS = [4096, 8192, 16384, 32768, 65536]


@pytest.mark.parametrize("exponent", [1.0, 1.54, 2.0])
def test_exact_powers_are_found(exponent):
    found = fit(LENGTHS, [3e-9 * n**exponent for n in LENGTHS])
    assert found is not None
    assert found.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.low == pytest.approx(exponent, abs=1e-6)
    assert found.seconds(131072) == pytest.approx(3e-9 * 131072**exponent)
    assert found.local == pytest.approx([exponent] * 4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        seconds = [1e-9 * n**1.5 * np.exp(0.1 * rng.standard_normal()) for n in LENGTHS]
        found = fit(LENGTHS, seconds)
        inside += found.low <= 1.5 <= found.high
    assert 0.91 <= inside / 400 <= 0.985


def test_overhead_is_subtracted_and_drowned_points_are_dropped():
    seconds = [1e-3 + 1e-9 * n**2 for n in LENGTHS]
    assert fit(LENGTHS, seconds, overhead=1e-3).exponent == pytest.approx(2.0, abs=1e-6)
    assert fit(LENGTHS, seconds, overhead=1e-3).points == 5
    assert fit(LENGTHS, seconds, overhead=1e-2).points == 3  # 0.018 and 0.069 s are below ten times 0.01


def test_one_point_is_no_fit():
    assert fit([4096], [1.0]) is None
    assert np.isnan(fit([4096, 8192], [1.0, 2.0]).low)


def test_crossover_between_measured_lengths():
    ours, dense = [2e-6 * n for n in LENGTHS], [1e-10 * n**2 for n in LENGTHS]  # equal at 20000
    where, measured = crossover(LENGTHS, ours, dense, fit(LENGTHS, ours), fit(LENGTHS, dense))
    assert measured
    assert where == pytest.approx(20000, rel=0.01)


def test_crossover_beyond_the_measured_lengths_comes_from_the_fit():
    ours, dense = [1e-4 * n for n in LENGTHS], [1e-10 * n**2 for n in LENGTHS]  # equal at a million
    where, measured = crossover(LENGTHS, ours, dense, fit(LENGTHS, ours), fit(LENGTHS, dense))
    assert not measured
    assert where == pytest.approx(1e6, rel=1e-6)


def test_no_crossover_for_what_grows_as_fast():
    dense = [1e-10 * n**2 for n in LENGTHS]
    slower = [2 * s for s in dense]
    assert crossover(LENGTHS, slower, dense, fit(LENGTHS, slower), fit(LENGTHS, dense)) == (None, False)


def test_faster_everywhere_crosses_at_the_smallest_length():
    dense = [1e-10 * n**2 for n in LENGTHS]
    assert crossover(LENGTHS, [s / 2 for s in dense], dense, None, None) == (4096.0, True)
