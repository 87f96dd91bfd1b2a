"""NaN and infinity show in the rows that see them and in no other, over the registry: nothing hides them."""

import pytest
import torch
from qkv import random_qkv
from small_operators import NAMES, SMALL, arguments

from attn.core.attention import attention
from attn.core.attention.indexer.search import lightning_index
from attn.core.attention.registry import OPERATORS
from attn.core.attention.tokens.top_k import top_k_positions

INF, NAN = float("inf"), float("nan")


def spoilt(which, row, value, shape=(1, 2, 2, 256, 256, 32), dtype=torch.float32):
    """q, k, v with one row of one head replaced; "mixed": infinities of both signs."""
    tensors = dict(zip("qkv", random_qkv(shape, dtype, seed=3), strict=True))
    place = tensors[which][0, 0, row]
    if value == "mixed":
        place[:], place[::2] = INF, -INF
    else:
        place[:] = value
    return tuple(tensors.values())


def spoilt_rows(out):
    return ~out.isfinite().all(-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", "qkv")
def test_the_rows_are_those_of_the_reference(name, which):
    kind = arguments(name)
    for row, value in ((3, NAN), (150, INF), (150, "mixed"), (254, -INF)):
        q, k, v = spoilt(which, row, value)
        truth = attention(name, q, k, v, backend="reference", **kind)
        out = attention(name, q, k, v, **kind)
        assert torch.equal(spoilt_rows(out), spoilt_rows(truth)), (row, value)
        kept = out.isfinite() & truth.isfinite()
        assert (out - truth)[kept].abs().max() <= 1e-5 * truth[kept].abs().max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", "qkv")
def test_decode(name, which):
    operator = OPERATORS[name].resolve()
    if not operator.decodes or not operator.causal[0]:
        pytest.skip("does not decode")
    for row, value in ((0, NAN), (0, INF), (-1, "mixed")):
        q, k, v = spoilt(which, row, value, (1, 4, 2, 1, 200, 32))
        truth = spoilt_rows(operator.reference(q, k, v, scale=None, **arguments(name)))
        assert torch.equal(spoilt_rows(operator.blocked(q, k, v, scale=None, **arguments(name))), truth)
        if operator.decoder is not None:
            assert torch.equal(spoilt_rows(operator.decoder(q, k, v, scale=None, **SMALL[name])()), truth)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(name, dtype):
    for which in "qkv":
        q, k, v = spoilt(which, 100, NAN, dtype=dtype)
        found = [attention(name, q, k, v, backend=way, **arguments(name)) for way in ("auto", "reference")]
        assert spoilt_rows(found[1]).any() or which != "q"
        assert torch.equal(spoilt_rows(found[0])[0, 0], spoilt_rows(found[1])[0, 0]), which


@pytest.mark.parametrize("name", [n for n in NAMES if OPERATORS[n].resolve().causal[0]])
@pytest.mark.parametrize("which", "kv")
def test_what_comes_later_spoils_nothing(name, which):
    """Causal: no row before the spoilt one sees it; the row itself does."""
    q, k, v = spoilt(which, 100, NAN)
    for backend in ("auto", "reference"):
        rows = spoilt_rows(attention(name, q, k, v, backend=backend, **arguments(name)))
        assert not rows[0, 0, :96].any()  # a block of queries that chooses together may end at the row
        assert not rows[0, 1].any()
        assert rows[0, 0, 100]


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_nan(name):
    q, k, v = (torch.full_like(t, NAN) for t in random_qkv((1, 1, 1, 256, 256, 32)))
    assert attention(name, q, k, v, **arguments(name)).isnan().all()


@pytest.mark.parametrize("size", [1e10, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_large_scores_keep_their_order(name, size):
    """One key far out of scale: attention is one key or the rest, never a mixture that rounding made."""
    if name == "sparsifiner":
        pytest.skip("its predictor rounds such keys to ties, and chooses among them")
    q, k, v = random_qkv((1, 2, 2, 256, 256, 32), seed=3)
    k[0, 0, 100] *= size
    out, truth = (attention(name, q, k, v, backend=way, **arguments(name)) for way in ("auto", "reference"))
    assert torch.equal(out.isfinite(), truth.isfinite())
    kept = truth.isfinite()
    assert (out - truth)[kept].abs().max() <= 1e-5 * truth[kept].abs().max()


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("name", ["dense", "window+sink", "blocktopk", "flux"])
def test_minus_infinity_alone_is_no_number(name, backend):
    """A row whose keys all have the score minus infinity is not one without keys, which is zeros."""
    q, k, v = random_qkv((1, 2, 2, 256, 256, 32), seed=3)
    q[0, 0, :, 0], k[0, 0, :3, 0] = q[0, 0, :, 0].abs(), -INF
    truth, out = (attention(name, q, k, v, backend=way, **arguments(name)) for way in ("reference", backend))
    assert out[0, 0, :3].isnan().all()
    assert torch.equal(spoilt_rows(out), spoilt_rows(truth))
    k[0, 0, :, 0] = -INF
    assert attention(name, q[:, :, -1:], k, v, backend=backend, **arguments(name))[0, 0].isnan().all()


@pytest.mark.parametrize("name", ["dsa", "hisa", "oracle", "dense", "blocktopk"])
def test_a_scale_below_zero_makes_no_number_of_nan(name):
    """The searches take NaN for the best score of all, which such a scale would turn into the worst."""
    operator = OPERATORS[name].resolve()
    for heads in (2, 4):
        tensors = spoilt("k", 100, NAN, (1, heads, 2, 256, 256, 32))
        truth = operator.reference(*tensors, scale=-0.3, **arguments(name))
        assert torch.equal(spoilt_rows(operator.blocked(*tensors, scale=-0.3, **arguments(name))), spoilt_rows(truth))


def test_selection_takes_nan_for_infinity():
    scores = torch.tensor([[1.0, NAN, 3.0, -INF, INF, 2.0]])
    assert top_k_positions(scores, 2).tolist() == [[1, 4]]
    assert top_k_positions(scores, 9).tolist() == [[0, 1, 2, 4, 5, -1]]
    q, k = torch.rand(64, 1, 8), torch.rand(64, 8)
    k[5] = NAN
    chosen = lightning_index(q, k, torch.ones(64, 1), top_k=4)
    assert (chosen[5:] == 5).any(1).all()  # by the compiled search ...
    assert (
        lightning_index(q.double(), k.double(), torch.ones(64, 1).double(), top_k=4) == chosen
    ).all()  # ... and torch
