"""The Triton bilateral filter against the printed equation in float64: values, gradients, borders, the golden vectors.

Few pixels, many shapes: the interpreter takes milliseconds for each offset of each program.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attn.kernels.bilateral import bilateral_filter

GOLDEN = Path(__file__).parents[1] / "golden" / "vectors" / "filter2noise" / "agbf_s1_wide.npz"

CASES = [  # batch, channels, height, width, patch size, radius
    (1, 1, 8, 16, 8, 1),
    (2, 1, 9, 11, 8, 2),  # two items; sides that no patch divides
    (1, 3, 7, 21, 4, 3),  # colour: one weight for three channels
    (1, 1, 4, 75, 8, 2),  # three programs side by side, the middle one far from both borders
    (1, 1, 6, 17, 8, 4),
    (1, 1, 8, 9, 8, 5),
    (1, 1, 8, 8, 8, 6),
    (1, 1, 9, 8, 16, 7),  # the radius of sigma 6, as large as the image allows: every pixel sees all mirror images
    (1, 1, 3, 5, 3, 2),  # odd patches, cut into single pixels
    (1, 2, 18, 20, 24, 2),  # large patches, cut into cells; two channels
    (1, 1, 1, 1, 8, 0),
]


def reference(image, patch_sigma, patch_size, radius):
    """Steps 12-15 of methods/filter2noise.md as printed. Dense, obvious, in the dtype of its arguments."""
    height, width = image.shape[2:]
    sigma = patch_sigma.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)[..., :height, :width]
    sigma_x, sigma_y, sigma_r = sigma.split(1, dim=1)  # [B, 1, H, W] each
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    numerator, denominator = torch.zeros_like(image), torch.zeros_like(sigma_x)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            neighbour = padded[..., radius + dy :, radius + dx :][..., :height, :width]
            distance = (image - neighbour).square().sum(1, keepdim=True)
            spatial = torch.exp(-(dx**2 / (2 * sigma_x**2) + dy**2 / (2 * sigma_y**2)))
            weight = spatial * torch.exp(-distance / (2 * sigma_r**2))
            numerator, denominator = numerator + weight * neighbour, denominator + weight
    return numerator / (denominator + 1e-8)


def make(shape, device, guarded, seed=0):
    """Image, sigmas and output gradient of a case: noise, widths up to the radius, range widths of 0.03 to 0.4."""
    batch, channels, height, width, patch_size, radius = shape
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, channels, height, width, generator=generator)
    grid = math.ceil(height / patch_size), math.ceil(width / patch_size)
    low = torch.tensor([0.3, 0.3, 0.03]).view(1, 3, 1, 1)
    high = torch.tensor([max(radius, 0.4), max(radius, 0.4), 0.4]).view(1, 3, 1, 1)
    sigma = low + (high - low) * torch.rand(batch, 3, *grid, generator=generator)
    grad_out = torch.randn(image.shape, generator=generator)
    return [guarded(tensor.to(device)) for tensor in (image, sigma, grad_out)]


def with_gradients(function, image, sigma, grad_out, *, patch_size, radius, dtype=torch.float32):
    """The result of ``function`` and its gradients for image and sigma."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (image, sigma)]
    out = function(*leaves, patch_size, radius)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad_out.to(dtype))]


def assert_as_accurate_as_eager(out, eager, truth, name):
    """STYLE.md, section 3.8: at most twice eager's error, and at most 1e-5 of the largest value."""
    assert out.dtype == torch.float32
    assert out.shape == truth.shape
    if not truth.numel():
        return
    error = (out.double() - truth).abs()
    eager_error = (eager.double() - truth).abs().max().item()
    worst = np.unravel_index(error.nan_to_num(torch.inf).argmax().item(), error.shape)
    text = f"{name}: max error {error.max():.2e} at {worst}, eager {eager_error:.2e}, largest {truth.abs().max():.2e}"
    print(text)
    assert error.max().item() <= 2 * eager_error + 1e-5, text
    assert error.max().item() <= max(1e-5 * truth.abs().max().item(), 2 * eager_error), text


def check(image, sigma, grad_out, **sizes):
    triple = [
        with_gradients(bilateral_filter, image, sigma, grad_out, **sizes),
        with_gradients(reference, image, sigma, grad_out, **sizes),
        with_gradients(reference, image, sigma, grad_out, **sizes, dtype=torch.float64),
    ]
    for name, out, eager, truth in zip(("out", "grad_image", "grad_sigma"), *triple, strict=True):
        assert_as_accurate_as_eager(out, eager, truth, name)


@pytest.mark.interpret
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_matches_reference(shape, device, guarded):
    check(*make(shape, device, guarded), patch_size=shape[4], radius=shape[5])


