"""The checks of maps on known answers: what must be green is, and what learned nothing is red."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import build
from torch import Tensor, nn

from attn.core.errors import UsageError
from attn.core.probe.trust.likeness import cosine, mean_agreement, spearman
from attn.core.probe.trust.lines import UNTRAINED, line, removal_line, seeds_line, stands_out, weights_line
from attn.core.probe.trust.randomised import cascade, layers_of, randomised
from attn.core.probe.trust.removal import deletion_insertion


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in one)


@pytest.mark.parametrize("name", ["vit", "dinov2 with registers", "siglip"])
def test_weights_are_drawn_and_come_back_to_the_bit(name: str) -> None:
    model: Any = build(name)
    before, pixels = weights(model), torch.randn(1, 3, 16, 16)
    identities = [id(parameter) for parameter in model.parameters()]
    with torch.no_grad():
        trained = model(pixels).last_hidden_state
        with randomised(model, 3):
            drawn = weights(model)
            assert not torch.allclose(model(pixels).last_hidden_state, trained)
        with pytest.raises(KeyboardInterrupt), randomised(model, 3):
            raise KeyboardInterrupt
        assert same(weights(model), before)
        with randomised(model, 3):
            assert same(weights(model), drawn)
        with randomised(model, 4):
            assert not same(weights(model), drawn)
    assert same(weights(model), before)
    assert identities == [id(parameter) for parameter in model.parameters()]
    matrix = next(key for key, value in before.items() if value.ndim == 2 and value.numel() > 200)
    assert float(drawn[matrix].std()) == pytest.approx(float(before[matrix].std()), rel=0.2)


def test_the_cascade_goes_from_the_top_down() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    before = weights(model)
    with cascade(model, 0) as layers:
        assert next(layers) == "3"
        half = weights(model)
        assert torch.equal(half["2.weight"], before["2.weight"])
        assert not torch.equal(half["3.weight"], before["3.weight"])
        assert list(layers) == ["2", "0"]
        assert not torch.equal(model[0].weight, before["0.weight"])
    assert same(weights(model), before)
    names = ["cls", "patch.weight", "blocks.0.a.weight", "blocks.0.b.bias", "blocks.1.a.weight", "head.weight"]
    assert list(layers_of(names)) == ["", "patch", "blocks.0", "blocks.1", "head"]


def test_what_cannot_be_drawn() -> None:
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.bias)
    with randomised(model, 0):
        assert not model.bias.any()  # a constant stays
    model.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match=r"weight is torch.int8"), randomised(model, 0):
        pass


def test_likeness_of_known_maps() -> None:
    ramp = np.arange(12.0).reshape(3, 4)
    assert spearman(ramp, ramp**3) == pytest.approx(1)
    assert spearman(ramp, -ramp) == pytest.approx(-1)
    assert spearman(np.array([1, 2, 2, 3.0]), np.array([1, 3, 3, 2.0])) == pytest.approx(1 / 3)
    assert cosine(ramp, 2 * ramp) == pytest.approx(1)
    assert cosine(np.array([1.0, 0]), np.array([0, 1.0])) == 0
    assert np.isnan(spearman(ramp, np.ones((3, 4))))
    assert spearman(np.array([1, 2, np.nan, 3]), np.array([1, 2, 9.0, 3])) == pytest.approx(1)
    assert mean_agreement([ramp, ramp, np.ones((3, 4))]) == pytest.approx(1 / 3)


def test_deletion_and_insertion_of_a_score_that_is_a_sum() -> None:
    """Cells add what they hold: the areas are those of sorted sums, and the true map is the best order."""
    share = np.array([[0.4, 0.1], [0.3, 0.2]])
    pixels = torch.tensor(share, dtype=torch.float32).repeat_interleave(2, 0).repeat_interleave(2, 1)[None] / 4

    def predict(pictures: Tensor) -> Tensor:
        return pictures.sum((1, 2, 3))

    done = deletion_insertion(predict, pixels, share, steps=4)
    left = np.array([1.0, 0.6, 0.3, 0.1, 0.0])
    assert done.curves[0] == pytest.approx(left, abs=1e-6)
    assert done.curves[1] == pytest.approx(1 - left, abs=1e-6)
    assert done.deletion == pytest.approx((left[1:] + left[:-1]).sum() / 8, abs=1e-6)
    assert done.gap == pytest.approx(1 - 2 * done.deletion, abs=1e-6)
    opposite = deletion_insertion(predict, pixels, -share, steps=4)
    assert opposite.gap == pytest.approx(-done.gap, abs=1e-6)
    assert done.gap >= done.random_gaps.max() - 1e-6
    assert np.array_equal(done.random_gaps, opposite.random_gaps)  # the seed makes them, not the map
    with pytest.raises(ValueError, match="3 x 2 cells"):
        deletion_insertion(predict, pixels, np.ones((3, 2)))


def test_removal_is_red_for_a_map_that_says_nothing_and_for_a_score_that_hangs_on_nothing() -> None:
    draw = np.random.default_rng(0)
    share = draw.exponential(size=(8, 8))
    share /= share.sum()
    pixels = torch.tensor(share, dtype=torch.float32)[None]

    def predict(pictures: Tensor) -> Tensor:
        return pictures.sum((1, 2, 3))

    assert removal_line(deletion_insertion(predict, pixels, share)).passed
    assert not removal_line(deletion_insertion(predict, pixels, draw.random((8, 8)))).passed
    assert not removal_line(deletion_insertion(predict, pixels, np.zeros((8, 8)))).passed
    flat = removal_line(deletion_insertion(lambda x: 0.5 + predict(x) / 100, pixels, share))
    assert not flat.passed
    good = deletion_insertion(predict, pixels, share)
    assert not removal_line(good, untrained=[good.gap + 0.01 * number for number in range(-3, 4)]).passed


def maps(seed: int, *, smooth: bool) -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(seed).random((12, 12))
    if smooth:
        for _ in range(3):
            noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    return noise


def test_randomised_weights_on_known_answers() -> None:
    untrained = [maps(seed, smooth=False) for seed in range(UNTRAINED)]
    assert weights_line(maps(99, smooth=True), untrained).passed
    red = weights_line(maps(99, smooth=False), untrained)  # one more of the same kind
    assert (red.passed, red.verdict, "untrained" in red.meaning) == (False, "failed", True)
    edges = maps(1, smooth=True)  # what shows the picture, whatever the weights are
    stays = weights_line(edges, [edges + 0.001 * seed for seed in range(UNTRAINED)])
    assert (stays.passed, stays.value) == (False, pytest.approx(1))
    assert "shows the input" in stays.meaning
    false = [weights_line(maps(1000 + n, smooth=False), [maps(9 * n + k, smooth=False) for k in range(8)]).passed
             for n in range(100)]  # fmt: skip
    assert sum(false) <= 8


def test_a_value_stands_out() -> None:
    chance = [0.1, 0.12, 0.08, 0.11, 0.09]
    assert stands_out(0.3, chance)
    assert not stands_out(0.13, chance)  # beyond them, but by too little to matter
    assert not stands_out(0.3, [0.0, 0.3, 0.1, 0.2, 0.25])
    assert line("distance", 0.0, [1.0, 1.1, 0.9, 1.0, 1.05], "less is better", higher=False).passed
    assert not line("nothing", float("nan"), chance, "").passed
    with pytest.raises(ValueError, match="4 draws"):
        stands_out(1.0, chance[:4])


def test_seeds_agree_or_do_not() -> None:
    base = maps(0, smooth=True)
    alike = [base + 0.01 * maps(seed, smooth=False) for seed in range(3)]
    chance = [mean_agreement([maps(10 * n + k, smooth=True) for k in range(3)]) for n in range(5)]
    assert seeds_line(alike, chance).passed
    assert not seeds_line([maps(seed, smooth=True) for seed in range(3)], chance).passed
    assert not seeds_line(alike, [0.9, 0.99, 0.95, 1.0, 0.97]).passed
