"""FocuSFT's masks, fast weights, inner loop and outer step against the official ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from attn.core.models.turns import added_mask, context_length, prefix_seen, turns_seen
from attn.core.probe.dilution.measure import measure
from attn.core.train.focusft.fast import FastWeights
from attn.core.train.focusft.step import Dialogues, answer_loss, mask_of

VECTORS = Path(__file__).parent / "vectors" / "focusft"
MLP = ("gate_proj", "up_proj", "down_proj")


def vectors(name: str) -> dict[str, np.ndarray]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def assert_near(actual: Any, expected: np.ndarray, tolerance: float) -> None:
    """Within ``tolerance`` of the largest number that is expected."""
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


@pytest.mark.parametrize("case", range(5))
def test_masks(case: int) -> None:
    golden = vectors("masks")
    answer, real = (torch.from_numpy(golden[f"{case}/{name}"]).bool() for name in ("loss_mask", "attention_mask"))
    seen = turns_seen(answer, real)
    assert np.array_equal(seen, golden[f"{case}/allowed_multiturn"])
    context = context_length(answer)
    assert np.array_equal(context, golden[f"{case}/context_len"])
    assert np.array_equal(prefix_seen(context, real), golden[f"{case}/allowed_single"])
    added = added_mask(seen, torch.float32)
    assert set(added.unique().tolist()) <= {0.0, torch.finfo(torch.float32).min}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return vectors("bilevel_step")


def model_of(golden: dict[str, np.ndarray], kernel: str) -> Any:
    vocabulary, width, mlp, layers, heads, kv_heads = (int(x) for x in golden["config"][:6])
    config = transformers.Qwen2Config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, attn_implementation=kernel,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config).eval()
    state = {key.removeprefix("param/"): torch.from_numpy(v) for key, v in golden.items() if key.startswith("param/")}
    model.load_state_dict(state)
    return model


def batch_of(golden: dict[str, np.ndarray]) -> Dialogues:
    answer, real = (torch.from_numpy(golden[name]).bool() for name in ("loss_mask", "attention_mask"))
    return Dialogues(torch.from_numpy(golden["input_ids"]), answer, real)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_bilevel_step(golden: dict[str, np.ndarray], kernel: str) -> None:
    model, batch = model_of(golden, kernel), batch_of(golden)
    steps, rank, alpha, fraction, rate, clip, together = golden["config"][6:]
    mask = mask_of(model, batch, both_ways=True)
    assert_near(answer_loss(model, batch, None).detach(), golden["base_loss_causal"], 1e-5)
    assert_near(answer_loss(model, batch, mask).detach(), golden["base_loss_bidir"], 1e-5)
    fast = FastWeights(model, float(fraction), MLP, rank=int(rank), alpha=float(alpha))
    assert list(fast.linear) == golden["adapter_names"].tolist()
    names = [name for name, _ in model.named_parameters()]
    fast.reset((1, 2))
    for name, tensor in fast.down.items():
        start = golden[f"inner0/{name}/A"]
        assert tensor.shape == start.shape
        assert float(tensor.detach().abs().max()) <= start.shape[1] ** -0.5
        fast.down[name] = torch.from_numpy(start.copy()).requires_grad_()
    with fast.on():
        losses = fast.adapt(
            lambda: answer_loss(model, batch, mask), steps=int(steps), rate=float(rate), clip=float(clip),
            together=bool(together),
        )  # fmt: skip
        assert_near(losses, golden["inner_losses"], 1e-5)
        for name in fast.linear:
            assert_near(fast.down[name].detach(), golden[f"innerK/{name}/A"], 1e-4)
            assert_near(fast.up[name].detach(), golden[f"innerK/{name}/B"], 1e-4)
        loss = answer_loss(model, batch, mask)
        assert_near(loss.detach(), golden["outer_loss"], 1e-5)
        real = batch.real[..., None].numpy()
        logits = model(input_ids=batch.tokens, attention_mask=mask).logits.detach().numpy()
        assert_near(logits * real, golden["outer_logits"] * real, 1e-4)
        loss.backward()
    assert [name for name, _ in model.named_parameters()] == names  # nothing of the fast weights is the model's
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, norm in zip(golden["outer_grad_names"].tolist(), golden["outer_grad_norms"], strict=True):
        assert float(gradients[name].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-9), name
    for name, expected in golden.items():
        if name.startswith("outer_grad/"):
            assert_near(gradients[name.removeprefix("outer_grad/")], expected, 1e-4)
    off = model(input_ids=batch.tokens, attention_mask=mask).logits.detach().numpy()
    assert_near(off * real, golden["base_logits_bidir"] * real, 1e-4)


@pytest.mark.parametrize("name", ["base_diag_bidir", "base_diag_causal", "outer_diag"])
def test_where_answers_look(golden: dict[str, np.ndarray], name: str) -> None:
    model, batch = model_of(golden, "sdpa"), batch_of(golden)
    fast = FastWeights(model, 0.35, MLP, rank=4, alpha=8)
    for linear in fast.linear:
        fast.down[linear], fast.up[linear] = (
            torch.from_numpy(golden[f"innerK/{linear}/{part}"].copy()) for part in "AB"
        )
    pooled, rows = np.zeros((4, 2)), 0
    for tokens, answer, real in zip(batch.tokens, batch.answer, batch.real, strict=True):
        one = Dialogues(tokens[real][None], answer[real][None], real[real][None])
        mask = mask_of(model, one, both_ways=name != "base_diag_causal")
        context = int(context_length(one.answer))
        looking = one.answer[0].nonzero().squeeze(1)
        if name == "outer_diag":
            with fast.on():
                found = measure(model, one.tokens[0], looking, context, mask=mask)
        else:
            found = measure(model, one.tokens[0], looking, context, mask=mask)
        pooled += len(looking) * np.stack([found.sink.mean(1), found.engagement.mean(1)], 1)
        rows += len(looking)
    assert_near(pooled / rows, golden[name], 1e-4)
