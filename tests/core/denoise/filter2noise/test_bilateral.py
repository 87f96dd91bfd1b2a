"""The bilateral filter of Filter2Noise: the fused kernel against the equations in float64, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attn.core import jit as _jit
from attn.core.denoise.filter2noise.bilateral import bilateral_filter, radius_of, to_pixels
from attn.core.threads import kernels_own_the_threads

pytest.importorskip("numba")

# (B, H, W, patch size, radius): odd sides, one patch, sides just above the radius, widths per pixel
CASES = [
    (2, 32, 48, 8, 3),
    (1, 24, 40, 8, 7),
    (2, 15, 25, 5, 5),
    (1, 31, 9, 1, 4),
    (1, 8, 8, 8, 7),
    (1, 16, 34, 2, 6),
    (1, 2, 2, 1, 1),
    (1, 40, 24, 8, 2),
    (3, 8, 8, 4, 0),
]


def problem(case: tuple[int, int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Image, widths and output gradient of a case; σ covers (0, radius], σr (0.02, 0.25)."""
    batch, height, width, patch_size, radius = case
    generator = torch.Generator().manual_seed(sum(case))
    image = torch.rand(batch, 1, height, width, generator=generator) * 0.4
    sigma = torch.rand(batch, 3, height // patch_size, width // patch_size, generator=generator)
    sigma = sigma * torch.tensor([max(radius, 0.3) - 0.1, max(radius, 0.3) - 0.1, 0.23])[:, None, None] + 0.02
    grad = torch.randn(batch, 1, height, width, generator=generator)
    return image.to(dtype), sigma.to(dtype), grad.to(dtype)


def outputs(case: tuple[int, int, int, int, int], dtype: torch.dtype, backend: str) -> tuple[Tensor, ...]:
    """Filtered image and the gradients of the widths and of the image."""
    image, sigma, grad = problem(case, dtype)
    image.requires_grad_()
    sigma.requires_grad_()
    out = bilateral_filter(image, sigma, patch_size=case[3], radius=case[4], backend=backend)
    torch.autograd.backward(out, grad)
    assert image.grad is not None
    assert sigma.grad is not None
    return out.detach(), sigma.grad, image.grad


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_is_as_accurate_as_eager(case: tuple[int, int, int, int, int]) -> None:
    truth = outputs(case, torch.float64, "reference")
    eager = outputs(case, torch.float32, "reference")
    fused = outputs(case, torch.float32, "cpu")
    for name, t, e, f in zip(("out", "grad sigma", "grad image"), truth, eager, fused, strict=True):
        largest = t.abs().max().item()
        error, allowed = (f - t).abs().max().item(), 2 * (e - t).abs().max().item() + 1e-5
        print(f"{name}: error {error:.2e}, allowed {allowed:.2e}, largest {largest:.2e}")
        assert error <= allowed
        assert error <= 1e-5 * largest + 1e-7


def test_reference_gradients_are_those_of_finite_differences() -> None:
    image, sigma, _ = problem((1, 8, 8, 4, 2), torch.float64)
    image.requires_grad_()
    sigma.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda i, s: bilateral_filter(i, s, patch_size=4, radius=2, backend="reference"), (image, sigma)
    )


