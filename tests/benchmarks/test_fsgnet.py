"""FSG-Net's fast form against a plain implementation: ``pytest tests/benchmarks --benchmark-only -k fsgnet``.

Input of the size that a DRIVE photo is cut to, 536 x 540, width 8 as the shipped model, all of torch's threads on both
sides. Timings do not depend on the weights; outputs are compared before anything is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attn.core.segment.fsgnet.fast import optimise
from attn.core.segment.fsgnet.network import fsgnet

sys.path.insert(0, str(Path(__file__).parent))
from plain_fsgnet import plain_fsgnet

SIZE, WIDTH = (536, 540), 8


def models() -> dict[str, nn.Module]:
    """``attn`` as ``attn segment`` runs it, ``module`` the trained module itself, ``plain`` the baseline."""
    net, plain = fsgnet(WIDTH), plain_fsgnet(WIDTH)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gamma"):  # blocks that start at 1e-6 would compare nothing
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    plain.load_state_dict(net.state_dict())
    return {"attn": optimise(net), "module": net.eval(), "plain": plain.eval()}


def image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def assert_agree(found: dict[str, nn.Module], x: Tensor) -> None:
    with torch.no_grad():
        ours, module, plain = (found[name](x) for name in ("attn", "module", "plain"))
    torch.testing.assert_close(ours, plain.out1, atol=1e-5, rtol=0)
    for a, b in zip(module, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_all_agree() -> None:
    """Also run without --benchmark-only: what is compared below is the same thing."""
    assert_agree(models(), image(67, 75))


@pytest.mark.benchmark(group="fsgnet: one photo of 536x540, width 8")
@pytest.mark.parametrize("which", ["attn", "module", "plain"])
def test_predict(which: str, benchmark: Callable[..., object]) -> None:
    found, x = models(), image(*SIZE)
    assert_agree(found, x)

    @torch.no_grad()
    def predict() -> object:
        return found[which](x)

    benchmark.pedantic(predict, rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]
