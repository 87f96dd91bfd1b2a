"""The table of compiled kernels: what it says of one that fits, one that does not, and what it predicts of none."""

import json
import os
import sys

import pytest

pytest.importorskip("triton")

from attn.core.bench import kernel_table
from attn.core.options import OptionError
from attn.core.report.write import render
from attn.kernels import chips, registry

compiles = pytest.mark.skipif(bool(os.environ.get("TRITON_INTERPRET")), reason="run without TRITON_INTERPRET")


@pytest.fixture
def two(monkeypatch):
    """Two kernels of one variant each: one with stated work, one without."""
    every = registry.kernels()
    few = {}
    for name in ("lightning_scan", "blocks_forward"):
        few[name] = registry.Kernel(name, every[name].function, every[name].variants[:1])
    monkeypatch.setattr(kernel_table, "kernels", lambda: few)
    return few


@compiles
@pytest.mark.aot
def test_the_table_holds_what_the_compiler_says_and_predicts_only_stated_work(two):
    report = kernel_table.run(["sm_90"], arguments={"argv": ["bench", "--kernels"]})
    scan, forward = report.items
    assert report.exit_code == 0
    assert scan.input == "lightning_scan forward @ sm_90"
    assert "predicted_ms" not in scan.metrics
    assert scan.details["work"] is None
    assert forward.metrics["wgmma"] > 0
    assert 0 < forward.metrics["load_128"] <= forward.metrics["load_global"] + forward.metrics["copy_async"]
    assert 0 < forward.metrics["occupancy"] <= 1
    chip, flops = chips.CHIPS["sm_90"], 4 * 64 * 32 * 32768 * 32769 / 2
    assert forward.metrics["predicted_ms"] == pytest.approx(flops / chip.matrix_tflops / 1e9)
    assert not any("median" in name or "measured" in name for item in report.items for name in item.metrics)
    for suffix in ("json", "md", "csv"):
        text = render(report, f"table.{suffix}")
        assert "blocks_forward bf16-d64 @ sm_90" in text
        assert "predicted" in text
    assert json.loads(render(report, "a.json"))["notices"] == [kernel_table.PREDICTED]


@compiles
@pytest.mark.aot
def test_a_kernel_that_cannot_run_fails_the_run(two, monkeypatch):
    scan = two["lightning_scan"]
    wrong = registry.Variant("wrong", {}, {})
    monkeypatch.setitem(two, "lightning_scan", registry.Kernel("lightning_scan", scan.function, (wrong,)))
    big = registry.Kernel("blocks_forward", two["blocks_forward"].function, (_larger(two["blocks_forward"]),))
    monkeypatch.setitem(two, "blocks_forward", big)
    report = kernel_table.run(["sm_90"])
    assert report.exit_code == 3
    assert "does not compile" in report.items[0].error
    assert "spills" in report.items[1].error or "shared memory" in report.items[1].error


def _larger(kernel):
    variant = kernel.variants[0]
    return registry.Variant("larger", variant.types, {**variant.constants, "rows": 256, "keys": 256}, 4, 4)


def test_without_a_compiler_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(OptionError, match="TRITON_INTERPRET is set: unset it"):
        kernel_table.run(["sm_90"])
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OptionError, match="needs the package triton"):
        kernel_table.run(["sm_90"])


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "share"),
    [
        ("sm_90", 32, 0, 4, 1.0),  # 32 x 32 x 64 registers are all there are
        ("sm_90", 255, 0, 4, 8 / 64),  # 8192 of a warp: 8 warps
        ("sm_90", 32, 100_000, 4, 8 / 64),  # two blocks of shared memory
        ("sm_86", 40, 0, 1, 16 / 48),  # 16 blocks at most
        ("gfx942", 128, 0, 4, 16 / 32),  # 4 waves on each of 4 units
        ("gfx942", 64, 40_000, 4, 4 / 32),
        ("sm_80", 255, 0, 16, 0.0),  # not one block
    ],
)
def test_occupancy(target, registers, shared, warps, share):
    assert chips.occupancy(target, registers, shared, warps) == pytest.approx(share)
