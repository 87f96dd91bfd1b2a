"""Functions that PyTorch takes as one operator."""

import pytest
import torch
from torch import Tensor

from attn.core.opaque import opaque


@opaque(lambda x, weight, **_: (x.new_empty(x.shape), x.new_empty(x.shape[0])))
def scaled(
    x: Tensor, weight: Tensor | None = None, *, shift: float | None = None, times: int, grid: tuple[int, int] = (1, 2)
) -> tuple[Tensor, Tensor]:
    """Results of which one is a view of an argument, and a branch on data."""
    if not torch.compiler.is_compiling() and bool((x > 100).any()):
        raise ValueError("too large")
    y = x if weight is None else x @ weight
    return y.mT.mT if shift is None else (y.sin() + shift).mT.contiguous().mT, x.detach().sum(1) * grid[1] * times


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in (3, 3)
    ]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "given", [{}, {"shift": 2.0}, {"grid": (3, 4)}, {"weight": None, "shift": 1.0}], ids=lambda given: ",".join(given)
)
def test_a_graph_gives_the_same_results_and_gradients(backend, given):
    torch.compiler.reset()
    x, weight = inputs()
    arguments = {"weight": weight, "times": 3, **given}
    run = torch.compile(lambda x, arguments: scaled(x, **arguments), backend=backend, fullgraph=True)
    (out, sums), (truth, true_sums) = run(x, arguments), scaled(x, **arguments)
    assert torch.equal(out, truth)
    assert torch.equal(sums, true_sums)
    wanted = [t for t in (x, arguments["weight"]) if t is not None]
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in (out, truth)), strict=True):
        assert torch.equal(one, other)


def test_gradients_of_gradients_outside_and_inside_a_graph():
    torch.compiler.reset()
    x, weight = inputs()
    run = torch.compile(lambda x, w: scaled(x, w, shift=1.0, times=1)[0], backend="eager", fullgraph=True)
    assert torch.autograd.gradgradcheck(run, (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: scaled(x, w, shift=1.0, times=1)[0], (x, weight))


def test_the_operator_is_what_its_schema_says():
    x, weight = inputs(torch.float32)
    for arguments, wanted in (
        ((x, 2, weight, 1.0), ["x", "weight"]),
        ((x, 1, None, None, [5, 6]), ["x"]),
        ((x.detach(), 1, weight), ["weight"]),
    ):
        torch.library.opcheck(torch.ops.attn.test_opaque_scaled, arguments, {"wanted": wanted})


def test_autocast_stays_outside():
    x, weight = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = scaled(x, weight, times=1)
        assert (x @ weight).dtype == torch.bfloat16
    assert torch.equal(out, x @ weight)


def test_errors_of_a_function_come_through_a_graph():
    torch.compiler.reset()
    run = torch.compile(lambda x: scaled(x, times=1)[0], backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match="too large"):
        run(torch.full((2, 2), 101.0))
    with pytest.raises(TypeError, match="unexpected keyword"):
        scaled(torch.ones(1, 1), nonsense=1)


def test_arguments_that_fit_into_no_graph_are_refused_at_once():
    def of_a_module(x: Tensor, layer: torch.nn.Module) -> Tensor:
        return x

    with pytest.raises(TypeError, match=r"layer.*takes tensors, numbers, strings and tuples"):
        opaque(torch.empty_like)(of_a_module)
