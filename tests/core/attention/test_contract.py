"""What every operator keeps, over the registry: a new one is tested because it is registered."""

import math
import re
import typing
from functools import partial

import pytest
import torch
from pairs import pairs
from qkv import DTYPES, assert_as_accurate_as_eager, random_qkv, threads
from small_operators import NAMES, arguments

from attn.core.attention import attention
from attn.core.attention.contract import shape_of
from attn.core.attention.registry import OPERATORS
from attn.core.choose import WORDS
from attn.core.errors import UsageError


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


QKV = random_qkv((1, 2, 2, 256, 256, 32), seed=3)


def test_every_backend_is_the_reference(name):
    truth = attention(name, *QKV, backend="reference", **arguments(name))
    for backend in OPERATORS[name].resolve().backends - {"triton"}:  # on the CPU
        out = attention(name, *QKV, backend=backend, **arguments(name))
        assert (out - truth).abs().max() <= 1e-5 * truth.abs().max()  # lightning has no normaliser: large values


LENGTHS = [
    (1, 256, 256),
    (2, 97, 97),
    (1, 200, 333),
    (1, 1, 257),
]  # batch, queries, keys: a multiple of no block; decode
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize(
    ("kind", "lengths", "dim", "heads", "dtype"),
    pairs(NAMES, LENGTHS, [32, 64, 80, 96, 128, 256], [(2, 2), (6, 2), (4, 1)], DTYPES),
    ids=str,
)
def test_sizes_and_types(kind, lengths, dim, heads, dtype):
    operator = OPERATORS[kind].resolve()
    batch, len_q, len_k = LENGTHS[0] if operator.grid else lengths
    q, k, v = random_qkv((batch, *heads, len_q if operator.decodes else len_k, len_k, dim), dtype, seed=5)
    out = attention(kind, q, k, v, **arguments(kind))
    reference = partial(attention, kind, backend="reference", **arguments(kind))
    assert_as_accurate_as_eager(out, reference, q, k, v)


def test_inference_mode_changes_nothing(name):
    out = attention(name, *QKV, **arguments(name))
    with torch.inference_mode(), threads(2):
        again = attention(name, *QKV, **arguments(name))
    assert torch.equal(out, again)


def test_the_same_bits_with_any_number_of_threads(name):
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(attention(name, *QKV, **arguments(name)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_inputs_stay_as_they_are(name):
    q, k, v = (t.clone() for t in QKV)
    attention(name, q, k, v, **arguments(name))
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), QKV, strict=True))


def test_strided_inputs(name):
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in QKV)
    assert not q.is_contiguous()
    out = attention(name, q, k, v, **arguments(name))
    torch.testing.assert_close(out, attention(name, *QKV, **arguments(name)), rtol=1e-5, atol=1e-6)


def test_no_batch_gives_none(name):
    q, k, v = (t[:0] for t in QKV)
    assert attention(name, q, k, v, **arguments(name)).shape == (0, 2, 256, 32)


def test_counts_of_a_selection_are_those_of_its_mask(name):
    operator = OPERATORS[name].resolve()
    if operator.select is None:
        pytest.skip("chooses nothing")
    chosen = operator.select(*QKV[:2], scale=None, **arguments(name))
    mask = chosen.mask(torch.arange(256))
    assert mask.shape == (1, 2, 256, 256)
    assert mask.dtype == torch.bool
    assert chosen.useful == int(mask.sum())
    assert chosen.executed >= chosen.useful
    assert chosen.searched >= 0
    assert mask.any(-1).all()
    if arguments(name)["causal"]:
        assert not mask.triu(1).any()


def test_cost_is_plausible(name):
    operator = OPERATORS[name].resolve()
    given = arguments(name)
    shape = shape_of(*QKV, causal=given.pop("causal"), grid=given.pop("grid", None))
    cost = operator.cost(shape, **given)
    assert all(math.isfinite(value) and value >= 0 for value in cost)
    assert cost.flops > 0
    assert cost.bytes >= sum(t.nbytes for t in QKV)
    assert cost.attended <= 256
    larger = shape._replace(len_q=1024, len_k=1024, grid=(32, 32) if operator.grid else None)
    assert operator.cost(larger, **given).flops >= 3 * cost.flops


