"""Peak memory of a call in a child process: seen when it is there, not invented when it is not."""

import sys

import pytest
import torch
from qkv import random_qkv

from attn.core.bench import memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_the_childs_figure_covers_the_output_and_not_the_square():
    q, k, v = random_qkv((1, 1, 1, 8192, 8192, 64))
    found = dict(memory.peaks(q, k, v, {"dense": ("dense", {"causal": True, "scale": None})}, threads=1))
    output, square = q.nbytes, 4 * 8192 * 8192
    assert output <= found["dense"] < square / 4


def test_a_call_that_fails_has_no_figure():
    q, k, v = random_qkv((1, 1, 1, 64, 64, 32))
    found = dict(memory.peaks(q, k, v, {"bad": ("dense", {"causal": True, "nonsense": 1})}, threads=1))
    assert found["bad"] != found["bad"]


def test_watched_sees_a_large_allocation():
    metrics = {}
    result = memory.watched(lambda: bytearray(b"1" * (64 << 20)), metrics)()
    assert len(result) == 64 << 20
    assert 64 << 20 <= metrics["peak_bytes"] < 256 << 20


def test_watched_counts_a_result_in_memory_that_was_kept():
    metrics: dict[str, float] = {}
    memory.watched(lambda: torch.zeros(1000), metrics)()
    assert metrics["peak_bytes"] >= 4000
