"""`attn probe icl --known`: our tools find what is known, and a tool that is wrong is found out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attn.core.options import OptionError
from attn.core.probe.icl.known import operators, tools
from attn.core.probe.icl.known.built import KnownAnswer
from attn.core.probe.icl.options import IclOptions
from attn.core.probe.icl.run import run


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "PROMPTS", 1000)


def test_tools_are_right() -> None:
    report = run(IclOptions(known=True, seed=3))
    assert [item.error for item in report.items] == [None] * len(tools.TOOLS)
    assert report.exit_code == 0
    assert report.files == {}


def test_a_wrong_operator_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that forgets its newest key."""
    right = operators.attention

    def wrong(name: str, q: Tensor, k: Tensor, v: Tensor, **given: object) -> Tensor:
        out: Tensor = right(name, q, k, v, **given)  # type: ignore[call-overload]
        if name != "hip":
            return out
        return right("dense", q[:, :, -1:], k[:, :, :-1], v[:, :, :-1], causal=False, scale=1.0)

    monkeypatch.setattr(operators, "attention", wrong)
    monkeypatch.setattr(tools, "TOOLS", {"operators": tools.TOOLS["operators"]})
    monkeypatch.setattr("attn.core.probe.icl.known.run.TOOLS", {"operators": tools.TOOLS["operators"]})
    report = run(IclOptions(known=True))
    assert report.exit_code == 3
    assert str(report.items[0].error).startswith("hip, ")
    assert "dense" not in str(report.items[0].error)


def test_operators_that_are_there_are_all_checked() -> None:
    known = {*operators.ALL, *operators.LINEAR_ONES, "fla", "sparsifiner"}  # linear, of a package; keys of a predictor
    assert known == set(operators.OPERATORS)


def test_nan_does_not_pass() -> None:
    assert not KnownAnswer("nothing", float("nan"), 0, 1).passed
    assert not operators.exact("nothing", torch.tensor([torch.nan]), torch.ones(1), 1).passed


def test_options_that_would_do_nothing() -> None:
    with pytest.raises(OptionError, match=r"known.*steps would do nothing"):
        IclOptions(known=True, steps=10)
