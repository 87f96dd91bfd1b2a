"""The chooser: preference, refusals, forced backends, and errors that say why."""

import sys

import pytest

from attn.core.choose import Formulation, Phase, choices, choose, in_torch, takes_all

HERE = __name__


def double(x, **_):
    return 2 * x


def odd(x, **_):
    return "takes even numbers" if x % 2 else None


def small(x, *, limit=10, **_):
    return f"takes numbers below {limit}" if x >= limit else None


PHASE = Phase(
    "doubling",
    (
        Formulation("kernel", "triton", f"{HERE}:double", odd),
        Formulation("loop", "cpu", f"{HERE}:double", small),
        Formulation("plain", "torch", double),
    ),
)


@pytest.mark.parametrize(
    ("number", "backend", "name"),
    [
        (2, "auto", "kernel"), (3, "auto", "loop"), (13, "auto", "plain"), (2, "blocked", "loop"),
        (12, "blocked", "plain"), (2, "triton", "kernel"), (2, "cpu", "loop"), (2, "torch", "plain"),
    ],
)  # fmt: skip
def test_the_first_that_may_and_takes_the_inputs(number, backend, name):
    assert choose(PHASE, (number,), backend).name == name
    assert PHASE(number, backend=backend) == 2 * number


@pytest.mark.parametrize(
    ("number", "backend", "message"),
    [
        (3, "triton", "doubling cannot run with backend='triton': kernel takes even numbers."),
        (11, "cpu", "doubling cannot run with backend='cpu': loop takes numbers below 10."),
        (2, "reference", "no reference for doubling yet"),
        (2, "fast", "backend is one of auto, reference, torch, cpu, triton, blocked, not 'fast'."),
    ],
)
def test_what_is_forced_and_cannot_be_says_why(number, backend, message):
    with pytest.raises(ValueError, match=message):
        PHASE(number, backend=backend)


def test_all_reasons_are_given():
    phase = Phase("doubling", PHASE.formulations[:2])
    with pytest.raises(ValueError, match="cannot run: kernel takes even numbers; loop takes numbers below 10"):
        phase(11)
    assert phase(11, limit=20) == 22  # options reach both the refusal and the function
    with pytest.raises(ValueError, match="no Triton kernel for halving yet"):
        in_torch("halving", double)(2, backend="triton")


def test_nothing_is_imported_before_it_is_chosen():
    lazy = Formulation("kernel", "triton", "attn.no_such_module:run")
    phase = Phase("doubling", (lazy, Formulation("plain", "torch", double, takes_all)))
    assert phase(2, backend="torch") == 4
    assert "attn.no_such_module" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        phase(2)


def test_what_was_chosen_is_collected():
    with choices() as outer:
        PHASE(2)
        with choices() as inner:
            PHASE(3)
        in_torch("other", double)(1)
    PHASE(2)
    assert [(phase.name, form.name) for phase, form in outer] == [
        ("doubling", "kernel"), ("doubling", "loop"), ("other", "torch"),
    ]  # fmt: skip
    assert [form.name for _, form in inner] == ["loop"]
