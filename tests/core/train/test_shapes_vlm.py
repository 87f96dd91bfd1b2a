"""The recipe of the embedded vision-language model: packed questions are single prompts, a killed run goes on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attn.core.fit.chained import ChainedOptimizer, muon_and_adamw
from attn.core.fit.options import TrainingOptions
from attn.core.fit.schedule import warmup_stable_decay
from attn.core.models.load import load_model
from attn.core.options import OptionError
from attn.core.prune.shapes.sets import evaluation_set
from attn.core.prune.shapes.words import NUMBER, WORDS
from attn.core.train.shapes_vlm.data import FORMS, draw_batch, layout, prepared
from attn.core.train.shapes_vlm.network import PATCHES, ShapesNetwork
from attn.core.train.shapes_vlm.options import ShapesVLMOptions
from attn.core.train.shapes_vlm.run import train_shapes_vlm


@pytest.fixture(scope="module")
def network() -> ShapesNetwork:
    torch.manual_seed(1)
    return ShapesNetwork(32, 1, 2, 2).eval()


@torch.no_grad()
def test_packed_questions_are_single_prompts(network: ShapesNetwork) -> None:
    """The reads of a packed sequence equal the last rows of LLaVA's own forward, prompt by prompt."""
    batch, packed = draw_batch(5, 2, 0, 2), layout()
    logits = network.answer(network.see(batch.pixels), batch.tokens, packed)
    starts = np.cumsum([0, *packed.lengths])
    for number in range(len(FORMS)):
        length = packed.read[number] + 1 - starts[number]
        question = batch.tokens[:, starts[number] : starts[number] + length]
        front = torch.tensor([NUMBER["<bos>"]] + [NUMBER["<image>"]] * PATCHES).expand(2, -1)
        single = network.llava(input_ids=torch.cat([front, question], 1), pixel_values=batch.pixels).logits[:, -1]
        torch.testing.assert_close(logits[:, number], single, atol=1e-5, rtol=0)


def test_batches_are_those_of_their_step() -> None:
    first, again, other = draw_batch(3, 2, 9, 4), draw_batch(3, 2, 9, 4), draw_batch(3, 2, 10, 4)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.pixels, other.pixels)
    words = {WORDS[token] for token in first.answers.unique().tolist()}
    assert "<eos>" in words
    assert not words & {"<pad>", "<bos>", "<image>", "what"}


def test_labels_are_of_the_object_in_the_patch() -> None:
    """Colours of patches that lie wholly in a square, seen in the picture."""
    batch = draw_batch(1, 1, 0, 200, most=1)
    labels = batch.labels.names
    inside = (labels["shape"] > 0) & (labels["colour"] > 0)
    assert inside.any()
    assert (labels["digit"][inside] == 0).all()
    assert torch.equal(labels["pair"][inside], (labels["shape"][inside] - 1) * 8 + labels["colour"][inside])
    middle = ((batch.labels.centre[inside] + 1) * 96).round() / 2  # halves of pixels
    cell = (middle[:, 1] // 32).clamp(max=2) * 3 + (middle[:, 0] // 32).clamp(max=2) + 1
    assert torch.equal(labels["cell"][inside], cell.long())


OPTIONS = {
    "width": 32, "vision_layers": 1, "layers": 1, "vision_steps": 3, "steps": 4, "warmup": 1, "batch": 2,
    "judged": 10, "evaluate_every": 2,
}  # fmt: skip


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_shapes_vlm(ShapesVLMOptions(tmp_path / "whole", **OPTIONS))  # type: ignore[arg-type]
    assert whole.items[0].status == "ok"

    stopped = ShapesVLMOptions(tmp_path / "stopped", **OPTIONS)  # type: ignore[arg-type]
    from attn.core.train.shapes_vlm import recipe

    draw, steps = recipe.draw_batch, []

    def until(seed: int, stage: int, step: int, *rest: int) -> object:
        steps.append((stage, step))
        if (stage, step) == (2, 3):
            raise KeyboardInterrupt
        return draw(seed, stage, step, *rest)

    monkeypatch.setattr(recipe, "draw_batch", until)
    assert train_shapes_vlm(stopped).left
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    monkeypatch.setattr(recipe, "draw_batch", draw)
    train_shapes_vlm(stopped)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    with pytest.raises(OptionError, match="another run"):
        train_shapes_vlm(replace(stopped, width=36))
    train_shapes_vlm(replace(stopped, width=36, training=TrainingOptions(restart=True)))


def test_the_folder_is_a_model_of_transformers(tmp_path: Path) -> None:
    train_shapes_vlm(ShapesVLMOptions(tmp_path, **OPTIONS))  # type: ignore[arg-type]
    loaded = load_model(str(tmp_path), "vision-language")
    assert type(loaded.model).__name__ == "LlavaForConditionalGeneration"
    judged = evaluation_set("colour", 8)
    from PIL import Image

    inputs = loaded.processor.joint(
        images=[Image.fromarray(judged.uncropped(0))], text=[f"<image> {judged.question(0)}?"], return_tensors="pt"
    )
    torch.testing.assert_close(inputs["pixel_values"], prepared(judged.pictures[:1]), atol=0, rtol=0)
    assert inputs["input_ids"][0].tolist() == [1, *[3] * PATCHES, *judged.tokens[0]]
    assert "Accuracy" in (tmp_path / "model.md").read_text()
    with pytest.raises(Exception, match="WordLevel"):
        loaded.processor.tokeniser or loaded.processor.joint.tokenizer("where is the elephant")


def test_options_that_fit_nothing() -> None:
    with pytest.raises(OptionError, match="multiple of 4"):
        ShapesVLMOptions(Path("x"), width=30)
    with pytest.raises(OptionError, match="leave nothing"):
        ShapesVLMOptions(Path("x"), steps=50, warmup=100)


def test_rates() -> None:
    rates = [warmup_stable_decay(step, steps=10, warmup=2, stable=0.5, floor=0.1) for step in range(10)]
    np.testing.assert_allclose(rates, [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2], atol=1e-12)


def test_a_chain_steps_like_its_parts() -> None:
    """Muon for one matrix and AdamW for the rest, against the two on their own; a saved chain goes on the same."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    chains = [
        muon_and_adamw(net, lambda name: name.startswith("0"), factor=9.0, weight_decay=0.01, matrix_decay=0.05)
        for net in nets[:2]
    ]
    alone: list[torch.optim.Optimizer] = [
        torch.optim.Muon([nets[2][0].weight], lr=9e-3, weight_decay=0.05),
        torch.optim.AdamW(
            [
                {"params": [nets[2][1].weight], "weight_decay": 0.01},
                {"params": [nets[2][0].bias, nets[2][1].bias], "weight_decay": 0.0},
            ],
            lr=1e-3, betas=(0.9, 0.98),
        ),
    ]  # fmt: skip
    x = torch.randn(5, 6)

    def step(net: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        net.zero_grad()
        net(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()

    for chain in chains:
        for group in chain.param_groups:
            group["lr"] = 1e-3 * group.get("factor", 1.0)
    for number in range(4):
        if number == 2:
            saved = copy.deepcopy(chains[0].state_dict())  # as a file would hold it
            chains[1].load_state_dict(saved)
            nets[1].load_state_dict(nets[0].state_dict())
        step(nets[0], [chains[0]])
        if number >= 2:
            step(nets[1], [chains[1]])
        step(nets[2], alone)
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name])
        assert torch.equal(value, nets[2].state_dict()[name])
    assert isinstance(chains[0], ChainedOptimizer)
    with pytest.raises(ValueError, match="closure"):
        chains[0].step(lambda: 0.0)
