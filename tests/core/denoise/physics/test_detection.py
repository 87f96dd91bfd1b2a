import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from attn.core.denoise.phantoms.phantom import Insert
from attn.core.denoise.physics.detection import Detector
from attn.core.denoise.physics.edges import distance

DISC = Insert(40.0, 41.0, 6.0, -12.0)


def truth(side: int = 160, contrast: float = -12.0) -> np.ndarray:
    image = np.full((side, side), 40.0)
    image[distance(image.shape, DISC.row, DISC.column) <= DISC.radius] += contrast
    return gaussian_filter(image, 0.8)


def scans(count: int, std: float = 10.0, width: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((count, 160, 160))
    noise = gaussian_filter(noise, (0, width, width), mode="wrap") if width else noise
    return truth() + noise * (std / noise.std())


def test_without_noise_the_contrast_is_the_truth() -> None:
    seen = Detector(truth(), DISC)(truth()[None])
    assert seen.contrast == pytest.approx(Detector(truth(), DISC).contrast, rel=1e-12)  # sums in another order
    assert seen.contrast == pytest.approx(-12, abs=0.3)  # its blur reaches its core
    assert seen.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("width", [0.0, 1.0])
def test_contrast_and_its_error(width: float) -> None:
    """The standard error is what the contrast of many scans varies by."""
    detector = Detector(truth(), DISC)
    alone = [detector(scan[None]) for scan in scans(60, width=width)]
    contrasts = [seen.contrast for seen in alone]
    assert np.mean(contrasts) == pytest.approx(detector.contrast, abs=0.8)
    assert np.mean([seen.error for seen in alone]) == pytest.approx(np.std(contrasts), rel=0.25)
    together = detector(scans(60, width=width))
    assert together.contrast == pytest.approx(np.mean(contrasts))
    assert together.error == pytest.approx(np.mean([seen.error for seen in alone]) / math.sqrt(60), rel=0.05)


def test_contrast_over_noise() -> None:
    seen = Detector(truth(), DISC)(scans(60))
    assert seen.cnr == pytest.approx(12 / 10, rel=0.1)  # positive: it looks as it is
    assert Detector(truth(), DISC)(80 - scans(60)).cnr == pytest.approx(-12 / 10, rel=0.1)


def test_the_observer_in_white_noise_is_the_matched_filter() -> None:
    """There prewhitening changes nothing: d' = |what the disc adds| / noise, less the surroundings' own noise."""
    detector = Detector(truth(), DISC)
    added = truth() - 40.0
    ideal = math.sqrt(float((added**2).sum())) / 10
    ring = distance((160, 160), 40, 41)
    pixels = np.count_nonzero((ring > 8) & (ring <= 12))
    ideal /= math.sqrt(1 + float(added.sum()) ** 2 / float((added**2).sum()) / pixels)
    assert detector(scans(60)).d_prime == pytest.approx(ideal, rel=0.05)


def test_one_scan_gives_d_prime_to_one() -> None:
    detector = Detector(truth(), DISC)
    assert np.std([detector(scan[None]).d_prime for scan in scans(60, width=1.0)]) == pytest.approx(1, rel=0.25)


def test_smoothing_raises_the_cnr_and_not_what_can_be_told() -> None:
    """What a linear filter does: the observer could have done it by itself."""
    detector, noisy = Detector(truth(), DISC), scans(60)
    smooth = gaussian_filter(noisy, (0, 2, 2))
    before, after = detector(noisy), detector(smooth)
    assert after.cnr > 4 * before.cnr
    assert after.d_prime < 1.1 * before.d_prime


def test_without_room() -> None:
    with pytest.raises(ValueError, match="leave the image"):
        Detector(truth(), Insert(8, 41, 6, -12))


def test_without_a_uniform_place() -> None:
    texture = truth() + np.random.default_rng(0).standard_normal((160, 160))
    seen = Detector(texture, DISC)(texture[None])
    assert math.isnan(seen.error)
    assert math.isnan(seen.d_prime)
    assert seen.contrast == pytest.approx(-12, abs=1)
