"""Every registered kernel compiles for every chip we name without spills and within the shared memory of a block."""

from __future__ import annotations

import pytest
import triton
import triton.language as tl

from attn.kernels import aot, registry

TARGETS = ("sm_80", "sm_90", "gfx942")
RARE = ("sm_86", "sm_100", "gfx90a")
CASES = [
    pytest.param(
        kernel,
        variant,
        target,
        id=f"{kernel.name}-{variant.label}-{target}",
        marks=[pytest.mark.slow] if target in RARE else [],
    )
    for kernel in registry.kernels().values()
    for variant in kernel.variants
    for target in TARGETS + RARE
    if variant.is_for(target)
]


@pytest.fixture
def compiler(interpreted):
    """Skips where the interpreter has taken the compiler's place."""
    if interpreted:
        pytest.skip("run without TRITON_INTERPRET")


@triton.jit
def product_kernel(a_ptr, b_ptr, out_ptr, count, size: tl.constexpr):
    """Sum of ``count`` products of tiles [size, size], the heart of an attention kernel; large tiles spill."""
    rows = tl.arange(0, size)
    at = rows[:, None] * size + rows[None, :]
    total = tl.zeros((size, size), tl.float32)
    for i in range(count):
        tile = i * size * size
        total = tl.dot(tl.load(a_ptr + tile + at), tl.load(b_ptr + tile + at), total)
    tl.store(out_ptr + at, total)
    tl.atomic_add(out_ptr, tl.sum(tl.sum(total, 1), 0))


def product(size: int, num_warps: int, num_stages: int = 2) -> registry.Kernel:
    types = {"a_ptr": "*fp16:16", "b_ptr": "*fp16:16", "out_ptr": "*fp32:16", "count": "i32"}
    variant = registry.Variant(f"{size}", types, {"size": size}, num_warps, num_stages)
    return registry.Kernel("product", product_kernel, (variant,))


@pytest.mark.aot
@pytest.mark.parametrize(("kernel", "variant", "target"), CASES)
def test_compiles_without_spills(compiler, kernel, variant, target):
    compiled = aot.compile_kernel(kernel, variant, target)
    assert compiled.spilled == 0, compiled
    assert compiled.shared <= compiled.limit, compiled
    assert compiled.fits
    assert compiled.registers > 0
    if "tl.dot(" in kernel.function.src and not {"*bf16:16", "*fp16:16"}.isdisjoint(variant.types.values()):
        units = ("mma", "wgmma", "tcgen05")
        assert sum(compiled.instructions[unit] for unit in units), "matrices are multiplied without matrix units"
        assert compiled.instructions["load_128"], "no tile is loaded 128 bits at a time"


@pytest.mark.aot
@pytest.mark.parametrize("target", TARGETS)
def test_bilateral_uses_one_exp_per_tap_and_no_atomics(compiler, target):
    table = aot.rows([registry.kernels()["bilateral_forward"]], [target])
    assert [row["variant"] for row in table] == ["c1-cell8", "c3-cell8", "c1-cell16", "c3-cell1"]
    for row in table:
        assert row["atomic"] == 0
        assert row["exp2"] >= 1
        assert row["load_global"] >= 4  # image and three rates
        assert row["store_global"] >= 2  # result and sum of weights


@pytest.mark.aot
@pytest.mark.parametrize(
    ("target", "unit"), [("sm_80", "mma"), ("sm_90", "wgmma"), ("sm_100", "tcgen05"), ("gfx942", "mma")]
)
def test_report_sees_tensor_cores_and_atomics(compiler, target, unit):
    compiled = aot.compile_kernel(product(64, num_warps=4), "64", target)
    units = {name: compiled.instructions[name] for name in ("mma", "wgmma", "tcgen05")}
    assert [name for name, count in units.items() if count] == [unit]
    assert compiled.instructions["atomic"] >= 1
    assert compiled.fits


@pytest.mark.aot
@pytest.mark.parametrize(("target", "num_warps"), [("sm_80", 2), ("gfx942", 1)])
def test_report_sees_spills(compiler, target, num_warps):
    """The sum alone takes 256 registers of each thread: an NVIDIA thread has 255, an AMD one 512, operands included."""
    compiled = aot.compile_kernel(product(128, num_warps), "128", target)
    assert compiled.spilled > 0
    assert not compiled.fits


@pytest.mark.aot
def test_report_sees_too_much_shared_memory(compiler):
    compiled = aot.compile_kernel(product(128, num_warps=8, num_stages=4), "128", "sm_86")
    assert compiled.shared > compiled.limit == 101_376
    assert not compiled.fits


@pytest.mark.aot
def test_variant_must_cover_the_arguments(compiler):
    kernel = product(64, num_warps=4)
    wrong = registry.Variant("wrong", {"a_ptr": "*fp16", "bias_ptr": "*fp16"}, {"size": 64})
    with pytest.raises(ValueError, match=r"Missing \['b_ptr', 'count', 'out_ptr'\], unknown \['bias_ptr'\]"):
        aot.compile_kernel(kernel, wrong, "sm_90")


def test_unknown_target_and_label():
    kernel = product(64, num_warps=4)
    with pytest.raises(ValueError, match="no compile target 'sm_12'"):
        aot.compile_kernel(kernel, "64", "sm_12")
    with pytest.raises(ValueError, match=r"no variant '65'. Known: \['64'\]"):
        aot.compile_kernel(kernel, "65", "sm_90")


def test_interpreted_kernels_are_refused(interpreted):
    if not interpreted:
        pytest.skip("run with TRITON_INTERPRET=1")
    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        aot.compile_kernel(product(64, num_warps=4), "64", "sm_90")


def test_registry_refuses_what_is_ambiguous():
    variant = registry.Variant("a", {}, {})
    with pytest.raises(ValueError, match="unique labels"):
        registry.Kernel("twice", None, (variant, variant))
    with pytest.raises(ValueError, match="unique labels"):
        registry.Kernel("none", None, ())
    with pytest.raises(ValueError, match="registered twice"):
        registry.kernels(("bilateral", "bilateral"))


def test_variant_for_some_targets_only():
    variant = registry.Variant("a", {}, {}, targets=("sm_90",))
    assert variant.is_for("sm_90")
    assert not variant.is_for("sm_80")
    assert registry.Variant("b", {}, {}).is_for("sm_80")
