"""Early exit: whose answer is given, what it costs, and the threshold that is found (methods/sgl.md, 3.3 and 11.6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_vlms import coloured, loaded_vlm, vlm_folder

from attn.core.errors import InputError, UsageError
from attn.core.options import OptionError
from attn.core.prune.api import prune
from attn.core.prune.calibration import CalibrationOptions
from attn.core.prune.data.read import read_samples
from attn.core.prune.engine.sites import site_of
from attn.core.prune.methods.base import Keep
from attn.core.prune.options import ModelChoice
from attn.core.prune.sgl.agreement import LayerAgreement
from attn.core.prune.sgl.calibrate import calibrate_sgl
from attn.core.prune.sgl.early import EarlyExit
from attn.core.prune.sgl.fitted import FittedExit, read_exit, write_exit
from attn.core.prune.sgl.guide import consistencies, consistency, decisions_of, run_guide
from attn.core.prune.sgl.options import ExitOptions
from attn.core.prune.sgl.pruner import SGL
from attn.core.prune.sgl.tradeoff import ALWAYS, exit_tradeoff
from attn.core.prune.vlm.ask import answer, batch, prepare

QUESTION = "what colour is it"


def pair(threshold: float, name: str = "llava padded") -> EarlyExit:
    return EarlyExit(loaded_vlm(name, 1), loaded_vlm(name), Keep(share=0.5), threshold, max_new_tokens=4)


def test_who_answers_and_how_often_each_is_called() -> None:
    pictures = [coloured(48, 48, seed) for seed in range(3)]
    never, always = pair(0.0), pair(1.01)
    for picture in pictures:
        assert never([picture], QUESTION).by == "guide"
        assert always([picture], QUESTION).by == "large"
    assert never.calls == {"guide": 3, "large": 0}
    assert always.calls == {"guide": 3, "large": 3}


def test_answers_are_those_of_each_model() -> None:
    picture = coloured(48, 48)
    small = pair(0.0)([picture], QUESTION)
    guide, large = loaded_vlm("llava padded", 1), loaded_vlm("llava padded")
    assert small.text == answer(guide, prepare(guide, [picture], QUESTION), max_new_tokens=4).text
    assert 0 < small.guide.decision < small.guide.run.confidence()
    prepared = prepare(large, [picture], QUESTION)
    with prune(large, "sgl", 0.5, guide=guide, guide_tokens=4):
        pruned = answer(large, prepared, max_new_tokens=4).text
    assert pair(1.01)([picture], QUESTION).text == pruned


def test_the_command_is_told_whether_the_large_model_was_needed() -> None:
    large, guide = loaded_vlm("llava padded"), loaded_vlm("llava padded", 1)
    prepared = prepare(large, [coloured(48, 48)], QUESTION)
    wanted = pair(1.0)([coloured(48, 48)], QUESTION).guide
    for threshold, taken in ((0.0, True), (1.0, False)):
        with prune(large, "sgl", 0.5, guide=guide, guide_tokens=4, early_exit=threshold) as trace:
            answer(large, prepared, max_new_tokens=1)
        (offer,) = trace.last.offers
        assert (offer.text, offer.taken, offer.threshold) == (wanted.text, taken, threshold)
        assert offer.decision == pytest.approx(wanted.decision)


@pytest.mark.parametrize("name", ["llava padded", "qwen2-vl", "smolvlm"])
def test_decisions_in_a_batch_are_those_of_each_prompt(name: str) -> None:
    """Also of answers of different lengths: the second of them ends early."""
    guide = loaded_vlm(name, 1)
    site = site_of(guide)
    single = [prepare(guide, [coloured(48, 48, seed)], text) for seed, text in ((0, QUESTION), (1, "what"))]
    runs = [run_guide(site, one.inputs, max_new_tokens=4) for one in single]
    wanted = [decisions_of(site, one.inputs, run)[0] for one, run in zip(single, runs, strict=True)]
    together = batch(guide, single).inputs
    run = run_guide(site, together, max_new_tokens=4)
    assert decisions_of(site, together, run) == pytest.approx(wanted, rel=1e-4)
    answers, scores = [run.ids[0], run.ids[1][:1]], run.received.importance()
    keep = Keep(share=0.5)
    found = consistencies(site, together, answers, scores, keep=keep)
    alone = [
        consistency(site, one.inputs, *rest, keep=keep) for one, *rest in zip(single, answers, scores, strict=True)
    ]
    assert found == pytest.approx(alone, rel=1e-4)


def test_pairs_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="the large model itself"):
        EarlyExit(loaded_vlm("llava"), loaded_vlm("llava"))
    other = EarlyExit(loaded_vlm("llava"), loaded_vlm("qwen2-vl"), threshold=1.01)
    with pytest.raises(UsageError, match=r"it has 36 visual tokens .* large model has \d+"):
        other([coloured(48, 64)], QUESTION)
    with pytest.raises(UsageError, match=r"early_exit: -0\.5 is no threshold"):
        SGL(early_exit=-0.5)


def test_tradeoff() -> None:
    found = exit_tradeoff([0.2, 0.9, 0.6, 0.6], guide=[0, 1, 1, 0], large=[1, 1, 1, 1])
    np.testing.assert_allclose(found.thresholds, [0, 0.2, 0.6, 0.9, ALWAYS])
    np.testing.assert_allclose(found.shares, [0, 0, 0.25, 0.75, 1])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.5, 0.75, 1, 1])
    assert found.threshold_for(0.25) == (0.6, 0.25)
    assert found.threshold_for(1) == (ALWAYS, 1)
    assert found.threshold_for(0) == (0, 0)
    assert found.threshold_for(0.7) == (0.9, 0.75)  # as near as can be
    assert list(found.curve().axis) == found.shares.tolist()
    assert np.isnan(exit_tradeoff([0.1, 0.2]).accuracy).all()


def test_agreement_of_layers() -> None:
    large, guide = loaded_vlm("llava"), loaded_vlm("llava", 1)
    inputs = prepare(large, [coloured(48, 48)], QUESTION).inputs
    whole, small = (run_guide(site_of(model), inputs, max_new_tokens=2) for model in (large, guide))
    agreement = LayerAgreement()
    agreement.add(small, whole)
    agreement.add(whole, whole)
    rows = {row["source"]: row for row in agreement.table().rows()}
    assert set(rows) == {"guide", *(f"{name} layer {layer}" for name in ("guide", "large") for layer in range(4))}
    assert agreement.ranks["guide"][1] == pytest.approx(1)
    assert agreement.shared["guide"][1] == 1
    assert -1 <= rows["large layer 0"]["spearman"] < 1


def test_file_and_report(tmp_path: Path) -> None:
    large, small = (vlm_folder(tmp_path / str(seed), "llava padded", seed) for seed in range(2))
    path = tmp_path / "exit.json"
    common = CalibrationOptions("shapes:colour:3x5", path, ModelChoice(str(large)))
    report = calibrate_sgl(ExitOptions(common, str(small), share=0.4, agreement=True, max_new_tokens=3))
    (item,) = report.items
    fitted = read_exit(path)
    with pytest.raises(UsageError, match="5 of the samples are among those that the threshold was found on"):
        SGL(early_exit=path).check_held_out(read_samples("shapes:colour:3x5"))
    SGL(early_exit=path).check_held_out(read_samples("shapes:colour:4x5"))
    assert fitted.reached == item.metrics["large_calls"] == pytest.approx(0.4)
    assert {section.name for section in item.sections} == {"early_exit", "layer_agreement"}
    with pytest.raises(OptionError, match="guide: no model named"):
        calibrate_sgl(ExitOptions(common, "nowhere"))
    with pytest.raises(OptionError, match="guide: name a smaller model"):
        ExitOptions(common)
    assert ExitOptions(CalibrationOptions("shapes:colour:3x5", path)).small == "shapes-guide"


def test_files_that_are_no_calibration(tmp_path: Path) -> None:
    path = tmp_path / "exit.json"
    fitted = FittedExit(0.7, 0.3, 0.31, "a", "b", ("c", "d"), 10, 5, "e", "f", ("ab",))
    write_exit(path, fitted)
    assert read_exit(path) == fitted
    assert not fitted.differences(("c", "d"), 10)
    assert not fitted.differences(("", ""), 10)
    model, guide, longest = fitted.differences(("x", "y"), 4)
    assert "other weights of the model, those of a" in model
    assert "other weights of the guide, those of b" in guide
    assert "10 tokens at most, not 4" in longest
    for text in ("{}", '{"kind": "attn prune sgl", "threshold": 1}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"exit\.json"):
            read_exit(path)
