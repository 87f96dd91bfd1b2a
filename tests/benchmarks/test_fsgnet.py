"""FSG-Net's fast form against a plain implementation: ``pytest tests/benchmarks --benchmark-only -k fsgnet``.

Input of the size that a DRIVE photo is cut to, 536 x 540, at widths 8 and 16, all of torch's threads on both sides.
Timings do not depend on the weights; outputs are compared before anything is timed. Another processor without AVX-512:
``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`` before the command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attn.core.memory import keep_freed_memory
from attn.core.segment.fsgnet.fast import optimise
from attn.core.segment.fsgnet.network import fsgnet

sys.path.insert(0, str(Path(__file__).parent))
from plain_fsgnet import plain_fsgnet

SIZE = (536, 540)
ORDER = ("plain", "module", "attn", "attn in bfloat16", "attn, memory kept", "attn in bfloat16, memory kept")
"""Memory is kept, as ``attn segment`` does, for the whole process: all that comes after would profit."""


def models(width: int) -> dict[str, nn.Module]:
    """``attn`` is the fast form, ``module`` the trained module itself, ``plain`` the baseline."""
    net, plain = fsgnet(width), plain_fsgnet(width)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gamma"):  # blocks that start at 1e-6 would compare nothing
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    plain.load_state_dict(net.state_dict())
    coarse = optimise(net, dtype=torch.bfloat16)
    return {"attn": optimise(net), "attn in bfloat16": coarse, "module": net.eval(), "plain": plain.eval()}


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
    assert_agree(models(8), image(67, 75))


@pytest.mark.parametrize(("which", "width"), [(which, width) for which in ORDER for width in (8, 16)])
def test_predict(which: str, width: int, benchmark: Any) -> None:
    found, x = models(width), image(*SIZE)
    assert_agree(found, x)
    name, _, kept = which.partition(", ")
    if kept:
        keep_freed_memory()

    @torch.no_grad()
    def predict() -> object:
        return found[name](x)

    benchmark.group = f"fsgnet: one photo of 536x540, width {width}"
    benchmark.pedantic(predict, rounds=5, warmup_rounds=1)
