"""The optimiser against torch's own classes."""

import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from attn.core.denoise.filter2noise.schedule import Filter2NoiseRecipe, OneCycleAdamW


@pytest.mark.parametrize("steps", [2, 3, 7, 30])
def test_equals_adamw_under_one_cycle_lr(steps):
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(3))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    x = torch.randn(20, 5)

    def loss(parameters):
        return (x @ parameters[0] + parameters[1]).square().mean()

    optimiser = OneCycleAdamW(ours, Filter2NoiseRecipe(steps, 0.05))
    adamw = AdamW(theirs, lr=0.05, weight_decay=0.01)
    schedule = OneCycleLR(adamw, 0.05, total_steps=steps, pct_start=0.3)
    for step in range(steps):
        assert optimiser.learning_rate(step) == pytest.approx(adamw.param_groups[0]["lr"], rel=1e-9)
        assert optimiser.beta1(step) == pytest.approx(adamw.param_groups[0]["betas"][0], rel=1e-9)
        adamw.zero_grad()
        value = loss(theirs)
        value.backward()
        adamw.step()
        schedule.step()
        assert optimiser.take_step(lambda: loss(ours)) == pytest.approx(value.item(), rel=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_one_step_is_possible():
    parameter = torch.nn.Parameter(torch.ones(2))
    OneCycleAdamW([parameter], Filter2NoiseRecipe(1, 0.1)).take_step(lambda: parameter.square().sum())
    assert torch.isfinite(parameter).all()
