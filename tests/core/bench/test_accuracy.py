"""Exactness measures against what can be computed by hand or densely at small sizes."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import random_qkv

from attn.core.attention.equations import causal_mask, masked_attention
from attn.core.bench import accuracy


@dataclass
class Fixed:
    """A selection that is a mask."""

    full: torch.Tensor  # bool [B, Hq, Lq, Lk]
    searched: int = 0

    @property
    def useful(self):
        return int(self.full.sum())

    executed = useful

    def mask(self, rows):
        return self.full[:, :, rows]


def measured(q, k, v, full, causal=True, searched=0, rows=None, needles=None):
    rows = torch.arange(q.shape[2]) if rows is None else rows
    out = masked_attention(q, k, v, full)[:, :, rows]
    return accuracy.measure(
        q, k, v, rows, {"a": out}, {"a": Fixed(full, searched)}, causal=causal, scale=q.shape[-1] ** -0.5, truths={},
        needles=needles,
    )["a"]  # fmt: skip


@given(length=st.integers(1, 5000), count=st.integers(4, 300))
@settings(max_examples=30, deadline=None)
def test_sampled_rows_are_distinct_ascending_and_as_many_as_asked(length, count):
    rows = accuracy.sample_rows(length, count, 0)
    assert len(rows) == min(length, count)
    assert (rows.diff() > 0).all()
    assert rows.min() >= 0
    assert rows[-1] == length - 1


def test_probabilities_are_the_dense_softmax():
    q, k, _ = random_qkv((1, 4, 2, 70, 90, 32))
    rows = torch.tensor([0, 3, 69])
    (_, prob, visible), *rest = accuracy.probabilities(q, k, rows, causal=True, scale=0.3)
    assert not rest
    assert prob.dtype == torch.float64
    scores = (q.double() @ k.double().repeat_interleave(2, 1).mT * 0.3).masked_fill(~causal_mask(70, 90), -torch.inf)
    torch.testing.assert_close(prob, scores.softmax(-1)[:, :, rows])
    assert visible.tolist() == [21, 24, 90]


def test_all_keys_keep_all_mass_and_make_no_error():
    q, k, v = random_qkv((1, 2, 1, 50, 50, 32))
    found = measured(q, k, v, causal_mask(50, 50).expand(1, 2, 50, 50))
    assert found["mass_recall"] == pytest.approx(1.0, abs=1e-9)
    assert found["relative_error"] < 1e-6
    assert found["cosine_min"] > 1 - 1e-9


def test_the_best_keys_reach_the_oracle_and_random_ones_do_not():
    q, k, v = random_qkv((1, 1, 1, 256, 256, 32))
    scores = (q @ k.mT)[0, 0].masked_fill(~causal_mask(256, 256), -torch.inf)
    best = torch.zeros(256, 256, dtype=torch.bool).scatter_(1, scores.topk(16, -1).indices, True) & causal_mask(
        256, 256
    )
    found = measured(q, k, v, best[None, None], rows=torch.arange(100, 256))
    assert found["mass_recall"] == pytest.approx(found["oracle_recall"], rel=1e-6)
    assert found["oracle_score"] == pytest.approx(1.0, abs=1e-6)
    assert found["random_recall"] < found["window_recall"] + 0.2 < found["oracle_recall"]


def test_the_best_keys_share_all_tokens_with_themselves_and_a_window_few():
    q, k, v = random_qkv((1, 1, 1, 256, 256, 32))
    scores = (q @ k.mT)[0, 0].masked_fill(~causal_mask(256, 256), -torch.inf)
    best = torch.zeros(256, 256, dtype=torch.bool).scatter_(1, scores.topk(16, -1).indices, True)
    window = causal_mask(256, 256) & ~causal_mask(256, 256).tril(-16)
    rows = torch.arange(128, 256)
    assert measured(q, k, v, best[None, None], rows=rows)["token_iou"] == 1.0
    assert measured(q, k, v, window[None, None], rows=rows)["token_iou"] < 0.2


def test_sets_are_compared_with_those_of_the_flat_search():
    q, k, v = random_qkv((1, 1, 1, 64, 64, 32))
    flat = (torch.arange(64) < 8).expand(1, 1, 64, 64)
    half = ((torch.arange(64) >= 4) & (torch.arange(64) < 12)).expand(1, 1, 64, 64)
    least = half.clone()
    least[..., 40, :] = False

    def found(pool):
        return accuracy.measure(
            q, k, v, torch.arange(32, 64), {}, {"dsa": Fixed(flat), "hisa": Fixed(least)}, causal=True, scale=1.0,
            truths={}, against={"hisa": ("dsa", pool)},
        )  # fmt: skip

    assert found(41)["hisa"]["flat_iou"] == found(41)["hisa"]["flat_iou_min"] == pytest.approx(4 / 12)
    assert found(40)["hisa"]["flat_iou_min"] == 0
    assert "flat_iou" not in found(64)["hisa"]
    assert "flat_iou" not in found(41)["dsa"]


def test_searched_keys_count_as_visited():
    q, k, v = random_qkv((1, 1, 1, 128, 128, 32))
    window = causal_mask(128, 128) & ~causal_mask(128, 128).tril(-8)
    cheap = measured(q, k, v, window[None, None])
    dear = measured(q, k, v, window[None, None], searched=128 * 32)
    assert dear["mass_recall"] == cheap["mass_recall"]
    assert dear["oracle_recall"] > cheap["oracle_recall"]


def test_the_window_column_is_first_and_last_keys():
    q, k, v = random_qkv((1, 1, 1, 64, 64, 32))
    at, row = torch.arange(64), torch.arange(64)[:, None]
    full = ((at < accuracy.SINKS) | (at > row - (12 - accuracy.SINKS))) & (at <= row)
    found = measured(q, k, v, full[None, None], rows=torch.arange(20, 64))
    assert found["window_recall"] == pytest.approx(found["mass_recall"], abs=1e-9)


def test_rows_that_attend_to_everything_do_not_flatter_the_mean():
    q, k, v = random_qkv((1, 1, 1, 64, 64, 32))
    full = causal_mask(64, 64).clone()
    full[63, 1:] = False  # only the last row leaves anything out
    found = measured(q, k, v, full[None, None])
    assert found["mass_recall"] == pytest.approx(found["mass_recall_min"], abs=1e-12)
    assert found["mass_recall"] < 0.5


def test_needle_hits():
    q, k, v = random_qkv((1, 2, 1, 40, 40, 32))
    needles = torch.tensor([[[3, 10]]])  # even positions look for 3, odd ones for 10
    full = torch.zeros(1, 2, 40, 40, dtype=torch.bool)
    full[:, 0, :, 3] = full[:, :, range(40), range(40)] = True
    found = measured(q, k, v, full, rows=torch.arange(20, 40), needles=needles)
    assert found["needle_hit"] == pytest.approx(0.25)  # one head of two, for one needle of two


def test_errors_by_hand():
    truth = torch.tensor([[[[3.0, 4.0], [1.0, 0.0]]]])
    out = torch.tensor([[[[3.0, 4.0], [0.0, 1.0]]]])
    found = accuracy.output_error(out, truth)
    assert found["relative_error"] == pytest.approx((2 / 26) ** 0.5)
    assert found["relative_error_max"] == pytest.approx(2**0.5)
    assert found["cosine_min"] == pytest.approx(0.0)