def test_image_without_gradient_gives_the_same_sigma_gradient() -> None:
    case = CASES[0]
    image, sigma, grad = problem(case, torch.float32)
    sigma.requires_grad_()
    out = bilateral_filter(image, sigma, patch_size=case[3], radius=case[4], backend="cpu")
    torch.autograd.backward(out, grad)
    assert sigma.grad is not None
    torch.testing.assert_close(sigma.grad, outputs(case, torch.float32, "cpu")[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_smallest_widths_leave_the_image_alone(backend: str) -> None:
    image, sigma, grad = problem((1, 16, 16, 8, 1), torch.float32)
    sigma = torch.full_like(sigma, 1e-6).requires_grad_()
    out = bilateral_filter(image, sigma, patch_size=8, backend=backend)
    torch.autograd.backward(out, grad)
    assert torch.equal(out, image)
    assert sigma.grad is not None
    assert bool(torch.isfinite(sigma.grad).all())


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), radius=st.integers(1, 4), scale=st.sampled_from([1e-6, 0.01, 0.3, 100.0]))
def test_output_stays_within_its_neighbourhood(seed: int, radius: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 1, 16, 24, generator=generator)
    sigma = torch.rand(1, 3, 2, 3, generator=generator) * radius + 1e-6
    sigma[:, 2] *= scale
    out = bilateral_filter(image, sigma, patch_size=8, radius=radius)
    padded = torch.nn.functional.pad(image, (radius,) * 4, mode="reflect")
    highest = torch.nn.functional.max_pool2d(padded, 2 * radius + 1, 1)
    lowest = -torch.nn.functional.max_pool2d(-padded, 2 * radius + 1, 1)
    assert bool((out <= highest + 1e-6).all())
    assert bool((out >= lowest - 1e-6).all())


def test_same_bits_again_and_with_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            with kernels_own_the_threads():
                results.append(outputs((2, 40, 24, 8, 3), torch.float32, "cpu"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_radius_is_the_ceiling_of_the_largest_width() -> None:
    sigma = torch.full((1, 3, 2, 2), 0.5)
    sigma[:, 2] = 9.0  # the range width has no say
    assert radius_of(sigma) == 1
    sigma[0, 1, 1, 1] = 1.0000001
    assert radius_of(sigma) == 2


def test_patches_share_their_widths() -> None:
    image, sigma, _ = problem(CASES[0], torch.float32)
    by_pixel = bilateral_filter(image, to_pixels(sigma, 8), patch_size=1, radius=3)
    torch.testing.assert_close(by_pixel, bilateral_filter(image, sigma, patch_size=8, radius=3), rtol=1e-6, atol=1e-7)


def test_three_channels_share_their_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    grey, sigma, _ = problem((1, 16, 16, 8, 2), torch.float64)
    same = bilateral_filter(grey.expand(-1, 3, -1, -1), sigma, patch_size=8, radius=2)
    # three equal channels triple the squared distance, as a range width smaller by sqrt(3) would
    narrower = sigma.clone()
    narrower[:, 2] /= 3**0.5
    expected = bilateral_filter(grey, narrower, patch_size=8, radius=2).expand_as(same)
    torch.testing.assert_close(same, expected)
    colours = torch.rand(1, 3, 16, 16, generator=generator, dtype=torch.float64)
    out = bilateral_filter(colours, sigma, patch_size=8, radius=2)
    assert out.shape == colours.shape


def test_empty_batch() -> None:
    out = bilateral_filter(torch.empty(0, 1, 16, 16), torch.empty(0, 3, 2, 2), patch_size=8)
    assert out.shape == (0, 1, 16, 16)


@pytest.mark.parametrize(
    ("shape", "sigma_shape", "radius", "backend", "message"),
    [
        ((1, 1, 16, 16), (1, 3, 2, 3), 1, "auto", "does not fit"),
        ((1, 1, 17, 16), (1, 3, 2, 2), 1, "auto", "does not fit"),
        ((1, 1, 8, 8), (1, 3, 1, 1), 8, "auto", "smaller than both sides"),
        ((1, 1, 8, 8), (1, 3, 1, 1), 1, "cudnn", "backend is one of"),
        ((1, 2, 8, 8), (1, 3, 1, 1), 1, "cpu", "float32 CPU images"),
    ],
)
def test_refuses(shape: tuple[int, ...], sigma_shape: tuple[int, ...], radius: int, backend: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bilateral_filter(torch.zeros(shape), torch.ones(sigma_shape), patch_size=8, radius=radius, backend=backend)


def test_compiles_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = _jit.njit

    def read_only(*args: object, cache: bool = False, **kwargs: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")  # what numba raises
        return compile_(*args, **kwargs)

    def double(a: object) -> None:
        a[0] *= 2  # type: ignore[index]

    monkeypatch.setattr(_jit, "njit", read_only)
    values = torch.ones(1)
    _jit.kernel("void(float32[::1])")(double)()(values.numpy())
    assert values.item() == 2