def test_a_budget_is_made_of_known_parameters_and_moves_the_cost(name):
    operator = OPERATORS[name].resolve()
    if operator.at_budget is None:
        pytest.skip("has no budget")
    grid = (64, 64) if operator.grid else None
    shape = shape_of(*QKV, causal=operator.causal[0], grid=grid)._replace(len_q=4096, len_k=4096)
    small, large = (operator.at_budget(keys, shape) for keys in (128, 1024))
    assert set(small) <= set(operator.parameters)
    costs = [operator.cost(shape, **params) for params in (small, large)]
    assert costs[0].attended + costs[0].searched < costs[1].attended + costs[1].searched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (1, 2, 300, 32)}, "queries|as many queries|300"),
        ({"k": (1, 3, 256, 32), "v": (1, 3, 256, 32)}, "multiple of k's"),
        ({"k": (1, 2, 256, 64)}, "differ in head_dim"),
        ({"v": (1, 2, 255, 32)}, "k and v differ"),
        ({"k": (2, 2, 256, 32), "v": (2, 2, 256, 32)}, "q and k differ in batch"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, change, message):
    tensors = {key: torch.zeros(change.get(key, (1, 2, 256, 32))) for key in "qkv"}
    with pytest.raises(ValueError, match=message):
        attention(name, *tensors.values(), **arguments(name))


def test_values_of_another_type_are_refused(name):
    for parameter, stated in OPERATORS[name].resolve().parameters.items():
        wrong = {
            int: ("8", 8.0, True, None), float: ("1", True, None), float | None: ("1", True), bool: ("yes", 1),
            str | None: (3, True), torch.Tensor | None: (3, "x"),
        }.get(stated.annotation, ())  # fmt: skip
        for value in wrong:
            with pytest.raises(ValueError, match=f"{re.escape(name)}: {parameter} is {value!r}; .* is needed, as"):
                attention(name, *QKV, **{**arguments(name), parameter: value})
        if stated.annotation is int:
            with pytest.raises(ValueError, match=f"{parameter} is {2**70}; a number below"):
                attention(name, *QKV, **{**arguments(name), parameter: 2**70})
    with pytest.raises(ValueError, match="backend is one of"):
        attention(name, *QKV, **{**arguments(name), "backend": ["cpu"]})


def test_what_an_operator_cannot_do_is_refused(name):
    operator = OPERATORS[name].resolve()
    with pytest.raises(ValueError, match="has no parameter 'nonsense'"):
        attention(name, *QKV, **arguments(name), nonsense=1)
    for causal in {True, False} - set(operator.causal):
        with pytest.raises(ValueError, match="causal"):
            attention(name, *QKV, **{**arguments(name), "causal": causal})
    if operator.grid:
        with pytest.raises(ValueError, match="token map"):
            attention(name, *QKV, causal=False)
    else:
        with pytest.raises(ValueError, match="takes no grid"):
            attention(name, *QKV, **arguments(name), grid=(16, 16))
    for backend in {"torch", "cpu", "triton"} - operator.backends:
        with pytest.raises(ValueError, match=re.escape(f"no {WORDS[backend]} for {name} yet")):
            attention(name, *QKV, backend=backend, **arguments(name))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UsageError, match="Did you mean hip"):
        attention("hop", *QKV, causal=True)
    with pytest.raises(ValueError, match="backend is"):
        attention("dense", *QKV, causal=True, backend="fast")
    with pytest.raises(ValueError, match="share one dtype"):
        attention("dense", QKV[0].double(), *QKV[1:], causal=True)
    with pytest.raises(ValueError, match="four dimensions"):
        attention("dense", *(t[0] for t in QKV), causal=True)


def test_what_the_operators_of_the_papers_can_do():
    """The tests over the registry follow these fields, so that a wrong one would only make them skip."""
    rows = {name: OPERATORS[name].resolve() for name in NAMES if name != "fla"}
    whole = {"bra", "halo", "sparsifiner", "rectified"}
    assert {name for name, row in rows.items() if row.grid} == {"bra", "halo"}
    assert {name for name, row in rows.items() if not row.decodes} == whole
    assert {name for name, row in rows.items() if row.causal == (True,)} == {
        "hip", "superlinear", "lightning", "flux", "window+sink", "flex",
    }  # fmt: skip
    assert {name for name, row in rows.items() if row.causal == (False,)} == whole
    assert {name for name, row in rows.items() if not row.differentiable} == {"flex"}


@pytest.mark.parametrize(
    ("name", "fine", "alone"),
    [
        ("hip", {"representative": "random", "seed": 1}, {"seed": 1}),
        ("flux", {"mode": "xattn", "threshold": 0.5}, {"mode": "streaming", "threshold": 0.5}),
        ("lightning", {"decay": "paper", "layer": 1}, {"decay": "custom", "layer": 1}),
        ("rectified", {"video": (4, 8, 8), "order": "raster"}, {"order": "raster"}),
        ("bra", {"pad": True, "mask_padding": True}, {"pad": False, "mask_padding": True}),
        ("sparsifiner", {"predictor": None, "reduce_n": 8}, {"predictor": torch.nn.Identity(), "reduce_n": 8}),
    ],
)
def test_a_parameter_without_effect_is_refused_and_one_with_effect_is_not(name, fine, alone):
    operator = OPERATORS[name].resolve()
    operator.check_effects(name, fine)
    with pytest.raises(ValueError, match="would have no effect without"):
        operator.check_effects(name, alone)


