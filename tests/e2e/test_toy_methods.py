"""Adding a method is a module and one registry row: the command, its lists, completion and comparison then know it."""

import json
import sys
import types

import numpy as np
import pytest

from attn.core.catalogue import complete, registry
from attn.core.registry import Method
from attn.core.segment.base import Prediction

ROW = {"summary": "a toy", "paper": "this test", "year": 2026}


class HalfFilter:
    """Half of every pixel."""

    parameters, steps, settings = 1, 0, {}

    def __call__(self, image):
        return image / 2


def fit(image, options, progress=None):
    return HalfFilter()


class BrightSegmenter:
    """What is bright is a vessel."""

    parameters, threshold, calibration = 0, 0.5, None

    def __init__(self, name, device, dtype):
        self.name = name

    def __call__(self, pixels, fov, *, tta=False, tile=None, attention=False):
        return Prediction(np.where(fov.mask, pixels[0], 0).astype(np.float32))


@pytest.fixture
def toys(monkeypatch):
    """A module of somebody's own with a denoiser and a segmenter, and a row for each."""
    module = types.ModuleType("toy_methods")
    module.fit, module.Bright = fit, BrightSegmenter
    monkeypatch.setitem(sys.modules, "toy_methods", module)
    with (
        registry("denoise").extended(Method("toy", home="toy_methods:fit", **ROW)),
        registry("segment").extended(Method("toy", home="toy_methods:Bright", device="cpu", options=(), **ROW)),
    ):
        yield


@pytest.fixture
def scan(tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((16, 12), np.float32))


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "eye.png")


def test_a_toy_denoiser(cli, toys, scan, tmp_path):
    ran = cli("denoise", "scan.npy", "--method", "toy", "-o", "out.npy", "--json")
    assert ran.code == 0, ran.stderr
    assert ran.report["arguments"]["method"] == "toy"
    source, out = np.load(tmp_path / "scan.npy"), np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(out - source.min(), (source - source.min()) / 2, atol=1e-5)
    ran = cli("denoise", "scan.npy", "-m", "toy", "--strength", "2")
    assert ran.code == 2
    assert "--strength works with --method adaptive or filter2noise only, not with toy" in ran.stderr


def test_a_toy_denoiser_is_compared(cli, toys, scan):
    ran = cli("denoise", "scan.npy", "-m", "tv", "--compare", "--steps", "1", "-o", "out.npy", "--json")
    assert ran.code == 0, ran.stderr
    assert [row["method"] for row in ran.report["summary"]["comparison"]][-1] == "toy"


def test_a_toy_segmenter(cli, toys, photo):
    ran = cli("segment", "eye.png", "-m", "toy", "--fov", "none", "--compare", "sato", "--json")
    assert ran.code == 0, ran.stderr
    assert [row["method"] for row in ran.report["items"][0]["details"]["comparison"]] == ["toy", "sato"]
    ran = cli("segment", "eye.png", "-m", "toy", "--save-attention")
    assert ran.code == 2
    assert "toy has no attention maps" in ran.stderr
    assert cli("segment", "eye.png", "--fov", "none", "-m", "sato", "--compare", "toy", "--overwrite").code == 0


@pytest.mark.parametrize("command", ["denoise", "segment"])
def test_a_toy_is_listed_and_completed(cli, toys, command):
    assert json.loads(cli(command, "--list", "--json").stdout)[-1]["method"] == "toy"
    assert command in {row["command"] for row in json.loads(cli("methods", "--json").stdout) if row["method"] == "toy"}
    assert ("toy", "a toy") in complete(command)("to")


def test_it_is_gone_afterwards():
    with pytest.raises(KeyError, match="inner"), registry("denoise").extended(Method("toy", home="a:b", **ROW)):
        raise KeyError("inner")
    assert "toy" not in registry("denoise")
    with pytest.raises(ValueError, match="registered twice"):
        with registry("denoise").extended(Method("toy", home="a:b", **ROW), Method("tv", home="a:b", **ROW)):
            pass
    assert "toy" not in registry("denoise")
