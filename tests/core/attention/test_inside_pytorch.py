"""Every operator inside PyTorch's own machinery, over the registry: compiled, exported, under autocast."""

import contextlib

import pytest
import torch
from qkv import random_qkv
from small_operators import NAMES, arguments

from attn.core.attention import attention
from attn.core.attention.flux.router import LayerRouter
from attn.core.attention.registry import OPERATORS
from attn.core.attention.sparsifiner.operator import ConnectivityPredictor
from attn.core.nets.bra_layers import BiLevelRoutingAttention, BiLevelRoutingAttentionNCHW
from attn.core.nets.halonet import HaloAttn
from attn.core.nets.sparsifiner_vit import SparsifinerConfig, SparsifinerViT
from attn.core.nets.tnl import TNL

DIFFERENTIABLE = [name for name in NAMES if OPERATORS[name].resolve().differentiable]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


def qkv(*, grad=False, length=256, batch=1, dtype=torch.float32):
    tensors = random_qkv((batch, 4, 2, length, length, 32), seed=3)  # grouped heads
    return [t.to(dtype).detach().clone().requires_grad_(grad) for t in tensors]


def gradients(out, tensors):
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out.dtype)
    return torch.autograd.grad(out, tensors, weight)


def assert_same_call(name, run, *, exact=True, dtype=torch.float32, **params):
    """``run`` wraps the operator without changing result, dtype or gradients."""
    given = {**arguments(name), **params}
    has_gradient = name in DIFFERENTIABLE
    ours, plain = qkv(grad=has_gradient, dtype=dtype), qkv(grad=has_gradient, dtype=dtype)
    truth = attention(name, *plain, **given)
    out = run(lambda *x: attention(name, *x, **given))(*ours)
    assert out.dtype == dtype
    assert out.requires_grad == truth.requires_grad
    assert torch.equal(out, truth)
    if has_gradient:
        for one, other in zip(gradients(out, ours), gradients(truth, plain), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def autocast(dtype):
    def wrap(function):
        def within(*args):
            with torch.autocast("cpu", dtype=dtype):
                return function(*args)

        return within

    return wrap


def compiled(backend="eager", **options):
    return lambda function: torch.compile(function, backend=backend, fullgraph=True, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(name, dtype):
    assert_same_call(name, autocast(dtype))
    assert_same_call(name, autocast(dtype), dtype=torch.float16 if dtype == torch.bfloat16 else torch.bfloat16)


def test_autocast_changes_no_reference(name):
    q, k, v = qkv()
    truth = attention(name, q, k, v, backend="reference", **arguments(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention(name, q, k, v, backend="reference", **arguments(name)), truth)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_backward_pass_inside_autocast(name):
    ours, plain = qkv(grad=True), qkv(grad=True)
    truth = gradients(attention(name, *plain, **arguments(name)), plain)
    with torch.autocast("cpu", dtype=torch.float16):
        found = gradients(attention(name, *ours, **arguments(name)), ours)
    for one, other in zip(found, truth, strict=True):
        assert (one - other).norm() <= 2e-3 * other.norm()  # torch's own products are rounded to float16 there


def test_a_graph_has_the_operator_whole(name):
    assert_same_call(name, compiled())


def test_a_graph_under_autocast(name):
    assert_same_call(name, lambda function: autocast(torch.bfloat16)(compiled()(function)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_graph_with_its_gradient_traced(name, dtype):
    assert_same_call(name, compiled("aot_eager"), dtype=dtype)


@pytest.mark.slow
def test_one_graph_serves_all_lengths(name):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    given = arguments(name)

    def run(q, k, v):
        here = {**given, "grid": (16, q.shape[2] // 16)} if "grid" in given else given
        return attention(name, q, k, v, **here)

    function = torch.compile(run, backend=keep, fullgraph=True)
    for length in (256, 320, 384, 512):
        tensors = qkv(length=length, batch=2)
        assert torch.equal(function(*tensors), run(*tensors))
    assert len(graphs) == 2  # of the first length, and of any


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_export(name, strict):
    given = arguments(name)

    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return attention(name, q, k, v, **given)

    tensors = tuple(qkv())
    program = torch.export.export(Layer(), tensors, strict=strict)
    assert torch.equal(program.module()(*tensors), Layer()(*tensors))


def test_one_operator_exported_and_with_its_gradient_traced():
    """Of every operator, and graphs that serve all lengths: marked slow."""
    test_export("hip", strict=True)
    test_export("dense", strict=False)
    test_a_graph_with_its_gradient_traced("hip", torch.float32)


def test_inputs_that_want_gradients_where_none_are_recorded(name):
    operator, given = OPERATORS[name].resolve(), arguments(name)
    tensors = qkv(grad=True)
    truth = attention(name, *qkv(), **given)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(attention(name, *tensors, **given), truth)
    if operator.select is not None:
        with torch.no_grad():
            chosen = operator.select(*tensors[:2], scale=None, **given)
            alone = operator.attend(*tensors, chosen, scale=None, **given)
        torch.testing.assert_close(alone, truth)  # an operator whose search and attention are one kernel adds otherwise
    if operator.decoder is not None:
        parameters = {key: value for key, value in given.items() if key != "causal"}
        steps = [operator.decoder(q[:, :, -1:], k, v, **parameters)() for q, k, v in (tensors, qkv())]
        torch.testing.assert_close(*steps)


@pytest.mark.parametrize("name", [name for name in NAMES if OPERATORS[name].resolve().select])
def test_the_phases_interrupt_a_graph(name):
    operator, given = OPERATORS[name].resolve(), arguments(name)

    def both(q, k, v):
        return operator.attend(q * 1, k, v, operator.select(q * 1, k, scale=None, **given), scale=None, **given)

    assert torch.equal(torch.compile(both, backend="eager")(*qkv()), both(*qkv()))


def test_wrong_calls_of_a_graph_are_refused_as_outside():
    for params, message in (({"nonsense": 1}, "no parameter"), ({"scale": -1.0}, "must be positive")):
        function = torch.compile(lambda *x, p=params: attention("hip", *x, causal=True, **p), backend="eager")
        with pytest.raises(ValueError, match=message):
            function(*qkv())


@pytest.mark.parametrize("wrap", [compiled(), autocast(torch.bfloat16)], ids=["compiled", "autocast"])
def test_routers_and_predictors(wrap):
    torch.manual_seed(0)
    router = LayerRouter(32)
    predictor = ConnectivityPredictor(256, 32)
    for training in (True, False):
        router.train(training)
        noise = torch.get_rng_state()

        def again(function, state=noise):
            def seeded(*args):
                torch.set_rng_state(state)
                return function(*args)

            return seeded

        q, k, v = qkv()
        run = lambda *x: attention("flux", *x, causal=True, route="auto", router=router, local=64, block_size=16)  # noqa: E731
        assert torch.equal(again(wrap(run))(q, k, v), again(run)(q, k, v))
    run = lambda *x: attention("sparsifiner", *x, causal=False, predictor=predictor)  # noqa: E731
    assert torch.equal(wrap(run)(q, k, v), run(q, k, v))


MODULES = {
    "bra": (lambda: BiLevelRoutingAttention(16, num_heads=2, n_win=2, topk=2, auto_pad=True), (2, 7, 9, 16)),
    "bra, channels first": (lambda: BiLevelRoutingAttentionNCHW(16, num_heads=2, n_win=3, topk=2), (2, 16, 8, 8)),
    "halo": (lambda: HaloAttn(16, num_heads=2, block_size=4, halo_size=1, stride=2), (2, 16, 8, 8)),
    "tnl": (lambda: TNL(32, 16, 2, 2, glu_dim=16), None),
    "sparsifiner": (
        lambda: SparsifinerViT(
            SparsifinerConfig(image_size=32, patch_size=8, num_classes=3, dim=16, depth=2, num_heads=2)
        ).eval(),
        (2, 3, 32, 32),
    ),
}


def outcome(model, function, x, dtype=None):
    """The first result of a module, and the gradients of its parameters."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext():
        out = function(x)
    out = getattr(out, "logits", out[0] if isinstance(out, tuple) else out)
    out.float().square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("which", MODULES)
def test_modules(which):
    torch.manual_seed(0)
    make, shape = MODULES[which]
    model, x = make(), torch.randint(32, (2, 40)) if MODULES[which][1] is None else torch.randn(shape)
    plain = outcome(model, model, x)
    for one, other in zip(outcome(model, compiled()(model), x), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for dtype, tolerance in ((torch.bfloat16, 5e-2), (torch.float16, 5e-3)):
        reduced = outcome(model, model, x, dtype)
        assert (reduced[0].float() - plain[0]).norm() <= tolerance * plain[0].norm()
        assert all(part.isfinite().all() for part in reduced)
        torch.compiler.reset()
        for one, other in zip(outcome(model, compiled()(model), x, dtype), reduced, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
