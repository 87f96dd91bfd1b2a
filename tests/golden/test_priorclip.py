"""PIR and PriorCLIP against vectors of the official modules: methods/priorclip.md, section 10, and its tolerances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attn.core.retrieve.priorclip.losses import affiliation, class_means, contrastive, triplet
from attn.core.retrieve.priorclip.pir import PIR, PIRConfig, believe
from attn.core.retrieve.priorclip.vit import PriorCLIPVisionTransformer, gated, index_weights, rank_weights

VECTORS = Path(__file__).parent / "vectors" / "priorclip"
BLOCKS, LOSSES = 1e-5, 1e-6
"""Relative tolerances of section 10."""


def load(name: str) -> dict[str, Tensor]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def parameters(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("param/"): value for key, value in vectors.items() if key.startswith("param/")}


def assert_within(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Error relative to the largest value."""
    assert actual.shape == expected.shape
    error = ((actual.detach() - expected).abs().max() / expected.abs().max()).item()
    assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


@pytest.fixture(scope="module")
def pae() -> dict[str, Tensor]:
    return load("pir_pae")


@pytest.fixture(scope="module")
def pir(pae: dict[str, Tensor]) -> PIR:
    width, heads, instru, cycle, k, vision, text, conv = pae["cfg"].tolist()
    net = PIR(PIRConfig(width, heads, instru, cycle, k, vision, text, conv))
    net.load_state_dict(parameters(pae))  # strict: the names are the official ones
    return net.eval()


def test_pir_image_encoder(pae, pir):
    out = pir.encode_image(pae["vision_tokens"], pae["conv_feature"])
    assert_within(out.belief, pae["belief"], BLOCKS)
    assert torch.equal(out.belief.argsort(descending=True), pae["order"])
    assert torch.equal(out.keep_index, pae["order"][:, : pir.config.filter_size])
    assert_within(out.embedding, pae["image_embedding"], BLOCKS)


def test_pir_instruction_and_first_block(pae, pir):
    instruction = pir.conv_proj(pae["conv_feature"])[:, None]
    assert_within(instruction, pae["instruction"], BLOCKS)
    tokens = pir.vision_proj(pae["vision_tokens"])
    assert_within(believe(tokens, instruction), pae["belief"], BLOCKS)
    kept = torch.stack([row[order[: pir.config.filter_size]] for row, order in zip(tokens, pae["order"], strict=True)])
    assert_within(pir.img_sa[0](kept), pae["img_sa0_out"], BLOCKS)


def test_pir_text_encoder(pae, pir):
    assert_within(pir.encode_text(pae["text_tokens"]), pae["text_embedding"], BLOCKS)


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    return load("priorclip_vit")


def test_priorclip_belief_and_gates(vectors):
    belief = believe(vectors["pre_tokens"], vectors["instruction"])
    assert_within(belief, vectors["belief"], BLOCKS)
    assert torch.equal(belief.argsort(descending=True), vectors["order"])
    assert_within(index_weights(belief), vectors["index_weights_released"], BLOCKS)
    assert_within(rank_weights(belief), vectors["rank_weights"], BLOCKS)
    assert_within(gated(vectors["pre_tokens"], belief, "released"), vectors["gated_released"], BLOCKS)
    assert_within(gated(vectors["pre_tokens"], belief, "rank"), vectors["gated_rank_featnorm"], BLOCKS)


def test_the_rank_gate_of_the_specification_is_the_unit_token(vectors):
    """Its weights cancel against its norm: any belief gives the same."""
    other = vectors["belief"].flip(1)
    assert not torch.equal(rank_weights(other), rank_weights(vectors["belief"]))
    assert_within(gated(vectors["pre_tokens"], other, "rank"), vectors["gated_rank_featnorm"], BLOCKS)


def test_priorclip_vision_transformer(vectors):
    size, patch, width, layers, heads, out = vectors["cfg"].tolist()
    net = PriorCLIPVisionTransformer(size, patch, width, layers, heads, out, gate="released")
    net.load_state_dict(parameters(vectors))
    net.eval()
    assert_within(net.embed(vectors["image"]), vectors["pre_tokens"], BLOCKS)
    found = net(vectors["image"], vectors["instruction"])
    assert_within(found.belief, vectors["belief"], BLOCKS)
    assert_within(found.pooled, vectors["pooled"], BLOCKS)
    assert_within(found.tokens, vectors["tokens"], BLOCKS)


LOSS = {
    "contrastive_idx": lambda v, i, t, tau: contrastive(i, t, tau, v["idx"]),
    "contrastive_plain": lambda v, i, t, tau: contrastive(i, t, tau),
    "contrastive_priorclip": lambda v, i, t, tau: contrastive(i, t, tau),
    "affiliation_pir": lambda v, i, t, tau: affiliation(i, t, v["label"], tau, form="pir"),
    "affiliation_priorclip": lambda v, i, t, tau: affiliation(i, t, v["label"], tau),
    "triplet": lambda v, i, t, tau: triplet(i, t),
    "triplet_max": lambda v, i, t, tau: triplet(i, t, hardest=True),
}


@pytest.mark.parametrize("name", LOSS)
def test_losses(name):
    v = load("losses_metrics")
    found = LOSS[name](v, v["image"], v["text"], v["temp"].item())
    assert_within(found, v[name], LOSSES)


@pytest.mark.parametrize("side", ["image", "text"])
def test_centres(side):
    v = load("losses_metrics")
    means, row = class_means(v[side], v["label"])
    assert_within(means[row], v[f"{side}_centers"], LOSSES)