@pytest.mark.interpret
def test_radius_beyond_the_cap(device, guarded):
    image, sigma, _ = make((1, 1, 10, 11, 16, 9), device, guarded)
    out, eager = bilateral_filter(image, sigma, 16, 9), reference(image, sigma, 16, 9)
    assert_as_accurate_as_eager(out, eager, reference(image.double(), sigma.double(), 16, 9), "out")


@pytest.mark.interpret
@pytest.mark.parametrize("floored", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_sigma_at_its_floor(floored, device, guarded):
    """Step 9 leaves 1e-6: its inverse square is 1e12, and nothing may overflow. Equal pixels keep their weight of 1."""
    image, sigma, grad_out = make((1, 1, 6, 10, 8, 1), device, guarded)
    image[..., :4] = 0.25  # a flat region, where the range term is exactly 1 however small sigma_r
    sigma[:, list(floored)] = 1e-6
    check(image, sigma, grad_out, patch_size=8, radius=1)


@pytest.mark.interpret
def test_smallest_sigmas_return_the_image(device, guarded):
    image, sigma, grad_out = make((1, 3, 5, 9, 8, 1), device, guarded)
    sigma[:] = 1e-6
    out, grad_image, grad_sigma = with_gradients(bilateral_filter, image, sigma, grad_out, patch_size=8, radius=1)
    assert torch.equal(out, image)
    assert torch.equal(grad_image, grad_out)
    assert not grad_sigma.any()


@pytest.mark.interpret
def test_constant_image_stays_constant(device, guarded):
    image, sigma, grad_out = make((1, 1, 8, 9, 8, 2), device, guarded)
    image[:] = 0.7
    out, _, grad_sigma = with_gradients(bilateral_filter, image, sigma, grad_out, patch_size=8, radius=2)
    torch.testing.assert_close(out, image, rtol=3e-7, atol=0)
    assert grad_sigma.abs().max() < 1e-5


@pytest.mark.interpret
@pytest.mark.parametrize("shape", [(0, 1, 16, 16), (0, 3, 9, 11), (2, 1, 0, 8)], ids=str)
def test_empty(shape, device):
    image = torch.zeros(shape, device=device, requires_grad=True)
    grid = math.ceil(shape[2] / 8), math.ceil(shape[3] / 8)
    sigma = torch.ones(shape[0], 3, *grid, device=device, requires_grad=True)
    out = bilateral_filter(image, sigma, 8, 2)
    assert out.shape == shape
    out.sum().backward()
    assert image.grad.shape == image.shape
    assert sigma.grad.shape == sigma.shape
    assert not sigma.grad.any()


@pytest.mark.interpret
def test_repeating_gives_the_same_bits(device, guarded):
    tensors = make((1, 1, 9, 35, 8, 2), device, guarded)
    first = with_gradients(bilateral_filter, *tensors, patch_size=8, radius=2)
    again = with_gradients(bilateral_filter, *tensors, patch_size=8, radius=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.interpret
def test_items_do_not_influence_each_other(device, guarded):
    image, sigma, grad_out = make((2, 1, 7, 11, 8, 2), device, guarded)
    both = with_gradients(bilateral_filter, image, sigma, grad_out, patch_size=8, radius=2)
    second = with_gradients(bilateral_filter, image[1:], sigma[1:], grad_out[1:], patch_size=8, radius=2)
    assert all(torch.equal(a[1:], b) for a, b in zip(both, second, strict=True))


@pytest.mark.interpret
def test_image_that_needs_no_gradient(device, guarded):
    """The shortened backward pass of the first stage gives the same sigma gradient."""
    image, sigma, grad_out = make((1, 3, 7, 11, 8, 2), device, guarded)
    *_, expected = with_gradients(bilateral_filter, image, sigma, grad_out, patch_size=8, radius=2)
    sigma.requires_grad_()
    bilateral_filter(image, sigma, 8, 2).backward(grad_out)
    assert image.grad is None
    assert torch.equal(sigma.grad, expected)


@pytest.mark.interpret
def test_strided_tensors_and_broadcast_gradient(device, guarded):
    """Views come in as they are: transposed, channels last, and the expanded gradient of ``sum``."""
    image, sigma, grad_out = make((1, 3, 8, 10, 8, 1), device, guarded)
    expected = with_gradients(bilateral_filter, image, sigma, torch.ones_like(grad_out), patch_size=8, radius=1)
    strided = image.contiguous(memory_format=torch.channels_last).requires_grad_()
    turned = sigma.mT.contiguous().mT.requires_grad_()
    out = bilateral_filter(strided, turned, 8, 1)
    out.sum().backward()
    for ours, theirs in zip((out, strided.grad, turned.grad), expected, strict=True):
        assert torch.equal(ours.detach(), theirs)


@pytest.mark.interpret
def test_nan_stays_within_reach(device, guarded):
    image, sigma, _ = make((1, 1, 8, 12, 8, 2), device, guarded)
    image[0, 0, 3, 2] = torch.nan
    spread = bilateral_filter(image, sigma, 8, 2).isnan()[0, 0]
    expected = torch.zeros_like(spread)
    expected[1:6, 0:5] = True
    assert torch.equal(spread, expected)


def predict_sigma(image, parameters, patch_size=8):
    """Steps 6-9: the two attentions that give [B, 3, h, w], written out for the golden file."""
    batch, _, height, width = image.shape

    def linear(x, layer):
        return F.linear(x, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"])

    def attend(x, *layers):
        q, k, v = (linear(x, layer) for layer in layers)
        return (q @ k.mT / math.sqrt(8)).softmax(-1) @ v

    tokens = F.unfold(image, patch_size, stride=patch_size).mT  # [B, N, C * ps * ps]
    features = attend(attend(tokens, "query", "key", "value"), "sigma_query", "sigma_key", "sigma_value")
    features = F.layer_norm(features, (8,), parameters["norm.weight"], parameters["norm.bias"], 1e-5)
    sigma = F.softplus(linear(features, "sigma_proj")).clamp(max=6) + 1e-6  # [B, N, 3]
    return sigma.mT.reshape(batch, 3, height // patch_size, width // patch_size)


@pytest.mark.interpret
def test_golden_stage(device):
    """``agbf_s1_wide``: y within 2e-6, gradients within 1e-3 of the largest (methods/filter2noise.md, section 10)."""
    prefix = "stages.0.sigma_predictor."
    with np.load(GOLDEN) as file:
        golden = {name: torch.from_numpy(file[name]).to(device) for name in file.files}
    parameters = {
        name.removeprefix(f"p.{prefix}"): value.requires_grad_() for name, value in golden.items() if name[:2] == "p."
    }
    image = golden["x"].requires_grad_()
    sigma = predict_sigma(image, parameters)
    torch.testing.assert_close(sigma.flatten(2).mT, golden["patch_sigmas"], rtol=0, atol=2e-6)
    radius = math.ceil(sigma[:, :2].max().item())
    assert 2 * radius + 1 == int(golden["kernel_size"]) == 7

    y = bilateral_filter(image, sigma, 8, radius)
    torch.testing.assert_close(y, golden["y"], rtol=0, atol=2e-6)
    y.backward(golden["grad_out"])
    expected = {name: golden[f"g.{prefix}{name}"] for name in parameters} | {"image": golden["grad_x"]}
    largest_of_all = max(expected[name].abs().max().item() for name in parameters)
    for name, leaf in {**parameters, "image": image}.items():
        # a key's bias shifts a whole row of scores, which softmax ignores: its gradient is zero but for rounding
        largest = largest_of_all if name.endswith("key.bias") else expected[name].abs().max().item()
        error = (leaf.grad - expected[name]).abs().max().item()
        print(f"{name}: error {error:.1e} of {largest:.1e}, ratio {error / largest:.1e}")
        torch.testing.assert_close(leaf.grad, expected[name], rtol=0, atol=1e-3 * largest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(1, 1, 16, 16, dtype=torch.float64)}, "image is torch.float64.*float32 only"),
        ({"patch_sigma": torch.ones(1, 3, 2, 2, dtype=torch.float16)}, "float32 only"),
        ({"image": torch.zeros(16, 16)}, r"image must be \[B, C, H, W\]"),
        ({"image": torch.zeros(1, 0, 16, 16)}, "at least one channel"),
        ({"patch_sigma": torch.ones(1, 3, 2, 3)}, r"patches of 8 pixels need \[1, 3, 2, 2\]"),
        ({"patch_sigma": torch.ones(2, 3, 2, 2)}, "does not fit image"),
        ({"image": torch.zeros(1, 1, 17, 16)}, r"need \[1, 3, 3, 2\]"),
        ({"radius": 16}, "radius 16 must be smaller than both sides"),
        ({"radius": -1}, "radius not negative"),
        ({"patch_size": 0}, "patch_size must be positive"),
        ({"patch_sigma": torch.ones(1, 3, 2, 2, device="meta")}, "must be together"),
        (
            {"image": torch.zeros(1).expand(1, 1, 65536, 32768), "patch_sigma": torch.ones(1, 3, 8192, 4096)},
            "too large",
        ),
    ],
)
def test_refuses(change, message):
    arguments = {
        "image": torch.zeros(1, 1, 16, 16),
        "patch_sigma": torch.ones(1, 3, 2, 2),
        "patch_size": 8,
        "radius": 2,
    }
    with pytest.raises(ValueError, match=message):
        bilateral_filter(**{**arguments, **change})


def test_refuses_the_cpu_outside_the_interpreter(interpreted):
    if interpreted:
        pytest.skip("run without TRITON_INTERPRET")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        bilateral_filter(torch.zeros(1, 1, 16, 16), torch.ones(1, 3, 2, 2), 8, 2)