def test_maps_that_are_no_squares_and_tensors_without_heads_or_dimensions():
    q, k, v = QKV
    out = attention("halo", *QKV, causal=False, grid=(8, 32), block_size=4, halo=1)
    assert not torch.equal(out, attention("halo", *QKV, causal=False, grid=(32, 8), block_size=4, halo=1))
    with pytest.raises(ValueError, match="9"):
        attention("halo", *QKV, causal=False, grid=(9, 32), block_size=4, halo=1)
    with pytest.raises(ValueError, match="multiple of k's"):
        attention("dense", q, k[:, :0], v[:, :0], causal=True)
    with pytest.raises(ValueError, match="head_dim is 0"):
        attention("dense", q[..., :0], k[..., :0], v, causal=True)
    with pytest.raises(ValueError, match="head_dim is 0"):
        attention("dense", q, k, v[..., :0], causal=True)


# --- parameters -----------------------------------------------------------------------------------------------------

CHANGED = {  # another valid value, where the rule of ``another`` finds none or one that means the same
    ("hip", "query_offset"): 0,
    ("hip", "dense_queries"): 64,
    ("hip", "sink"): 32,
    ("hisa", "coarse_dtype"): None,  # rounding: nothing to see where no two scores are near
    ("hisa", "min_seq"): 1000,
    ("superlinear", "search_power"): 0.6,
    ("superlinear", "accumulate"): "ema:0.5",
    ("superlinear", "q_search"): torch.ones(1, 2, 256, 32),
    ("hip", "query_stride"): 3,
    ("superlinear", "inv_search_power_int"): 3,
    ("superlinear", "routing_gradient"): None,  # gradients alone, see test_superlinear
    ("flux", "local"): 32,
    ("flux", "sink"): 64,
    ("lightning", "slope"): None,  # with decay="custom", see test_lightning
    ("flux", "router"): torch.nn.Identity(),
    ("flux", "router_input"): torch.ones(1, 2, 256, 32),
    ("rectified", "order"): "raster",
    ("rectified", "video"): (4, 8, 8),
    ("rectified", "text_len"): 32,
    ("rectified", "text_valid"): 5,
    ("rectified", "neighbours"): torch.ones(16, 16, dtype=torch.bool),
    ("rectified", "first_frame_blocks"): 8,
    ("bra", "lepe"): torch.ones(64, 1, 3, 3),
    ("bra", "lepe_bias"): torch.ones(64),
    ("bra", "pad"): None,  # where the regions divide the map there is nothing to pad
    ("halo", "pad"): None,
    ("halo", "height_rel"): torch.ones(11, 32),
    ("halo", "width_rel"): torch.ones(11, 32),
    ("sparsifiner", "predictor"): None,  # see test_sparsifiner
    ("window+sink", "num_sinks"): 16,
}
SPEED = {"block_m", "block_n", "compile", ("lightning", "block_size"), ("hip", "mask_refresh")}
"""What changes the speed alone, or decoding alone: then the output is the same on purpose."""


def another(parameter, given):
    """A value of a parameter that is not the one it has."""
    if isinstance(given, bool):
        return not given
    choices = [choice for choice in typing.get_args(parameter.annotation) if isinstance(choice, str)]
    if choices:
        return next(choice for choice in choices if choice != given)
    return given + 1 if given in (0, 1) else given // 2 if isinstance(given, int) else given / 2


@pytest.mark.parametrize(
    ("operator", "parameter"),
    [(name, parameter) for name in NAMES for parameter in OPERATORS[name].resolve().parameters],
)
def test_no_parameter_is_ignored(operator, parameter):
    """It changes the result, or is refused: by the operator, or by `attn bench`, which asks ``check_effects``."""
    given = arguments(operator)
    declared = OPERATORS[operator].resolve().parameters[parameter]
    if parameter in SPEED or (operator, parameter) in SPEED:
        return
    if (operator, parameter) in CHANGED:
        value = CHANGED[operator, parameter]
        if value is None:
            return
    else:
        value = another(declared, given.get(parameter, declared.default))
    try:
        OPERATORS[operator].resolve().check_effects(operator, {**given, parameter: value})
        out = attention(operator, *QKV, **{**given, parameter: value})
    except ValueError as error:
        assert re.search("no effect without|exclude|together|without lepe|layer|text_len", str(error)), error  # noqa: PT017
        return
    assert not torch.equal(out, attention(operator, *QKV, **given))
