"""The clock: order, repeats, what is kept, what counts as noise. Nothing here asserts on how long anything takes."""

import time

import pytest
import torch

from attn.core.bench.timing import Timing, time_interleaved

CPU = torch.device("cpu")


def test_candidates_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = time_interleaved(calls, CPU, repeat=3)
    assert "".join(order[-6:]) == "ababab"
    assert [len(found[name].wall) for name in "ab"] == [3, 3]


def test_a_slow_candidate_runs_once():
    runs = []
    found = time_interleaved({"slow": lambda: (time.sleep(0.02), runs.append(1))}, CPU, slow=0.01)
    assert len(runs) == len(found["slow"].wall) == 1


def test_a_fast_candidate_runs_five_times():
    assert len(time_interleaved({"fast": lambda: None}, CPU)["fast"].wall) == 5


def test_past_the_deadline_nothing_is_repeated():
    found = time_interleaved({"a": lambda: None}, CPU, repeat=50, deadline=time.monotonic() - 1)
    assert len(found["a"].wall) == 1


def test_an_error_ends_only_its_own_candidate():
    def broken():
        raise ValueError("no")

    found = time_interleaved({"broken": broken, "fine": lambda: 7}, CPU, repeat=2, keep=lambda result: result)
    assert isinstance(found["broken"].error, ValueError)
    assert not found["broken"].wall
    assert found["fine"].result == 7


def test_a_programming_error_is_not_swallowed():
    def broken():
        raise AttributeError("typo")

    with pytest.raises(AttributeError):
        time_interleaved({"broken": broken}, CPU)


def test_cpu_time_is_this_process_alone():
    found = time_interleaved({"sleep": lambda: time.sleep(0.05)}, CPU, repeat=2)["sleep"]
    assert min(found.wall) >= 0.05
    assert max(found.cpu) < 0.04


@pytest.mark.parametrize(
    ("record", "noise"),
    [
        (Timing([1.0, 1.1, 1.05], [2.0] * 3, [0.01] * 3), ""),
        (Timing([1.0, 1.4, 1.1], [2.0] * 3, [0.0] * 3), "runs differ by 36 %"),
        (Timing([1.0], [2.0], [0.9]), "other processes used 0.9 cores"),
        (Timing([1e-3], [2e-3], [0.01]), ""),  # the system counts in hundredths: too short to say
    ],
)
def test_noise(record, noise):
    assert noise in record.noise
    assert bool(noise) == bool(record.noise)
