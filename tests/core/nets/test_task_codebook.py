"""The codebook's sizes, variants and gradients, beyond the golden vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attn.core.nets.task_codebook import GoalEncoder, TaskCodebook, action_index


def built(**options: Any) -> TaskCodebook:
    torch.manual_seed(0)
    return TaskCodebook(12, 8, 3, **options)


def test_the_paper_s_size() -> None:
    """Section 3.2: 1574*256 + 256 + 2560 + 10*1574 + 1574."""
    assert sum(parameter.numel() for parameter in TaskCodebook(1574).parameters()) == 423_074


@pytest.mark.parametrize("kind", ["learned", "random", "binary"])
@pytest.mark.parametrize("index", ["softmax", "topk_softmax", "gumbel_softmax"])
def test_gradients_reach_what_is_learnt(kind: Any, index: Any) -> None:
    network = built(kind=kind, index=index, topk=4)
    x = torch.randn(5, 2, 12, requires_grad=True)
    out = network(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert (network.codes.grad is not None) == (kind == "learned")
    assert x.grad is not None
    assert bool((x.grad[x > 0] != 0).any())
    assert bool((x.grad[x < 0] == 0).all())  # ReLU before the indexer
    if kind == "binary":
        assert set(network.table().unique().tolist()) == {-1.0, 1.0}


def test_evaluation_is_a_convex_mix_and_training_is_not() -> None:
    network, x = built(dropout=0.5), torch.randn(200, 12)
    probs = network.scores(x).detach().softmax(-1)
    sums = network.mixed(probs).sum(-1)
    assert float(sums.std()) > 0.1  # not renormalised
    assert abs(float(sums.mean()) - 1) < 0.1
    torch.testing.assert_close(network.eval().mixed(probs), probs)
    found = network.filtered(x)
    torch.testing.assert_close(found.code, found.probs @ network.codes)
    torch.testing.assert_close(found.embedding, found.code @ network.widen.weight.T + network.widen.bias)


def test_the_largest_and_their_sum() -> None:
    x = torch.randn(20, 12)
    plain, scaled = built(index="topk_softmax", topk=2).eval(), built(index="topk_softmax", topk=2, renorm=True).eval()
    probs = plain.scores(x).softmax(-1)
    kept = plain.mixed(probs)
    assert bool(((kept > 0).sum(-1) == 2).all())
    torch.testing.assert_close(kept.sum(-1), probs.topk(2).values.sum(-1))
    torch.testing.assert_close(scaled.mixed(probs).sum(-1), torch.ones(20))
    assert bool((scaled.mixed(probs, torch.zeros_like(probs)) == 0).all())


def test_one_code_is_drawn_in_training_and_the_likeliest_in_evaluation() -> None:
    network, x = built(index="gumbel_softmax"), torch.randn(50, 12)
    drawn = [network(x) for _ in range(2)]
    assert not torch.equal(*drawn)
    found = network.eval().filtered(x)
    torch.testing.assert_close(found.code, network.codes[found.probs.argmax(-1)])
    torch.testing.assert_close(network.decoded()[found.probs.argmax(-1)], found.embedding)


def test_half_precision_keeps_float32_probabilities() -> None:
    found = built().bfloat16().eval().filtered(torch.randn(4, 12, dtype=torch.bfloat16))
    assert found.probs.dtype == torch.float32
    assert found.embedding.dtype == torch.bfloat16


def test_refusals() -> None:
    for options in ({"codes": 0}, {"dropout": 1.0}, {"tau": 0.0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            TaskCodebook(4, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="topk 16 is more than the 8 codes"):
        built(index="topk_softmax")


def test_the_encoder_takes_any_leading_shape_channel_first() -> None:
    encoder = GoalEncoder(5, torch.nn.Embedding(3, 32))
    features, goal = torch.randn(2, 4, 5, 7, 7), torch.randint(3, (2, 4))
    out = encoder(features, goal)
    assert out.shape == (2, 4, 1568)
    torch.testing.assert_close(encoder(features[1, 2], goal[1, 2]), out[1, 2])
    moved = features.clone()
    moved[..., 6, 6] += 1  # the last place changes the last number of each channel alone
    changed = (encoder(moved, goal) != out).reshape(-1, 32, 49).any(0).any(0)
    assert changed.tolist() == [False] * 48 + [True]


def test_an_episode_begins_without_an_action() -> None:
    assert action_index(torch.tensor([3, 0, 2]), torch.tensor([0.0, 1.0, 1.0])).tolist() == [0, 1, 3]
