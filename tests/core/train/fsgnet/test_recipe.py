import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn.core.fit import loop as trainer
from attn.core.fit.loop import METRICS, Plan, fit
from attn.core.fit.precision import precision
from attn.core.options import OptionError
from attn.core.segment.fsgnet.network import Outputs, fsgnet
from attn.core.segment.prepare import Preparation
from attn.core.train.fsgnet.augment import CAMERAS, PAPER
from attn.core.train.fsgnet.example import Example, drawn_examples
from attn.core.train.fsgnet.options import FSGNetOptions, complete
from attn.core.train.fsgnet.recipe import CropBatches, FSGNetRecipe, dice_bce, padded

SIDE = 56


def vessels(seed, side=SIDE):
    """Dark lines on a noisy bright disc, with their label."""
    generator = torch.Generator().manual_seed(seed)
    yy, xx = np.mgrid[:side, :side]
    mask = torch.from_numpy((np.hypot(yy - side / 2, xx - side / 2) < side * 0.48).astype(np.float32))
    label = torch.zeros(side, side)
    label[:, 10 + seed : 13 + seed] = label[20 + seed : 22 + seed] = 1
    label *= mask
    pixels = (0.6 + 0.05 * torch.randn(3, side, side, generator=generator) - 0.3 * label).clamp(0, 1) * mask
    return Example(str(seed), torch.cat([pixels, label[None], mask[None]]), pixels[:, mask > 0])


def recipe(seed=1, model=None, held_out=None):
    torch.manual_seed(seed)
    model = model or fsgnet(4, (1, 1, 1, 1))
    batches = CropBatches([vessels(0), vessels(1)], Preparation(), PAPER, 48, 2, seed)
    return FSGNetRecipe(model, batches, held_out or [vessels(2)])


class Oracle(nn.Module):
    """Says what it is told; keeps what it saw."""

    def __init__(self, prob):
        super().__init__()
        self.prob, self.seen = prob, []

    def forward(self, x):
        self.seen.append(x)
        h, w = self.prob.shape
        out = F.pad(self.prob, (0, x.shape[-1] - w, 0, x.shape[-2] - h), value=1.0)[None, None]
        return Outputs(out, 1 - out, torch.zeros_like(out))


def test_loss_by_hand_and_over_the_whole_batch():
    target = torch.tensor([1.0, 0, 0, 1]).reshape(2, 1, 1, 2)
    prob = torch.tensor([0.8, 0.1, 0.3, 0.6]).reshape(2, 1, 1, 2)
    entropy = -(math.log(0.8) + math.log(0.9) + math.log(0.7) + math.log(0.6)) / 4
    dice = (2 * 1.4 + 1) / (1.8 + 2 + 1)  # one Dice for the batch, not one per image
    expected = entropy + 1 - dice
    assert float(dice_bce([prob], target)) == pytest.approx(expected, abs=1e-6)
    perfect = float(dice_bce([target], target))
    assert perfect == pytest.approx(0, abs=1e-6)
    assert float(dice_bce([prob, target, target], target)) == pytest.approx(expected / 3, abs=1e-6)


def test_loss_of_an_empty_label_is_finite():
    zeros = torch.zeros(1, 1, 4, 4)
    assert float(dice_bce([zeros], zeros)) == 0
    assert math.isfinite(float(dice_bce([torch.ones(1, 1, 4, 4)], zeros)))


@pytest.mark.parametrize(("size", "expected"), [((48, 48), (48, 48)), ((49, 63), (56, 64)), ((5, 100), (48, 104))])
def test_padding_goes_to_bottom_and_right(size, expected):
    x = torch.rand(1, 3, *size)
    out = padded(x)
    assert out.shape[-2:] == expected
    assert torch.equal(out[..., : size[0], : size[1]], x)
    assert float(out.sum()) == pytest.approx(float(x.sum()), rel=1e-5)


