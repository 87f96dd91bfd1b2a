"""Gradients over the registry: those of the reference, for every input, and never silently of the wrong order."""

import pytest
import torch
from qkv import random_qkv
from small_operators import NAMES, arguments

from attn.core.attention import attention
from attn.core.attention.registry import OPERATORS

SHAPE = (1, 2, 2, 256, 256, 8)
CHANNELS = 16  # heads times head_dim


def extra(name):
    """Further tensors of an operator that want a gradient, by parameter."""
    return {
        "superlinear": {"q_search": torch.randn(1, 2, 256, 8, dtype=torch.float64)},
        "bra": {
            "lepe": torch.randn(CHANNELS, 1, 3, 3, dtype=torch.float64),
            "lepe_bias": torch.randn(CHANNELS, dtype=torch.float64),
        },
        "halo": {
            "height_rel": torch.randn(11, 8, dtype=torch.float64),
            "width_rel": torch.randn(11, 8, dtype=torch.float64),
        },
    }.get(name, {})


def gradients(name, backend, *, create_graph=False):
    tensors = [x.requires_grad_() for x in random_qkv(SHAPE, torch.float64, seed=5)]
    torch.manual_seed(7)
    more = {key: value.requires_grad_() for key, value in extra(name).items()}
    out = attention(name, *tensors, backend=backend, **arguments(name), **more)
    torch.manual_seed(9)
    leaves = [*tensors, *more.values()]
    return leaves, torch.autograd.grad(out, leaves, torch.randn_like(out), create_graph=create_graph)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_reference_or_refused(name):
    if not OPERATORS[name].resolve().differentiable:
        with pytest.raises(ValueError, match="has no gradients"):
            gradients(name, "auto")
        return
    for own, true in zip(gradients(name, "auto")[1], gradients(name, "reference")[1], strict=True):
        assert true.abs().max() > 0
        torch.testing.assert_close(own, true, rtol=1e-8, atol=1e-8 * float(true.abs().max()))


@pytest.mark.parametrize("name", [n for n in NAMES if OPERATORS[n].resolve().differentiable])
def test_second_order_is_right_or_refused(name):
    """The incoming gradient is a constant: torch's ``once_differentiable`` would give wrong numbers here."""
    leaves, first = gradients(name, "auto", create_graph=True)
    loss = sum((x**2).sum() for x in first[:3])
    try:
        second = torch.autograd.grad(loss, leaves[:3])
    except RuntimeError as error:
        assert "first order only" in str(error)  # noqa: PT017 - some operators have it, some do not
        return
    leaves, first = gradients(name, "reference", create_graph=True)
    true = torch.autograd.grad(sum((x**2).sum() for x in first[:3]), leaves[:3])
    for own, other in zip(second, true, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-7 * float(other.abs().max()))


def test_slopes_have_no_gradient_and_say_so():
    q, k, v = random_qkv((1, 2, 2, 8, 8, 4))
    slope = torch.rand(2, requires_grad=True)
    with pytest.raises(ValueError, match="slope has no gradient"):
        attention("lightning", q, k, v, causal=True, decay="custom", slope=slope)
    attention("lightning", q, k, v, causal=True, decay="custom", slope=slope.detach())
