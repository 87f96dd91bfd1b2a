from pathlib import Path

import numpy as np
import pytest

from attn.core.denoise import simulate
from attn.core.denoise.options import DenoiseOptions
from attn.core.denoise.simulate import simulate_low_dose, simulated, slice_seed
from attn.core.io import GreyImage

SIDE, PIXEL_MM = 128, 2.0  # a quarter of a scanner's matrix keeps these tests under a second


def ellipse(across_mm: float, down_mm: float, hu: float = 0.0) -> np.ndarray:
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    return np.where(np.hypot(x / across_mm, y / down_mm) < 0.5, hu, -1000).astype(np.float32)


WATER = ellipse(180, 180)
CENTRE = (slice(48, 80), slice(48, 80))


def added(dose: float, hu: np.ndarray = WATER, **options) -> np.ndarray:
    return simulate_low_dose(hu, dose=dose, pixel_mm=PIXEL_MM, **options).astype(np.float64) - hu


def test_line_integrals_are_those_of_the_phantom() -> None:
    theta = np.arange(0, 180, 5.0)
    through = simulate.line_integrals(simulate.attenuation(WATER), PIXEL_MM, theta).max(axis=0)
    np.testing.assert_allclose(through, 180 * simulate.MU_WATER, rtol=0.03)


def test_back_projection_inverts_projection() -> None:
    theta = np.arange(200) * 0.9
    integrals = simulate.line_integrals(simulate.attenuation(WATER), PIXEL_MM, theta)
    mu = simulate.back_project(integrals, PIXEL_MM, theta, SIDE, cutoff_per_mm=1.0)
    np.testing.assert_allclose(mu[CENTRE].mean(), simulate.MU_WATER, rtol=0.03)


def test_noise_follows_the_dose() -> None:
    quarter = added(0.25)[CENTRE].std()
    for dose in (0.5, 0.1):
        expected = quarter * np.sqrt((1 / dose - 1) / 3)  # variance grows as 1/dose - 1
        assert added(dose)[CENTRE].std() == pytest.approx(expected, rel=0.08)
    assert added(0.25, photons=4e6)[CENTRE].std() == pytest.approx(added(0.25, photons=1e6)[CENTRE].std() / 2, rel=0.05)


def test_the_number_of_views_shares_the_photons() -> None:
    assert added(0.25, angles=400)[CENTRE].std() == pytest.approx(added(0.25)[CENTRE].std(), rel=0.1)


@pytest.mark.parametrize("across_mm", [80, 160])
def test_a_quarter_of_the_dose_is_realistic_whatever_the_size(across_mm: float) -> None:
    y, x = (np.mgrid[:256, :256] - 127.5) * 0.7
    water = np.where(np.hypot(x, y) < across_mm / 2, 0, -1000).astype(np.float32)
    noise = simulate_low_dose(water, dose=0.25, pixel_mm=0.7) - water
    assert 15 < noise[np.hypot(x, y) < 20].std() < 30


def test_full_dose_changes_nothing() -> None:
    result = simulate_low_dose(WATER, dose=1, pixel_mm=PIXEL_MM)
    np.testing.assert_array_equal(result, WATER)
    assert result is not WATER


def test_noise_has_no_mean() -> None:
    noise = added(0.25)[CENTRE]
    assert abs(noise.mean()) < 0.05 * noise.std()


def test_noise_is_correlated_with_a_peak_off_zero_frequency() -> None:
    taper = np.outer(np.hanning(32), np.hanning(32))
    patches = [taper * added(0.25, seed=seed, cutoff_per_mm=0.25)[CENTRE] for seed in range(4)]
    noise = np.mean(np.abs(np.fft.fft2(patches)) ** 2, axis=0)
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    low, middle, high = (noise[(radius >= a) & (radius < b)].mean() for a, b in ((0, 0.04), (0.1, 0.2), (0.4, 0.71)))
    assert middle > 2 * low  # the ramp filter takes away low frequencies
    assert middle > 3 * high  # the kernel's window takes away high ones


