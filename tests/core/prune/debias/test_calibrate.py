"""`attn prune calibrate debias`: scores are averaged, a trend is fitted and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_vlms import coloured, loaded_vlm, vlm_folder

from attn.core.errors import UsageError
from attn.core.options import OptionError
from attn.core.prune.calibration import CalibrationOptions
from attn.core.prune.data.read import read_samples
from attn.core.prune.debias.calibrate import ScoreMean, calibrate_debias, mean_scores
from attn.core.prune.debias.fitted import read_trend
from attn.core.prune.debias.options import DebiasOptions
from attn.core.prune.named import pruner_of
from attn.core.prune.options import ModelChoice
from attn.core.prune.vlm.ask import prepare


def test_scores_are_those_of_the_unpruned_model() -> None:
    loaded = loaded_vlm("llava padded")
    questions = [prepare(loaded, [coloured(48, 48, seed)], "what is it") for seed in range(3)]
    mean = mean_scores(loaded, pruner_of("fastv", {"layer": 2}), questions)
    assert (mean.count, mean.layer, mean.lengths) == (3, 2, {36})
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            rows = [loaded.model(**q.inputs, output_attentions=True).attentions[1][0, :, -1].mean(0) for q in questions]
    finally:
        loaded.model.set_attn_implementation("sdpa")
    places = (questions[0].inputs["input_ids"][0] == loaded.model.config.image_token_id).nonzero().flatten()
    np.testing.assert_allclose(mean.mean, torch.stack(rows)[:, places].mean(0).numpy(), atol=1e-6)


def test_pictures_of_other_lengths_are_stretched() -> None:
    mean = ScoreMean()
    mean.add(np.full(4, 0.25))
    mean.add(np.full(8, 0.125))
    np.testing.assert_allclose(mean.mean, np.full(4, 0.25))


def test_file_and_report(tmp_path: Path) -> None:
    folder = vlm_folder(tmp_path / "model", "llava padded")
    path = tmp_path / "trend.json"
    common = CalibrationOptions("shapes:colour:3x4", path, ModelChoice(str(folder)), samples=3)
    report = calibrate_debias(DebiasOptions(common, fit="log"))
    (item,) = report.items
    fitted = read_trend(path)
    assert item.metrics["sigma"] == pytest.approx(fitted.trend.sigma)
    assert (fitted.length, fitted.samples, fitted.method, fitted.domain) == (36, 3, "fastv", "log")
    assert any("drawn at random" in warning for warning in item.warnings)
    assert any(warning.startswith("3 pictures: a trend of fewer than 50") for warning in item.warnings)
    samples = read_samples("shapes:colour:3x4")
    pruner = pruner_of("fastv+debias", {"calibration": path})
    with pytest.raises(UsageError, match="3 of the samples are among those that the trend was fitted to"):
        pruner.check_held_out(samples)
    pruner.check_held_out(read_samples("shapes:colour:4x4"))
    with pytest.raises(UsageError, match="random has none"):
        calibrate_debias(DebiasOptions(common, method="random"))
    with pytest.raises(OptionError, match="method alone"):
        DebiasOptions(common, method="fastv+debias")
