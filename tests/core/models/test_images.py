"""Preparation of photos against Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import UsageError
from attn.core.models.images import ImagePreparation

PLAIN = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def photo(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(height * width)
    # neither very dark nor very bright: Pillow clips what bicubic weights overshoot after each axis, torch at the end
    return generator.integers(70, 190, (3, height, width)).astype(np.float32) / 255


def pillow(image: np.ndarray, size: tuple[int, int], mode: Image.Resampling) -> np.ndarray:
    picture = Image.fromarray((image.transpose(1, 2, 0) * 255).round().astype(np.uint8))
    return np.asarray(picture.resize(size[::-1], mode), np.float32).transpose(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("mode", "resampling"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
@pytest.mark.parametrize("shape", [(97, 61), (20, 200), (32, 32)])
def test_squash_resizes_as_pillow_does(shape: tuple[int, int], mode: Any, resampling: Image.Resampling) -> None:
    image = photo(*shape)
    out = ImagePreparation((32, 48), fit="squash", mode=mode, **PLAIN)(image).numpy()
    assert np.abs(out - pillow(image, (32, 48), resampling)).max() <= 2.1 / 255  # Pillow rounds twice


def test_crop_covers_and_cuts_the_middle() -> None:
    image = photo(90, 60)
    out = ImagePreparation((32, 32), fit="crop", cover=40, **PLAIN)(image).numpy()
    whole = pillow(image, (60, 40), Image.Resampling.BICUBIC)
    assert np.abs(out - whole[:, 14:46, 4:36]).max() <= 2.1 / 255


def test_small_cover_is_padded_with_black() -> None:
    out = ImagePreparation((8, 8), fit="crop", cover=4, **PLAIN)(np.ones((3, 4, 4), np.float32)).numpy()
    assert out[:, 2:6, 2:6].min() == 1
    assert out.sum() == 3 * 16


def test_normalises() -> None:
    out = ImagePreparation((4, 4), (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), "squash")(np.ones((3, 4, 4), np.float32)).numpy()
    assert np.allclose(out[:, 0, 0], [1, 3, 1])


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (4, 4, 3), (3, 0, 4)])
def test_other_arrays(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a photo is \[3, H, W\]"):
        ImagePreparation((4, 4), **PLAIN)(np.zeros(shape, np.float32))


def test_configurations_of_transformers() -> None:
    base = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    squash = ImagePreparation.of_transformers(base | {"size": {"height": 8, "width": 9}, "resample": 2})
    assert (squash.size, squash.fit, squash.mode) == ((8, 9), "squash", "bilinear")
    crop = ImagePreparation.of_transformers(base | {"size": 10, "crop_size": 8})
    assert (crop.size, crop.fit, crop.cover, crop.mode) == ((8, 8), "crop", 10, "bicubic")
    with pytest.raises(UsageError, match="8-bit RGB"):
        ImagePreparation.of_transformers(base | {"size": 10, "rescale_factor": 1.0})