def test_noise_streaks_along_the_long_axis() -> None:
    noise = added(0.25, ellipse(240, 90, hu=600))[CENTRE]  # wide and flat: rays along x lose most photons
    along_x = np.corrcoef(noise[:, 3:].ravel(), noise[:, :-3].ravel())[0, 1]
    along_y = np.corrcoef(noise[3:].ravel(), noise[:-3].ravel())[0, 1]
    assert along_x > along_y + 0.2


def test_starvation_stays_finite() -> None:
    noise = added(0.01, ellipse(240, 240, hu=3000), photons=100.0)
    assert np.isfinite(noise).all()
    integrals = np.full((100, 100), 5.0)  # 1.3 photons arrive: the log of what is counted is floored
    logs = simulate.log_noise(integrals, 0.5, 200.0, 5.0, np.random.default_rng(0))
    assert logs.max() <= np.log(200 * np.exp(-5.0)) + 1e-9


def test_same_seed_same_bits() -> None:
    np.testing.assert_array_equal(added(0.25, seed=3), added(0.25, seed=3))
    assert np.abs(added(0.25, seed=3) - added(0.25, seed=4)).max() > 1


def test_padding_stays_and_is_air_to_the_beam() -> None:
    valid = ellipse(250, 250) == 0
    padded = np.where(valid, WATER, -3024.0).astype(np.float32)
    result = simulate_low_dose(padded, dose=0.25, pixel_mm=PIXEL_MM, valid=valid)
    np.testing.assert_array_equal(result[~valid], padded[~valid])
    metal = np.where(valid, WATER, 30000.0).astype(np.float32)
    again = simulate_low_dose(metal, dose=0.25, pixel_mm=PIXEL_MM, valid=valid)
    np.testing.assert_array_equal(result[valid], again[valid])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (40, 64), (64, 41)])
def test_any_shape_and_dtype(shape: tuple[int, int]) -> None:
    for dtype in (np.float32, np.float64):
        result = simulate_low_dose(np.zeros(shape, dtype), dose=0.5, pixel_mm=1)
        assert result.shape == shape
        assert result.dtype == dtype
        assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dose": 0}, "dose"),
        ({"dose": 1.5}, "dose"),
        ({"dose": float("nan")}, "dose"),
        ({"pixel_mm": 0}, "pixel_mm"),
        ({"photons": -1}, "photons"),
        ({"electronic": -1}, "electronic"),
        ({"angles": 0}, "angles"),
        ({"cutoff_per_mm": 0}, "cutoff_per_mm"),
        ({"valid": np.ones((2, 2), bool)}, "mask of valid pixels"),
        ({"hu": np.full((4, 4), np.nan)}, "not finite"),
        ({"hu": np.zeros((2, 4, 4))}, r"\[H, W\]"),
        ({"hu": np.zeros((0, 4))}, "non-empty"),
    ],
)
def test_arguments_out_of_range(change: dict, message: str) -> None:
    arguments = {"hu": np.zeros((4, 4)), "dose": 0.5, "pixel_mm": 1.0} | change
    with pytest.raises(ValueError, match=message):
        simulate_low_dose(arguments.pop("hu"), **arguments)


def test_slices_of_a_series_have_noise_of_their_own_wherever_they_are_read() -> None:
    def noise(uid: str) -> np.ndarray:
        pixels = WATER[None, CENTRE[0], CENTRE[1]]
        image = GreyImage(Path("a"), "dicom", pixels, "HU", spacing_mm=(1.0, 1.0), series={"sop_uid": uid})
        return simulated(image, DenoiseOptions(simulate_dose=0.25)).pixels[0] - pixels[0]

    first, second, again = (noise(uid) for uid in ("1.2.1", "1.2.2", "1.2.1"))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2
    stack = GreyImage(Path("a"), "npy", np.zeros((2, 4, 4), np.float32), "HU")
    assert [slice_seed(stack, 77, z) for z in range(2)] == [77, 78]
