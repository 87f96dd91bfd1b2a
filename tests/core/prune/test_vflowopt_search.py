"""`attn prune calibrate vflowopt` on a tiny model: found, kept, gone on with, refused (methods/vflowopt.md, 3.6)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_vlms import coloured, loaded_vlm, vlm_folder

from attn.core.errors import UsageError
from attn.core.options import OptionError
from attn.core.prune.calibration import CalibrationOptions
from attn.core.prune.data.read import read_samples
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.sites import site_of
from attn.core.prune.methods.base import Keep
from attn.core.prune.options import ModelChoice
from attn.core.prune.vflowopt.calibrate import calibrate_vflowopt, feasible, normalisation, search_box
from attn.core.prune.vflowopt.held_out import against_plain
from attn.core.prune.vflowopt.method import VFlowOpt
from attn.core.prune.vflowopt.objective import LastTokens, cosine
from attn.core.prune.vflowopt.options import FlowOptions
from attn.core.prune.vflowopt.strategy import read_strategy
from attn.core.prune.vlm.ask import prepare

DATA = "shapes:colour:3x4"


def test_found_kept_and_gone_on_with(tmp_path: Path) -> None:
    folder = vlm_folder(tmp_path / "model", "llava padded")
    common = CalibrationOptions(DATA, tmp_path / "s.json", ModelChoice(str(folder)))
    options = FlowOptions(common, keep=0.5, iterations=6, initial=4)
    (item,) = calibrate_vflowopt(options).items
    first = (tmp_path / "s.json").read_bytes()
    found = read_strategy(tmp_path / "s.json")
    assert (found.keep, len(found.split), found.layers) == (0.5, 4, (1, 3))
    assert found.pixel_mean == (0.5,) * 3
    assert item.metrics["cosine"] >= item.metrics["cosine_first"]
    log = tmp_path / "s.search.jsonl"
    lines = log.read_text().splitlines()
    assert len(lines) == 7
    log.write_text("\n".join(lines[:4]) + "\n")  # stopped after three
    (again,) = calibrate_vflowopt(options).items
    assert (tmp_path / "s.json").read_bytes() == first
    assert log.read_text().splitlines() == lines
    assert again.warnings == item.warnings
    log.write_text("\n".join([json.dumps({"other": 1}), *lines[1:]]))
    (other,) = calibrate_vflowopt(options).items
    assert any("begun anew" in warning for warning in other.warnings)
    assert (tmp_path / "s.json").read_bytes() == first

    loaded = loaded_vlm("llava padded")
    kept = Keep(share=0.5)
    method = VFlowOpt(calibration=tmp_path / "s.json")
    site, prepared = site_of(loaded.model), prepare(loaded, [coloured(48, 48)], "what is it")
    with torch.no_grad(), pruned(loaded.model, method.stages(site, kept), site=site) as trace:
        loaded.model(**prepared.inputs)
    assert trace.last.retention() * 36 == pytest.approx(18, abs=1)

    with pytest.raises(UsageError, match="among those that the strategy was found on"):
        against_plain(loaded, found, read_samples(DATA))
    held_out = against_plain(loaded, found, read_samples("shapes:colour:4x3"), seeds=(0,))
    assert list(held_out) == ["all", "optimised", "numbered anew", "plain", "mean attention", "random 0"]
    for name, result in held_out.items():
        assert result.cosine.shape == (3,)
        assert result.retention == pytest.approx(1.0 if name == "all" else 0.5, abs=1 / 36)


def test_nothing_pruned_scores_the_number_of_samples() -> None:
    loaded = loaded_vlm("qwen2.5-vl")
    questions = [prepare(loaded, [coloured(40, 60, seed)], "what is it") for seed in range(3)]
    tokens = LastTokens(loaded, questions)
    whole = VFlowOpt(first=1.0, second=1.0, third=1.0, side=3)
    assert tokens.cosines(whole, Keep(share=1.0)).sum() == 3
    less = tokens.cosines(VFlowOpt(), Keep(share=0.3))
    assert (less < 1).all()
    compared, logits, retention = tokens.compared(VFlowOpt(), Keep(share=0.3))
    assert np.array_equal(compared, less)
    assert logits.shape == tokens.logits.shape
    assert retention == pytest.approx(0.3, abs=0.03)


def test_what_is_no_number_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.isnan(cosine(torch.zeros(1, 3), torch.ones(1, 3))).all()
    loaded = loaded_vlm("llava padded")
    tokens = LastTokens(loaded, [prepare(loaded, [coloured(40, 60)], "what is it")])
    monkeypatch.setattr(tokens, "plain", [(torch.zeros(1, 32), torch.zeros(1, 3))])
    assert tokens.cosines(VFlowOpt(), Keep(share=0.5)).tolist() == [0]


def test_the_box_is_the_released_one_on_its_grid() -> None:
    box = search_box(0.25, 100.0, 27)
    assert box[:4] == [(0, 50), (3, 24), (-1, 1), (0.25, 0.375)]
    assert box[4] == (pytest.approx(0.533, abs=1e-3), 1.0)
    assert search_box(0.25, 2.5, 9)[:2] == [(0, 2.5), (1, 8)]
    assert feasible(0.25, (9, 18), 28, np.array([1, 5, 0, 0.3, 0.8]))
    assert not feasible(0.25, (9, 18), 28, np.array([1, 5, 0, 0.4, 1.0]))  # nothing would be left for stage 3
    assert not feasible(0.25, (9, 18), 28, np.array([1, 5, 0, 0.25, 0.6]))  # the budget would not be spent


def test_normalisation_is_the_processors() -> None:
    assert normalisation(loaded_vlm("llava padded")) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"keep": 1.0}, "below 1"), ({"keep": 144}, "a share"), ({"iterations": 5, "initial": 6}, "are more than")],
)
def test_options_that_cannot_be(settings: dict[str, float], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        FlowOptions(CalibrationOptions(DATA, Path("s.json")), **settings)  # type: ignore[arg-type]
