"""The public library: cheap to import, complete, documented, and each part a simple call on arrays or paths."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import attn
from attn.core.catalogue import registry
from attn.core.errors import InputError, UsageError
from attn.core.io.photo.arrays import photo_pixels
from attn.core.registry import Method


def test_importing_it_is_cheap():
    code = (
        "import sys, attn; heavy = {'torch', 'numpy'} & set(sys.modules); dir(attn);"
        "sys.exit(bool(heavy or {'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_it_offers_is_there_and_documented():
    assert set(attn.__all__) <= set(dir(attn))
    for name in set(attn.__all__) - {"__version__"}:
        function = getattr(attn, name)
        assert callable(function)
        assert inspect.getdoc(function)
    with pytest.raises(AttributeError, match="no attribute 'sharpen'"):
        attn.sharpen  # noqa: B018
    for folder in ("cli", "core", "kernels"):
        assert folder not in attn.__all__


def test_read_denoise_write(tmp_path):
    noisy = np.random.default_rng(0).normal(100, 20, (24, 20)).astype(np.float32)
    np.save(tmp_path / "scan.npy", noisy)
    attn.write(tmp_path / "clean.npy", attn.denoise(attn.read(tmp_path / "scan.npy"), "tv").pixels)
    assert attn.read(tmp_path / "clean.npy").std() < noisy.std()


def test_attention():
    import torch

    q, k, v = torch.randn(3, 1, 2, 40, 16).unbind()
    assert "dense" in attn.operators()
    assert attn.attention("dense", q, k, v, causal=True).shape == (1, 2, 40, 16)


def photo():
    """A disc with one dark vessel down its middle."""
    rows, columns = np.mgrid[:240, :240]
    disc = (rows - 120) ** 2 + (columns - 120) ** 2 < 110**2
    green = np.where(disc & (abs(columns - 120) > 1), 150, 60 * disc).astype(np.uint8)
    return np.stack([green, green, green], -1), disc


def test_segment_takes_arrays_and_paths(tmp_path):
    from PIL import Image

    pixels, disc = photo()
    vessels = attn.segment(pixels, "sato", fov=disc, device="cpu")
    assert vessels.mask.shape == vessels.prob.shape == (240, 240)
    assert vessels.mask[90:150, 119:122].mean() > 0.5
    assert not vessels.mask[~disc].any()
    assert not vessels.prob[~disc].any()
    assert (vessels.model, vessels.threshold, vessels.threshold_from) == ("sato", 0.5, "model")
    Image.fromarray(pixels).save(tmp_path / "eye.png")
    with pytest.warns(UserWarning, match=r"eye\.png: grey: its one channel"):
        of_file = attn.segment(tmp_path / "eye.png", "sato", fov=disc)
    assert np.array_equal(of_file.mask, vessels.mask)
    np.testing.assert_allclose(of_file.prob, vessels.prob, atol=1e-5)
    assert np.array_equal(attn.segment(pixels / 255, "sato", fov=disc).mask, vessels.mask)
    strict = attn.segment(pixels, "sato", fov=disc, threshold=0.9)
    assert strict.mask.sum() < vessels.mask.sum()


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((3, 40, 40)), {}, "Move the channels last"),
        (np.full((40, 40), 7.0), {}, r"values in \[0, 1\], this one 7 to 7"),
        (np.full((40, 40), np.nan), {}, r"values in \[0, 1\]"),
        (np.zeros((40, 40), np.int16), {}, "not int16"),
        (np.zeros((40, 40)), {"model": "satto"}, "Did you mean sato"),
        (np.zeros((40, 40)), {"fov": "circle"}, "neither auto, none nor an array"),
        (np.zeros((40, 40)), {"fov": np.ones((3, 3))}, r"its shape is \(3, 3\)"),
        (np.zeros((40, 40)), {"threshold": 1.0}, "threshold: 1 is no probability"),
        (np.zeros((40, 40)), {"threshold": None}, "threshold: None is neither auto, model nor a number"),
        (np.zeros((40, 40)), {"threshold": "otsu"}, "threshold: 'otsu' is neither"),
        (np.zeros((40, 40)), {"model": "unet"}, "attn train fsgnet --trunk unet"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_segment_refuses(image, options, message):
    with pytest.raises(ValueError, match=message):
        attn.segment(image, **{"model": "sato", "fov": "none", **options})


def test_photos_of_any_dtype_are_the_same():
    grey = np.array([[0, 51], [102, 255]], np.uint8)
    for same in (grey, grey.astype(np.uint16) * 257, grey / 255, grey[..., None]):
        assert photo_pixels(same).shape == (3, 2, 2)
        assert photo_pixels(same).dtype == np.float32
        np.testing.assert_allclose(photo_pixels(same), np.stack([grey / 255] * 3), atol=1e-6)


class Encoder:
    """Length and side of a text, mean and width of a photo."""

    fingerprint = SimpleNamespace(dim=2, temperature=1.0, model="toy")

    def encode_texts(self, texts, *, side="document"):
        return SimpleNamespace(vectors=np.array([[len(text), side == "query"] for text in texts], np.float32))

    def encode_images(self, images):
        return SimpleNamespace(vectors=np.array([[image.mean(), image.shape[2]] for image in images], np.float32))


@pytest.fixture
def toy(monkeypatch):
    from attn.core.retrieve import api

    loads = []
    monkeypatch.setattr(api, "load", lambda name, **given: loads.append((name, given)) or Encoder())
    api._loaded.cache_clear()
    yield loads
    api._loaded.cache_clear()


def test_encode(toy, tmp_path):
    from PIL import Image

    Image.new("RGB", (5, 4), "white").save(tmp_path / "white.png")
    black = np.zeros((4, 7, 3), np.uint8)
    mixed = attn.encode(["four", black, tmp_path / "white.png", "a"], "toy", side="query")
    assert mixed.tolist() == [[4, 1], [0, 7], [1, 5], [1, 1]]
    assert attn.encode("four", "toy").tolist() == [4, 0]
    assert attn.encode(black, "toy").tolist() == [0, 7]
    assert attn.encode([], "toy").shape == (0, 2)
    assert [name for name, _ in toy] == ["toy"]  # kept for the next call
    attn.encode("four", "toy", temperature=0.5, allow_download=True)
    assert toy[1][1]["temperature"] == 0.5
    assert toy[1][1]["allow_download"]
    with pytest.raises(InputError):
        attn.encode(tmp_path / "gone.png", "toy")


def test_encode_without_such_a_model():
    with pytest.raises(UsageError, match="no model named"):
        attn.encode("a", "no-such-model")


def halve(image, options, progress=None):
    return lambda noisy: noisy / 2


def test_a_toy_is_in_the_library():
    """A row of the registry is all that a method of one's own needs."""
    row = Method("toy", home=f"{__name__}:halve", summary="a toy", paper="this test", year=2026)
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    with registry("denoise").extended(row):
        np.testing.assert_allclose(attn.denoise(image, "toy").pixels, image / 2, atol=1e-6)
