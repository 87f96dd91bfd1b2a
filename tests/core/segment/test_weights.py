"""The weights that ship: they are there, small, and score what tests/benchmarks/segment.md says."""

import json

import numpy as np
import pytest

from attn.core.io import expand_inputs
from attn.core.io.photo.read import read_photo
from attn.core.segment.fov import find_fov, fov_from_mask
from attn.core.segment.fsgnet.checkpoint import read_checkpoint
from attn.core.segment.models import load
from attn.core.segment.network import WEIGHTS
from attn.core.segment.score.metrics import scores

LEAST_F1, LEAST_AUC = 0.80, 0.97


@pytest.mark.parametrize("name", ["fsgnet", "fsgnet-free"])
def test_file_and_card(name):
    path = WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size < 8e6
    card = (WEIGHTS / f"{name}.md").read_text()
    assert f"{path.stat().st_size} bytes" in card
    assert f"{read_checkpoint(path).threshold:.4f}" in card


def test_the_free_weights_saw_free_photos_alone():
    training = {name: read_checkpoint(WEIGHTS / f"{name}.safetensors").training for name in ("fsgnet", "fsgnet-free")}
    assert training["fsgnet"]["data"] == ["DRIVE", "HRF", "FIVES"]
    assert training["fsgnet-free"]["data"] == ["HRF", "FIVES"]
    assert "CC BY 4.0" in (WEIGHTS / "fsgnet-free.md").read_text()


@pytest.mark.parametrize("name", ["fsgnet", "fsgnet-free"])
def test_a_photo_of_another_camera(name):
    """scikit-image's photo, 1411 x 1411: vessels as they are in an eye, where a ridge filter sees them too."""
    (source,) = expand_inputs(["example:retina"])
    pixels = read_photo(source.path).pixels
    fov = find_fov(pixels)
    segmenter = load(name)
    assert segmenter.name == name
    mask = segmenter(pixels, fov).prob >= segmenter.threshold
    assert 0.05 < mask.sum() / fov.mask.sum() < 0.2
    ridge = load("sato")(pixels, fov).prob
    assert ridge[mask].mean() > 2 * ridge[fov.mask & ~mask].mean()


@pytest.mark.slow
def test_scores_on_the_test_half_of_drive(data_dir):
    drive = data_dir / "fundus" / "DRIVE"
    segmenter = load("fsgnet")
    rows = []
    for name in json.loads((drive / "splits.json").read_text())["test"]:
        photo, truth, field = (
            read_photo(drive / part / f"{name}.png", uniform=True).pixels for part in ("images", "manual", "fov")
        )
        fov = fov_from_mask(field[0] > 0.5)
        prob = segmenter(photo, fov).prob
        rows.append(scores(prob, truth[0] > 0.5, fov.mask, threshold=segmenter.threshold))
    assert np.mean([row["f1"] for row in rows]) > LEAST_F1
    assert np.mean([row["auc"] for row in rows]) > LEAST_AUC
