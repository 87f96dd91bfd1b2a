import pytest

from attn.core.fit.loop import Plan
from attn.core.fit.schedule import cosine_cycles


def test_warmup_is_linear_from_zero_and_meets_the_full_rate():
    rates = [cosine_cycles(step, steps=100, warmup=10) for step in range(11)]
    assert rates == pytest.approx([step / 10 for step in range(11)])


def test_half_a_wave_falls_once_to_zero():
    rates = [cosine_cycles(step, steps=110, warmup=10) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)
    assert rates[50] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0, abs=1e-15)


def test_whole_waves_come_back_to_the_full_rate():
    rates = [cosine_cycles(step, steps=100, warmup=0, cycles=4) for step in range(101)]
    assert [rates[step] for step in (0, 25, 50, 75, 100)] == pytest.approx([1] * 5)
    assert min(rates) >= 0
    assert min(rates) < 0.01


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (1, 0), (5, 5), (3, 10)])
def test_runs_without_a_decay_divide_by_nothing(steps, warmup):
    assert all(0 <= cosine_cycles(step, steps=steps, warmup=warmup) <= 1 for step in range(steps + 1))


def test_plan_scales_by_the_highest_rate():
    plan = Plan(steps=50, warmup=5, learning_rate=0.02, cycles=1.5)
    expected = [0.02 * cosine_cycles(step, steps=50, warmup=5, cycles=1.5) for step in range(50)]
    assert [plan.rate(step) for step in range(50)] == expected
