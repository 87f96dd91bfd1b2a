"""AS-ViT and ToMe against the official code: methods/as-vit.md, sections 10 and 11; pruning-peers.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attn.core.nets.as_vit import (
    AdaptiveViT,
    block_multiply_adds,
    budget_loss,
    embedding_multiply_adds,
    masked_attention,
    plain_multiply_adds,
    threshold_mask,
)
from attn.core.nets.vit import PatchAttention, VisionTransformer, ViTShape
from attn.core.prune.methods.base import Keep
from attn.core.prune.vit.as_vit import AsViT, batch_mean
from attn.core.prune.vit.site import image_site
from attn.core.prune.vit.stages import ImageTrace
from attn.core.prune.vit.tome import merge_owners

LOGITS, LOSS, GRADIENT = 5e-5, 1e-4, 1e-3
"""Section 10: absolute, relative, relative."""


def vectors(folder: str, name: str) -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "vectors" / folder / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def weights(v: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"score_predictor.": "thresholds.", ".keep_threshold": ""}
    state = {}
    for key, value in v.items():
        if key.startswith("p."):
            for old, new in names.items():
                key = key.replace(old, new)
            state[key[2:]] = value
    return state


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return vectors("as-vit", "infer_model")


@pytest.fixture(scope="module")
def model(recorded: dict[str, Tensor]) -> AdaptiveViT:
    image, patch, dim, heads, depth = recorded["cfg"].tolist()
    shape = ViTShape(image, patch, 3, 6, dim, depth, heads)
    net = AdaptiveViT(shape, tuple(recorded["pruning_loc"].tolist()), recorded["thresholds"].tolist()).eval()
    net.load_state_dict(weights(recorded))
    return net


@pytest.mark.parametrize("policy", ["", "_policy"])
def test_score(policy: str) -> None:
    v = vectors("as-vit", "attention_score")
    attention = PatchAttention(*v["cfg"].tolist())
    attention.load_state_dict(weights(v))
    out, score = masked_attention(attention, v["x"], v["policy"][..., 0] if policy else None)
    torch.testing.assert_close(out, v[f"out{policy}"], atol=1e-6, rtol=0)
    torch.testing.assert_close(score, v[f"score{policy}"], atol=1e-7, rtol=0)


@pytest.mark.parametrize("near", ["", "_near"])
def test_threshold_and_its_gradients(near: str) -> None:
    v = vectors("as-vit", "threshold")
    score, threshold = v[f"score{near}"].clone().requires_grad_(), v["threshold"].clone().requires_grad_()
    mask = threshold_mask(score, threshold, float(v["tau_train"]))
    assert torch.equal(mask > 0.5, v[f"train_mask{near}"] > 0.5)
    (mask * torch.arange(120).view(3, 40) / 120).sum().backward()
    assert threshold.grad is not None
    torch.testing.assert_close(threshold.grad, v[f"grad_threshold{near}"], rtol=GRADIENT, atol=0)
    torch.testing.assert_close(score.grad, v[f"grad_score{near}"], rtol=GRADIENT, atol=1e-6)


def test_floor_rule_and_strict_comparison() -> None:
    v = vectors("as-vit", "threshold")
    passed = v["score"] > v["threshold"]
    assert torch.equal(passed[:1], v["eval_mask_single"].bool())
    chosen = batch_mean(v["score"], passed, torch.ones_like(passed))
    assert chosen.sum(1).tolist() == [int(v["eval_keep_count_batch"])] * 3
    ties = torch.tensor([[0.02, 0.02, 0.021]])
    assert threshold_mask(ties, torch.tensor(0.02)).tolist()[0][:2] == [0.0, 0.0]


def run(model: AdaptiveViT, x: Tensor, **settings: str) -> tuple[Tensor, ImageTrace]:
    with torch.no_grad(), AsViT(**settings).applied(image_site(model), Keep(share=0.5)) as trace:  # type: ignore[arg-type]
        return model(x).logits, trace


def test_tokens_taken_out_picture_by_picture_and_in_a_batch(model: AdaptiveViT, recorded: dict[str, Tensor]) -> None:
    batch, trace = run(model, recorded["x"])
    torch.testing.assert_close(batch, recorded["logits_single"], atol=LOGITS, rtol=0)
    assert torch.equal(torch.stack(trace.last.attended[3:], 1), recorded["kept_single"])
    for i, image in enumerate(recorded["x"]):
        logits, trace = run(model, image[None])
        torch.testing.assert_close(logits[0], batch[i], atol=1e-5, rtol=0)
        assert [int(count) for count in trace.last.attended[3:]] == recorded["kept_single"][i].tolist()


def test_the_official_batch_rule(model: AdaptiveViT, recorded: dict[str, Tensor]) -> None:
    logits, trace = run(model, recorded["x"], batch_rule="mean")
    torch.testing.assert_close(logits, recorded["logits_batched"], atol=LOGITS, rtol=0)
    assert [counts.tolist() for counts in trace.last.attended[3:]] == [[n] * 3 for n in recorded["kept_batched"]]


def test_training_pass_and_losses(model: AdaptiveViT) -> None:
    v = vectors("as-vit", "train_model")
    model.zero_grad()
    out = model.forward_masked(v["x"])
    torch.testing.assert_close(out.logits, v["logits"], atol=LOGITS, rtol=0)
    assert torch.equal(torch.stack(out.masks) > 0.5, v["masks"] > 0.5)
    torch.testing.assert_close(out.multiply_adds / 1e9, v["gflops_per_image"], rtol=1e-6, atol=0)
    full = plain_multiply_adds(model.config, class_token=False)
    assert full / 1e9 == pytest.approx(float(v["gflops_teacher"]), rel=1e-6)
    teacher = VisionTransformer(model.config)
    teacher.load_state_dict({k: w for k, w in model.state_dict().items() if not k.startswith("thresholds")})
    with torch.no_grad():
        theirs = teacher(v["x"])
    torch.testing.assert_close(theirs.logits, v["teacher_logits"], atol=LOGITS, rtol=0)
    whole = budget_loss(out, v["labels"], theirs.logits, theirs.tokens, keep=0.65, full=full)
    assert float(whole.total.detach()) == pytest.approx(float(v["loss_with_token_kl"]), rel=LOSS)
    loss = budget_loss(out, v["labels"], theirs.logits, None, keep=0.65, full=full)
    assert float(loss.total.detach()) == pytest.approx(float(v["loss"]), rel=LOSS)
    loss.total.backward()  # type: ignore[no-untyped-call]
    gradients = torch.stack([threshold.grad for threshold in model.thresholds])  # type: ignore[misc]
    torch.testing.assert_close(gradients, v["grad_thresholds"], rtol=GRADIENT, atol=0)


def test_multiply_adds_of_deit_s() -> None:
    shape = ViTShape()
    blocks = 12 * block_multiply_adds(197, shape.dim, shape.hidden)
    assert round(float(blocks) / 1e9, 2) == 4.54
    assert round(embedding_multiply_adds(shape) / 1e9, 3) == 0.058
    assert plain_multiply_adds(shape) == blocks + embedding_multiply_adds(shape)


def test_merging() -> None:
    v = vectors("pruning-peers", "tome")
    owners = merge_owners(v["metric"], int(v["r"]), 1)
    size = torch.zeros(2, 44).scatter_add(1, owners, torch.ones(2, 61))
    assert torch.equal(size, v["size"][..., 0])
    places = owners[..., None].expand(-1, -1, 24)
    merged = torch.zeros(2, 44, 24).scatter_add(1, places, v["x"]) / size[..., None]
    torch.testing.assert_close(merged, v["merged"], atol=1e-5, rtol=0)
    torch.testing.assert_close(merged.gather(1, places), v["unmerged"], atol=1e-5, rtol=0)