def test_loss_reaches_every_weight_and_repeats():
    one = recipe()
    one.model.train()
    losses = []
    for _ in range(2):
        torch.manual_seed(0)  # DropBlock
        losses.append(one.loss(3))
    assert torch.equal(losses[0], losses[1])
    losses[0].backward()
    without = [name for name, p in one.model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


def test_mixed_precision_changes_the_network_and_not_the_views():
    one = recipe()
    one.batches = replace(one.batches, augmentation=CAMERAS)
    plain = one.batches(4)
    seen = []
    one.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with precision("bf16", torch.device("cpu")):
        loss = one.loss(4)
    assert loss.dtype == torch.float32
    assert torch.equal(seen[0], plain[0])


def test_perfect_prediction_scores_one_inside_the_field_of_view():
    photo = vessels(2)
    oracle = Oracle(torch.where(photo.fov, 0.1 + 0.7 * photo.layers[3], 1.0))  # wrong outside: must not count
    found = recipe(model=oracle, held_out=[photo]).evaluate(oracle)
    assert {name: found[name] for name in ("f1", "auc", "sensitivity", "specificity", "accuracy")} == pytest.approx(
        dict.fromkeys(("f1", "auc", "sensitivity", "specificity", "accuracy"), 1.0)
    )
    assert 0.1 < found["threshold"] < 0.8
    assert oracle.seen[0].shape == (1, 3, SIDE, SIDE)
    assert not oracle.seen[0][0][:, ~photo.fov].any()


def test_scores_are_means_over_photos_at_one_threshold():
    photos = [vessels(2), vessels(4)]
    oracle = Oracle(torch.where(photos[0].fov, 0.1 + 0.7 * photos[0].layers[3], 0.0))
    each = [recipe(model=oracle, held_out=[photo]).evaluate(oracle) for photo in photos]
    both = recipe(model=oracle, held_out=photos).evaluate(oracle)
    assert both["auc"] == pytest.approx((each[0]["auc"] + each[1]["auc"]) / 2)
    assert each[1]["auc"] < 0.95


def test_scores_are_taken_at_the_photos_own_size_and_told_per_data_set():
    photo = vessels(2)
    twice = [x[None, None].float() for x in (photo.layers[3], photo.layers[4])]
    label, fov = (F.interpolate(x, scale_factor=2.0, mode="nearest")[0, 0] > 0.5 for x in twice)
    native = replace(photo, native=(label, fov), group="large")
    oracle = Oracle(0.1 + 0.7 * photo.layers[3])
    both = recipe(model=oracle, held_out=[native, replace(photo, group="small")]).evaluate(oracle)
    assert both["f1 small"] == pytest.approx(1)
    assert both["f1 large"] > 0.97  # magnified smoothly, thresholded where nearest pixels change
    wrong = recipe(model=oracle, held_out=[replace(native, native=(~label & fov, fov))]).evaluate(oracle)
    assert wrong["auc"] < 0.05
    assert "f1 large" not in wrong  # one set: nothing to tell apart


def test_odd_photos_are_padded_and_cut_back():
    photo = vessels(2, side=51)
    oracle = Oracle(0.1 + 0.7 * photo.layers[3])
    assert recipe(model=oracle, held_out=[photo]).evaluate(oracle)["f1"] == pytest.approx(1)
    assert oracle.seen[0].shape[-2:] == (56, 56)


def test_held_out_photos_are_only_looked_at_in_evaluation(monkeypatch):
    one = recipe()
    assert not {photo.name for photo in one.held_out} & {photo.name for photo in one.batches.examples}
    looked = []
    view = CropBatches._view
    monkeypatch.setattr(
        CropBatches, "_view", lambda self, draw, i: (looked.append(self.examples[i].name), view(self, draw, i))[1]
    )
    for step in range(4):
        one.batches(step)
    assert set(looked) == {"0", "1"}


def test_a_resumed_run_of_the_real_network_is_bit_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    plan = Plan(steps=4, warmup=1, learning_rate=2e-3, evaluate_every=2)
    whole = recipe()
    fit(whole, plan, tmp_path / "whole")

    def stop(step, steps, metrics):
        if step == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(recipe(), plan, tmp_path / "run", progress=stop)
    resumed = recipe()
    resumed.model.load_state_dict({k: torch.zeros_like(v) for k, v in resumed.model.state_dict().items()})
    fit(resumed, plan, tmp_path / "run")
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (place / METRICS).open()]
        for place in (tmp_path / "whole", tmp_path / "run")
    ]
    assert rows[0] == rows[1]
    assert rows[0][0].keys() >= {"step", "loss", "f1", "auc", "threshold"}


def test_drawn_photos_have_vessels_that_are_darker_and_repeat():
    first, second = drawn_examples(2, 7, Preparation(fov_diameter=120.0))
    assert torch.equal(first.layers, drawn_examples(1, 7, Preparation(fov_diameter=120.0))[0].layers)
    assert not torch.equal(first.layers, second.layers)
    assert max(first.layers.shape[1:]) == pytest.approx(120, abs=3)
    for example in (first, second):
        label, fov = example.truth
        assert 0.03 < float(label[fov].float().mean()) < 0.35
        assert not label[~fov].any()
        green = example.layers[1]
        assert float(green[label].mean()) < 0.9 * float(green[fov & ~label].mean())


def test_what_is_left_open_depends_on_the_data():
    drawn, photos = (complete(FSGNetOptions(Path("run"), data=data)) for data in ("synthetic", "DRIVE"))
    assert (drawn.steps, drawn.warmup, drawn.crop) == (200, 20, 96)
    assert (photos.steps, photos.warmup, photos.crop) == (3000, 100, 256)
    assert complete(FSGNetOptions(Path("run"), crop=48)).crop == 48
    with pytest.raises(OptionError, match="warmup: 20 steps leave nothing of steps 20"):
        FSGNetOptions(Path("run"), steps=20)
