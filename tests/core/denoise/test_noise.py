import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.restoration import estimate_sigma

from attn.core.denoise.noise import noise_std


def white(shape: tuple[int, int] = (128, 128), std: float = 1.0, seed: int = 0) -> np.ndarray:
    return (std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 64), (65, 33), (512, 512), (9, 100)])
def test_equals_scikit_image(shape: tuple[int, int]) -> None:
    ramp = np.linspace(0, 50, shape[1], dtype=np.float32)
    image = white(shape) + ramp
    assert noise_std(image) == pytest.approx(estimate_sigma(image), rel=1e-4)  # rounding aside


def test_equals_the_specification_on_its_slice(data_dir) -> None:
    noisy = np.load(data_dir / "ct" / "mayo_slice_pair.npz")["noisy"]
    assert noise_std(noisy) == pytest.approx(0.01486, abs=1e-5)  # section 6, "wavelet sigma estimate"


@given(std=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_finds_white_noise(std: float, shift: float) -> None:
    assert noise_std(white(std=std).astype(np.float64) + shift) == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_band_holds_white_noise_alike(level: int) -> None:
    assert noise_std(white((256, 256), 7.0), level=level) == pytest.approx(7, rel=0.08)


@pytest.mark.parametrize("width", [0.8, 1.2])
def test_the_second_band_holds_correlated_noise(width: float) -> None:
    noise = gaussian_filter(white((256, 256)).astype(np.float64), width)
    noise /= noise.std()
    finest, second = (noise_std(noise, level=level) for level in (1, 2))
    assert finest < 0.5
    assert second > 0.5
    assert second > 2 * finest


@pytest.mark.parametrize("level", [0.0, 0.3, -1000.1])
def test_flat_air_does_not_count(level: float) -> None:
    image = white((256, 256), 10.0)
    image[:, :200] = level  # most of the image has no noise at all
    assert noise_std(image) == pytest.approx(10, rel=0.1)


def test_padding_does_not_count() -> None:
    image = white((256, 256), 10.0)
    valid = np.ones(image.shape, bool)
    valid[:, ::8] = False
    valid[100:, 128:] = False
    padded = np.where(valid, image, -2000.0)
    assert noise_std(padded, valid) == pytest.approx(10, rel=0.05)
    assert abs(noise_std(padded) - 10) > abs(noise_std(padded, valid) - 10)
    assert noise_std(np.where(valid, image, np.nan), valid) == noise_std(padded, valid)


def test_the_input_is_left_alone() -> None:
    image, valid = white(), np.zeros((128, 128), bool)
    before = image.copy()
    noise_std(image, valid)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("image", [np.zeros((0, 5)), np.full((1, 1), 3.0), np.full((64, 64), 0.1, np.float32)], ids=str)
def test_nothing_to_judge_by_is_zero(image: np.ndarray) -> None:
    assert noise_std(image) == 0.0


def test_integers_are_taken_as_numbers() -> None:
    image = np.round(white(std=20.0)).astype(np.int16)
    assert noise_std(image) == pytest.approx(20, rel=0.05)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        noise_std(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="level"):
        noise_std(np.zeros((3, 4)), level=0)
    with pytest.raises(ValueError, match="mask of valid pixels"):
        noise_std(np.zeros((3, 4)), np.ones((4, 3), bool))
