"""Wrappers of kernels as operators of PyTorch: schema, fake results, gradients; in graphs and exported programs."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import Tensor
from torch.library import CustomOpDef

from attn.core.attention.blocks.runs_triton import runs_of
from attn.core.attention.dense import Everything
from attn.kernels import bilateral, blocks, guided, halo, hip, launch, lightning, probing, registry

RANDOM = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Results begin where their memory begins, as fake ones do: no stretch of NaN in front of them here."""


@pytest.fixture
def graphs():
    """Graphs ask PyTorch for the GPU, which the sanitiser does not have."""
    if "ttsem.sanitize" in sys.modules:
        pytest.skip("no GPU that graphs could ask for")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=RANDOM)


def of_lightning(reverse: bool) -> tuple:
    slope = torch.tensor([0.5, 0.0])
    return random(1, 2, 18, 16), random(1, 2, 18, 16), random(1, 2, 18, 8), slope, random(1, 2, 16, 8), reverse


def of_blocks() -> tuple:
    kept = runs_of(Everything(16, 64, 18, 18, True), torch.device("cpu"))
    shapes = (1, 2, 18, 16), (1, 1, 18, 16), (1, 1, 18, 8)
    rest = kept.indptr, kept.runs, 0.3, kept.block_m, kept.shared, kept.causal, kept.window, kept.num_sinks
    return *(random(*shape) for shape in shapes), *rest


def of_bilateral() -> tuple:
    return random(1, 1, 8, 9).sigmoid(), -random(1, 3, 1, 2).abs(), 8, 2


def of_probing() -> tuple:
    return random(3, 16), random(2, 5, 16)


def of_halo() -> tuple:
    maps = random(1, 6, 6, 16), random(1, 6, 6, 8)
    return random(4, 4, 16), *maps, random(4, 4, 4), random(4, 4, 4), [2, 2, 2, 1, 4, 4, 4], 0.3, False


CALLS = {
    "lightning": (lightning.sweep, lambda: of_lightning(False), (0, 1, 2, 4)),
    "lightning-reverse": (lightning.sweep, lambda: of_lightning(True), (0, 1, 2, 4)),
    "blocks": (blocks._forward, of_blocks, (0, 1, 2)),
    "bilateral": (bilateral._filter, of_bilateral, (0, 1)),
    "halo": (halo.attend, of_halo, (0, 1, 2, 3, 4)),
    "probing": (probing._pool, of_probing, (0, 1)),
}
"""Operator, arguments, and which of them have gradients."""


def call(name: str, device: torch.device) -> tuple:
    operator, make, differentiable = CALLS[name]
    RANDOM.manual_seed(0)
    given = [x.to(device) if isinstance(x, Tensor) else x for x in make()]
    for i in differentiable:
        given[i].requires_grad_()
    return operator, given, [given[i] for i in differentiable]


@pytest.mark.interpret
@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name, device, graphs):
    operator, given, _ = call(name, device)
    torch.library.opcheck(operator.op, given)


@pytest.mark.interpret
def test_opcheck_without_gradients(device, graphs):
    sizes = (1, 2, 6, 7), (1, 2, 6, 7), (1, 2, 9, 8), (1, 1, 6, 7)
    torch.library.opcheck(guided.guided_filter.op, (*(random(*size).to(device) for size in sizes), False, 2, 1e-2))

    q, k, v = random(1, 2, 9, 16), random(1, 1, 20, 16), random(1, 1, 20, 8)
    starts, count = torch.zeros(1, 2, 2, 1, dtype=torch.int32), torch.ones(2, dtype=torch.int64)
    given = (*(x.to(device) for x in (q, k, v, starts, count)), 0.3, 2, 8, 4, 8, 0)
    torch.library.opcheck(hip.attend.op, given)


