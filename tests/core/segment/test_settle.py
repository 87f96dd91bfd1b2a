"""Threshold and calibration after training: those of the predictions that the command would make."""

import numpy as np
import pytest
import torch

from attn.core.segment import settle
from attn.core.segment.base import Prediction
from attn.core.segment.fov import find_fov
from attn.core.segment.fsgnet.checkpoint import FSGNetArchitecture, FSGNetCheckpoint
from attn.core.segment.network import NetworkSegmenter
from attn.core.segment.prepare import Preparation
from attn.core.segment.score.metrics import best_threshold
from attn.core.segment.settle import settled
from attn.core.segment.threshold import Calibration


def test_predictions_on_held_out_photos_settle_scale_threshold_and_calibration(monkeypatch):
    torch.manual_seed(3)
    shape = FSGNetArchitecture(width=2, depths=(1, 1, 1, 1))
    preparation = Preparation(64.0, fine_diameter=70.0)
    checkpoint = FSGNetCheckpoint("mine", shape, preparation, 0.999, shape.build().state_dict(), {"steps": 1})
    generator, photos, triples = np.random.default_rng(0), [], []
    segmenter = NetworkSegmenter(checkpoint, torch.device("cpu"), torch.float32)
    y, x = np.mgrid[:120, :130]
    for _ in range(2):
        inside = (y - 60) ** 2 + (x - 65) ** 2 < 55**2
        pixels = (inside * generator.uniform(0.3, 0.7, (3, 120, 130))).astype(np.float32)
        fov = find_fov(pixels)
        prob = segmenter(pixels, fov).prob
        vessels = generator.random(prob.shape) < 1 / (1 + np.exp(2 - 0.5 * np.log(prob / (1 - prob + 1e-9) + 1e-9)))
        photos.append((pixels, vessels, fov))
        triples.append((prob, vessels, fov.mask))
    found = settled(checkpoint, photos)
    assert found.threshold == best_threshold(triples)
    assert found.calibration != Calibration()
    assert found.calibration.offset == pytest.approx(-2, abs=1)
    assert (found.name, found.training) == ("mine", {"steps": 1})
    assert checkpoint.calibration == Calibration()

    class Finer(NetworkSegmenter):
        """Right where it looks for thin vessels, and only there."""

        def __call__(self, pixels, fov, **options):
            found = super().__call__(pixels, fov, **options)
            truth = next(vessels for image, vessels, _ in photos if image is pixels)
            return found if self.preparation.calibre is None else Prediction(truth.astype(np.float32))

    monkeypatch.setattr(settle, "NetworkSegmenter", Finer)
    finer = settled(checkpoint, photos)
    assert finer.preparation == Preparation(64.0, fine_diameter=70.0, calibre=settle.CALIBRE)
    assert finer.threshold == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="no pixel"):
        settled(checkpoint, [])
