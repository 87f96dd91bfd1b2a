"""Loss and learning rates of the official FSG-Net code: methods/fsg-net.md, section 10; 1e-6 and 1e-12."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attn.core.fit.loop import Plan
from attn.core.fit.schedule import cosine_cycles
from attn.core.train.fsgnet.recipe import dice_bce

VECTORS = Path(__file__).parent / "vectors" / "fsg-net"


@pytest.fixture(scope="module")
def golden():
    with np.load(VECTORS / "loss.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def outputs(golden):
    return [golden[f"pred{i}"].clone() for i in (1, 2, 3)]


def test_loss(golden):
    loss = dice_bce(outputs(golden), golden["target"].float())
    assert float(loss) == pytest.approx(float(golden["loss"]), rel=0, abs=1e-6)


@pytest.mark.parametrize("output", [0, 1, 2])
def test_loss_of_each_output(golden, output):
    loss = dice_bce([outputs(golden)[output]], golden["target"].float())
    assert float(loss) == pytest.approx(float(golden["loss_each"][output]), rel=0, abs=1e-6)


def test_gradient_of_the_first_output(golden):
    prob = outputs(golden)
    prob[0].requires_grad_()
    dice_bce(prob, golden["target"].float()).backward()
    largest = float(golden["grad1"].abs().max())
    # relative to the largest: the gradients are so small that 1e-6 alone would forgive errors
    assert float((prob[0].grad - golden["grad1"]).abs().max()) <= 1e-6 * max(largest, 1e-9)


def test_learning_rates():
    with np.load(VECTORS / "lr_schedule.npz") as file:
        per_epoch, warmup, epochs, cycle, rates = (
            file[name] for name in ("steps_per_epoch", "warmup_epochs", "epochs", "cycle_epochs", "lr")
        )
    steps, warm = int(epochs * per_epoch), int(warmup * per_epoch)
    cycles = float(epochs / cycle)
    ours = [1e-3 * cosine_cycles(step, steps=steps, warmup=warm, cycles=cycles) for step in range(len(rates))]
    np.testing.assert_allclose(ours, rates, rtol=0, atol=1e-12)
    plan = Plan(steps=steps, warmup=warm, learning_rate=1e-3, cycles=cycles)
    assert [plan.rate(step) for step in range(len(rates))] == ours