@pytest.mark.interpret
def test_opcheck_of_gradients_that_are_operators(device, graphs):
    _, (q, k, v, *rest), _ = call("blocks", device)
    q, k, v = (x.detach() for x in (q, k, v))
    out, lse = blocks._forward(q, k, v, *rest)
    given = (q, k, v, out, lse, torch.ones_like(out), torch.zeros_like(lse), *rest)
    torch.library.opcheck(blocks._backward.op, given)
    _, (image, rate, cell, radius), _ = call("bilateral", device)
    image, rate = image.detach(), rate.detach()
    out, total = bilateral._filter(image, rate, cell, radius)
    for image_grad in (True, False):
        given = (image, rate, out, out / total[:, None], cell, radius, image_grad)
        torch.library.opcheck(bilateral._filter_gradient.op, given)
    query, x = (y.to(device) for y in of_probing())
    pooled, maps = probing._pool(query, x)
    for of_tokens in (True, False):
        torch.library.opcheck(probing._pool_gradient.op, (query, x, pooled, maps, pooled, of_tokens))


@pytest.mark.interpret
def test_lightning_from_either_side_has_the_gradients_of_its_formula(device):
    """``reverse`` has no caller with a gradient of its own."""
    for name in ("lightning", "lightning-reverse"):
        operator, (q, k, v, slope, state, reverse), leaves = call(name, device)
        out, last = operator(q, k, v, slope, state, reverse)
        at = torch.arange(18, device=device)
        distance = (at[None, :] - at[:, None]) if reverse else (at[:, None] - at[None, :])
        lam = torch.exp(-slope)[:, None, None]
        fade = torch.where(distance >= 0, lam ** distance.clamp(min=0), 0.0)
        before, after = (17 - at, at + 1) if reverse else (at + 1, 17 - at)
        plain = (q @ k.mT * fade) @ v + lam ** before[:, None] * (q @ state)
        plain_last = lam**18 * state + (k * lam ** after[:, None]).mT @ v
        assert torch.allclose(out, plain, atol=1e-4)
        assert torch.allclose(last, plain_last, atol=1e-4)
        ours, truth = (
            torch.autograd.grad(a.sin().sum() + b.cos().sum(), leaves) for a, b in ((out, last), (plain, plain_last))
        )
        for one, other in zip(ours, truth, strict=True):
            assert torch.allclose(one, other, atol=1e-3), name


@pytest.mark.interpret
@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_graph_holds_the_operator_and_gives_the_same_bits(name, device, graphs):
    torch.compiler.reset()
    operator, given, leaves = call(name, device)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda *x: operator(*x), backend=backend, fullgraph=True)
    results = [run(*given) for run in (operator, compiled)]
    assert [str(n.target) for n in graphs[0].graph.nodes if "kernels_" in str(n.target)]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    eager, traced = (torch.autograd.grad(r[0].square().sum(), leaves, allow_unused=True) for r in results)
    for one, other in zip(eager, traced, strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.interpret
@pytest.mark.parametrize("name", ["lightning", "blocks", "bilateral"])
def test_an_exported_program_holds_the_operator(name, device):
    operator, given, _ = call(name, device)
    tensors = [x.detach() for x in given if isinstance(x, Tensor)]
    rest = [x for x in given if not isinstance(x, Tensor)]

    class Module(torch.nn.Module):
        def forward(self, *x):
            return operator(*x, *rest)

    program = torch.export.export(Module(), tuple(tensors))
    assert any("kernels_" in str(node.target) for node in program.graph.nodes)
    for one, other in zip(program.module()(*tensors), operator(*tensors, *rest), strict=True):
        assert torch.equal(one, other)


@pytest.mark.interpret
def test_a_gradient_of_a_gradient_is_an_error_and_no_zero(device):
    operator, given, (image, _) = call("bilateral", device)
    (grad,) = torch.autograd.grad(operator(*given)[0].sum(), [image], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        grad.sum().backward()


NO_OPERATOR_YET: set[str] = set()
"""Files of kernels whose wrappers no graph can hold yet."""


@pytest.mark.parametrize("name", registry.MODULES)
def test_every_file_of_kernels_has_its_operators(name):
    module = importlib.import_module(f"attn.kernels.{name}")
    found = [x for x in vars(module).values() if isinstance(getattr(x, "op", None), CustomOpDef)]
    assert bool(found) != (name in NO_OPERATOR_YET), f"{name}: {launch.__doc__}"
