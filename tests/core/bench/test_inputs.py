"""Inputs of `attn bench`: what each generator promises, and captured files that are as they should be or not."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn.core.attention.rectified.gilbert import gilbert_order
from attn.core.bench.budget import COLUMNS, PUBLISHED, budget_table, check_table
from attn.core.bench.generators import video_grid
from attn.core.bench.inputs import ALIASES, GENERATORS, generate, load_captured
from attn.core.errors import InputError, UsageError

NAMES = [name for name in GENERATORS if name not in ALIASES]


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_numbers_whatever_the_heads_and_the_queries(name):
    many = generate(name, batch=2, num_heads=4, num_kv_heads=2, len_q=150, head_dim=32, seed=5)
    one = generate(name, num_heads=2, num_kv_heads=1, len_q=7, len_k=150, head_dim=32, seed=5)
    assert many.q.shape == (2, 4, 150, 32)
    assert many.k.shape == many.v.shape == (2, 2, 150, 32)
    assert torch.equal(one.k[0, 0], many.k[0, 0])
    assert torch.equal(one.v[0, 0], many.v[0, 0])
    assert torch.equal(one.q[0], many.q[0, :2, -7:])
    other = generate(name, num_heads=2, num_kv_heads=1, len_q=7, len_k=150, head_dim=32, seed=6)
    assert not torch.equal(other.k, one.k)
    assert not torch.equal(many.k[0, 0], many.k[0, 1])


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    length=st.integers(1, 70),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 2),
    dim=st.sampled_from([1, 7, 32]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_size_is_finite(name, length, kv_heads, group, dim, dtype):
    made = generate(
        name, num_heads=kv_heads * group, num_kv_heads=kv_heads, len_q=length, head_dim=dim, seed=1, dtype=dtype
    )
    exact = generate(name, num_heads=kv_heads * group, num_kv_heads=kv_heads, len_q=length, head_dim=dim, seed=1,
                     dtype=torch.float64)  # fmt: skip
    for tensor, full in ((made.q, exact.q), (made.k, exact.k), (made.v, exact.v)):
        assert tensor.dtype == dtype
        assert torch.equal(tensor, full.to(dtype))  # cast last
        if name != "worst":  # its queries leave float16 at head_dim 1
            assert tensor.isfinite().all()


def test_hash_is_of_the_bytes_and_empty_batch_is_allowed():
    made = generate("gaussian", num_heads=1, len_q=9, head_dim=8, dtype=torch.float32)
    assert made.sha256 == hashlib.sha256(b"".join(t.numpy().tobytes() for t in (made.q, made.k, made.v))).hexdigest()
    assert generate("needle", batch=0, num_heads=2, len_q=9, head_dim=8).q.shape == (0, 2, 9, 8)


def test_structured_is_lowrank():
    a, b = (generate(name, num_heads=1, len_q=64, head_dim=16, seed=2) for name in ("structured", "lowrank"))
    assert (a.name, a.sha256) == ("lowrank", b.sha256)


def test_lowrank_has_a_sink_that_every_query_leans_to():
    made = generate("lowrank", num_heads=1, len_q=2000, head_dim=64, dtype=torch.float64)
    sinks = made.k[0, 0, :4]
    assert torch.equal(sinks[0], sinks[3])
    assert sinks[0].norm().item() == pytest.approx(6.0)
    assert (made.q[0, 0] @ sinks[0] / 6).mean().item() == pytest.approx(1.5, abs=0.5)


def test_topic_rows_lie_on_the_sphere_and_recur():
    made = generate("topic", num_heads=1, len_q=1024, head_dim=64, dtype=torch.float64)
    assert torch.allclose(made.k.norm(dim=-1), torch.tensor(8.0, dtype=torch.float64))
    towards = made.q[0, 0] @ made.k[0, 0].T / 64
    assert towards.diagonal(5)[:900].median() > 0.7  # the token five later is of the query's topic
    assert towards.diagonal(-512).median() < 0.3


@pytest.mark.parametrize("name", ["needle", "needle-smooth"])
def test_every_query_scores_its_needle_8_above_log_length(name):
    made = generate(name, num_heads=2, num_kv_heads=1, len_q=300, len_k=1000, head_dim=64, dtype=torch.float64)
    needles = made.arrays["needles"]
    assert needles.shape == (1, 1, 4)
    assert 4 <= needles.min()
    assert needles.max() < 750
    scores = made.q @ made.k.mT / 8
    wanted = needles[0, 0][torch.arange(700, 1000) % 4]
    logits = scores.gather(-1, wanted.expand(1, 2, 300)[..., None])
    assert torch.allclose(logits, torch.tensor(8 + np.log(1000)).double())
    assert (scores.argmax(-1) == wanted).all()


def test_smooth_needles_have_neighbours_that_point_their_way():
    cosine = {}
    for name in ("needle", "needle-smooth"):
        made = generate(name, num_heads=1, len_q=2000, head_dim=64, dtype=torch.float64)
        place, keys = int(made.arrays["needles"][0, 0, 1]), torch.nn.functional.normalize(made.k[0, 0], dim=-1)
        near, far = torch.arange(place + 1, place + 16), torch.arange(place + 16, place + 40)
        cosine[name] = (keys[near] @ keys[place]).mean().item(), (keys[far] @ keys[place]).mean().item()
    assert cosine["needle-smooth"][0] == pytest.approx(0.5, abs=0.1)
    assert abs(cosine["needle-smooth"][1]) < 0.15
    assert abs(cosine["needle"][0]) < 0.15


def test_video_neighbours_on_the_grid_are_alike():
    made = generate("video", num_heads=1, len_q=4096, head_dim=64, dtype=torch.float64)
    t, h, w = made.video
    assert t * h * w == 4096
    grid = torch.nn.functional.normalize(made.k[0, 0][torch.argsort(gilbert_order(t, h, w))], dim=-1).view(t, h, w, 64)
    for axis in range(3):
        near = (grid.narrow(axis, 1, 15) * grid.narrow(axis, 0, 15)).sum(-1).mean()
        far = (grid.narrow(axis, 8, 8) * grid.narrow(axis, 0, 8)).sum(-1).mean()
        assert near > far + 0.05


def test_worst_holds_what_it_says():
    made = generate("worst", num_heads=1, len_q=400, head_dim=64, dtype=torch.float64)
    q, k = made.q[0, 0], made.k[0, 0]
    scores = q @ k.T / 8
    assert (k[1:100] == k[0]).all()
    assert (scores[100:200] == 0).all()
    assert torch.allclose(scores[200], torch.tensor(-1e4).double())
    assert scores.abs().max().item() == pytest.approx(1e4)
    assert torch.argmax(scores[-1]) == 399


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_kv_heads": 3}, "multiple of key/value heads"),
        ({"len_k": 5}, "at most keys"),
        ({"head_dim": 0}, "positive"),
        ({"seed": -1}, "not negative"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        generate("gaussian", **{"num_heads": 4, "len_q": 10, "head_dim": 8, **sizes})


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean needle"):
        generate("neddle", num_heads=1, len_q=4, head_dim=4)


# --- the table of methods/attention-bench.md, section 3 -------------------------------------------------------------


def test_ten_seed_means_fall_into_the_published_ranges():
    rows = check_table()
    assert len(rows) == len(PUBLISHED) * len(COLUMNS)
    wrong = [f"{r['inputs']} {r['column']}: {r['mean']:.4f} not in {r['low']}-{r['high']}" for r in rows if not r["ok"]]
    assert not wrong, "\n".join(wrong)


def test_orders_that_hold_for_every_seed():
    table = budget_table(["topic"], seeds=range(3), length=2048, head_dim=32)["topic"]
    for tokens, blocks, pooled in zip(
        table["best_tokens"], table["best_blocks"], table["mean_pool_blocks"], strict=True
    ):
        assert tokens >= blocks >= pooled


# --- the order of video tokens --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(t=st.integers(1, 9), h=st.integers(1, 12), w=st.integers(1, 12))
def test_gilbert_visits_every_token_once_and_never_jumps(t, h, w):
    order = gilbert_order(t, h, w)
    assert torch.equal(order.sort().values, torch.arange(t * h * w))
    place = torch.stack([order // (h * w), order // w % h, order % w], 1)
    assert t * h * w == 1 or (place[1:] - place[:-1]).abs().max() == 1


def test_gilbert_blocks_are_compact():
    def spread(order):
        place = torch.stack([order // 1024, order // 32 % 32, order % 32], 1).view(-1, 128, 3)
        return (place.amax(1) - place.amin(1) + 1).prod(-1).double().mean().item()

    assert (
        spread(gilbert_order(8, 32, 32)) < 3 * 128
    )  # the bounding box of 128 tokens: row-major needs 4 x 32 of a frame
    place = gilbert_order(8, 32, 32)[:128]
    assert (place % 32).max() - (place % 32).min() < 16


def test_gilbert_refuses_an_empty_grid():
    with pytest.raises(ValueError, match="positive sides"):
        gilbert_order(0, 4, 4)


@settings(deadline=None)
@given(st.integers(1, 5000))
def test_video_grid_has_all_tokens(length):
    t, h, w = video_grid(length)
    assert t * h * w == length
    assert t <= h <= w


# --- captured files -------------------------------------------------------------------------------------------------


def captured(path, **changes):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 40, 16)).astype(np.float16) for _ in range(3))
    rows = np.array([3, 17, 39], dtype=np.int32)
    scores = q.astype(np.float64)[:, rows] @ k.astype(np.float64).transpose(0, 2, 1) * 0.25
    scores[:, np.arange(40) > rows[:, None]] = -np.inf
    prob = np.exp(scores)
    out = prob / prob.sum(-1, keepdims=True) @ v.astype(np.float64)
    arrays = {
        "q": q, "k": k, "v": v, "scale": np.float32(0.25), "head": np.array([3, 7]), "ref_rows": rows, "ref_out": out,
    }  # fmt: skip
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_captured_keeps_scale_heads_and_references(tmp_path):
    made = load_captured(captured(tmp_path / "lägen 7.npz"), heads=[1], seq=20)
    assert made.name == "lägen 7.npz"
    assert made.q.shape == (1, 1, 20, 16)
    assert (made.scale, made.seed, made.notes) == (0.25, None, {"head": [7]})
    assert made.arrays["ref_rows"].tolist() == [3, 17]
    q, k, v = made.q.double(), made.k.double(), made.v.double()
    for i, row in enumerate((3, 17)):
        prob = (q[0, 0, row] @ k[0, 0, : row + 1].T * made.scale).softmax(-1)
        assert torch.allclose(prob @ v[0, 0, : row + 1], made.arrays["ref_out"][0, 0, i])


def test_captured_with_batch_and_grouped_heads(tmp_path):
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((2, 2, 9, 8))
    np.savez(tmp_path / "a.npz", q=q, k=k, v=k)
    whole = load_captured(tmp_path / "a.npz", dtype=torch.float64)
    assert whole.q.shape == (2, 4, 9, 8)
    assert whole.k.shape == (2, 2, 9, 8)
    picked = load_captured(tmp_path / "a.npz", heads=[3, 0], dtype=torch.float64)
    assert torch.equal(picked.q, torch.from_numpy(q[:, [3, 0]]))
    assert torch.equal(picked.k, torch.from_numpy(k[:, [1, 0]]))


def test_tiling_is_said(tmp_path):
    path = captured(tmp_path / "a.npz")
    made = load_captured(path, seq=100, tile=True)
    assert made.name == "a.npz tiled x3"
    assert torch.equal(made.k[:, :, 80:], made.k[:, :, :20])
    assert not made.arrays
    with pytest.raises(InputError, match="holds 40 positions, asked for 100"):
        load_captured(path, seq=100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v": None}, "has no array v"),
        ({"q": np.zeros((40, 16), np.float32)}, "q has shape"),
        ({"q": np.zeros((2, 40, 16), np.int32)}, "not floating point"),
        ({"k": np.zeros((2, 39, 16), np.float32)}, "do not fit together"),
        ({"v": np.full((2, 40, 16), np.nan, np.float32)}, "v holds NaN"),
        ({"scale": np.zeros(2)}, "scale is not one"),
        ({"ref_out": np.zeros((2, 7, 16))}, "ref_out has shape"),
        ({"q": np.array([object()])}, "pickled Python objects"),
    ],
)
def test_bad_captured_files(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load_captured(captured(tmp_path / "a.npz", **changes))


def test_what_is_no_archive(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_captured(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        load_captured(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="single array"):
        load_captured(tmp_path / "one.npy")
    whole = captured(tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_captured(tmp_path / "cut.npz")
    with pytest.raises(InputError, match=r"heads 0 to 1, asked for \[2\]"):
        load_captured(tmp_path / "a.npz", heads=[2])
