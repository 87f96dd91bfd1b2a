"""Costs of a prefill: level A8 of methods/prune-evaluation.md, section 2, and its examples."""

from __future__ import annotations

import math
import re

import pytest
import torch
from masked import stages_of
from prunable import MAKE, question, together, untrained
from torch.utils.flop_counter import FlopCounterMode

from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.sites import site_of
from attn.core.prune.engine.trace import Prefill
from attn.core.prune.measure.cost import (
    DecoderShape,
    cost_of,
    kv_bytes,
    layer_of_fastv,
    layer_of_ours,
    layer_of_sparsevlm,
    multiply_adds,
    shape_of,
)

SEVEN_B = DecoderShape(32, 4096, 4096, 4096, 11008)


def test_three_layers_and_a_drop_at_the_first() -> None:
    """By hand: d 4, e 2, m 6; 10 tokens in layer 0, 6 in layers 1 and 2."""
    shape = DecoderShape(3, 4, 4, 2, 6)
    assert layer_of_ours(10, shape) == 320 + 160 + 800 + 720
    assert layer_of_ours(6, shape) == 192 + 96 + 288 + 432
    assert multiply_adds(shape, [10, 6, 6]) == 2000 + 2 * 1008
    assert kv_bytes(shape, [10, 6, 6], 2) == 2 * 2 * 2 * 22
    assert layer_of_ours(10, DecoderShape(3, 4, 4, 2, 6, gated=False)) == 2000 - 240
    with pytest.raises(ValueError, match="tokens of 2 layers"):
        multiply_adds(shape, [10, 6])


def test_formulas_of_papers() -> None:
    n, d, m = 600, 4096, 11008
    assert layer_of_fastv(n, SEVEN_B) == 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m
    assert layer_of_sparsevlm(n, SEVEN_B) == layer_of_ours(n, SEVEN_B) == layer_of_fastv(n, SEVEN_B) + n * d * m


def test_llava_of_seven_billion_parameters() -> None:
    """FastV's K = 2 and 50 %: R = 0.531; FLOPs by its own formula, 1 - 0.45."""
    visual = [(576,)] * 2 + [(288,)] * 30
    prefill = Prefill((576,), 640, visual=visual, tokens=[(n + 64,) for (n,) in visual])
    assert round(prefill.retention(), 3) == 0.531
    assert prefill.whole() == 640
    tokens = [n for (n,) in prefill.tokens]
    ratio = multiply_adds(SEVEN_B, tokens, "fastv") / multiply_adds(SEVEN_B, [640] * 32, "fastv")
    n, k, d, m = 640, 352, 4096, 11008
    whole = 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m
    half = 4 * k * d**2 + 2 * k**2 * d + 2 * k * d * m
    assert ratio == pytest.approx((2 * whole + 30 * half) / (32 * whole), rel=1e-12)


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_counted_while_it_runs(name: str) -> None:
    """What the decoder layers multiply, counted by torch, is what the formula says of the counted tokens."""
    model, inputs = untrained(name, kernel="eager"), question(name)
    site = site_of(model)
    with pruned(model, stages_of(((0, 2), (2, 2)))) as trace, FlopCounterMode(display=False) as counter:
        model(**inputs)
    layer = re.compile(r".*\.(language|text)_model\.layers\.\d+")
    done = sum(sum(of.values()) for name, of in counter.get_flop_counts().items() if layer.fullmatch(name))
    cost = cost_of(site, trace.last)
    assert 2 * cost.multiply_adds_after == done
    assert cost.flops_ratio < 1
    with pruned(model, []) as plain:
        out = model(**inputs, use_cache=True)
    held = sum(t.nbytes for layer in out.cache.layers for t in (layer.keys, layer.values))
    assert cost.kv_bytes_before == cost_of(site, plain.last).kv_bytes_after == held
    assert cost_of(site, plain.last).multiply_adds_after == cost.multiply_adds_before
    assert shape_of(site).gated


@torch.no_grad()
def test_prompts_of_a_batch() -> None:
    model = untrained("llava")
    site = site_of(model)
    prompts = [question("llava"), question("llava", pictures=0), question("llava", pictures=2)]
    with pruned(model, stages_of(((0, 2), (2, 2)))) as trace:
        model(**together("llava", prompts))
    costs = [cost_of(site, trace.last, sample) for sample in range(3)]
    assert [trace.last.whole(sample) for sample in range(3)] == [p["input_ids"].shape[1] for p in prompts]
    assert costs[1].flops_ratio == 1
    assert math.isnan(costs[1].retention)
    assert costs[2].flops_ratio < costs[0].flops_ratio < 1
