"""`attn probe initialisers`: the race itself, and the command over several start values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attn.core.bundles import Placement
from attn.core.options import OptionError
from attn.core.probe.initialisers import race as module
from attn.core.probe.initialisers.figure import smoothed
from attn.core.probe.initialisers.options import InitialisersOptions, parse_initialisers
from attn.core.probe.initialisers.race import Race, drawn_colours, plain_network, run_race
from attn.core.probe.initialisers.run import run

SMALL = dict(steps=6, batch=4, layers=3, width=4)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL", 40)
    monkeypatch.setattr(module, "HELD_OUT", 16)


def test_network() -> None:
    net = plain_network(10, 6)
    convolutions = [part for part in net if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 10
    assert not [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    assert [part.stride[0] for part in convolutions] == [2, 1, 1, 2, 1, 1, 2, 1, 1, 1]


def test_pictures_are_the_same_from_the_same_seed() -> None:
    one, other = drawn_colours(16, 1, 0), drawn_colours(16, 1, 1)
    assert one.images.shape == (16, 3, 32, 32)
    assert not torch.equal(one.images, other.images)
    drawn_colours.cache_clear()
    assert torch.equal(one.images, drawn_colours(16, 1, 0).images)
    assert int(one.labels.max()) < 8


def test_a_race_is_repeatable_and_no_number_ends_it() -> None:
    one, same = (run_race("he", 3, rate=0.01, **SMALL) for _ in range(2))
    assert np.array_equal(one.loss, same.loss)
    assert np.isfinite(one.loss).all()
    assert one.looked[-1] == 6
    other = run_race("lecun", 3, rate=0.01, **SMALL)
    assert not np.array_equal(one.loss, other.loss)
    wild = run_race("he", 3, rate=1e30, **SMALL)
    assert wild.failed
    assert np.isnan(wild.loss[-1])
    assert math.isinf(wild.steps_to(0.99))


def test_what_a_race_comes_to() -> None:
    looked = np.array([10, 20, 30])
    good = Race(np.linspace(2.1, 0.5, 30, dtype=np.float32), looked, np.array([0.1, 0.6, 0.5], np.float32))
    assert (good.failed, good.steps_to(0.5), good.steps_to(0.9)) == (False, 20, math.inf)
    assert Race(np.full(30, math.log(8), np.float32), looked, good.accuracy).failed
    assert smoothed(np.arange(12, dtype=np.float32)[None])[0, [0, 3, 11]].tolist() == [0, 1.5, 6.5]


def test_command(tmp_path: Path) -> None:
    options = InitialisersOptions(("he", "zero-gamma", "pca"), str(tmp_path), seeds=2, rate=0.01, **SMALL)
    report = run(options)
    assert [item.status for item in report.items] == ["ok", "failed", "ok"]
    assert "no residual branch" in str(report.items[1].error)
    assert {"loss_1", "loss_last", "accuracy", "failures"} <= set(report.items[0].metrics)
    document = json.loads((tmp_path / "initialisers.json").read_text())
    assert {row["initialiser"] for row in document["tables"]["initialisers"]} == {"he", "pca"}
    assert document["arrays"]["loss"] == [2, 2, 6]
    again = run(options)
    assert [item.status for item in again.items] == ["skipped", "failed", "skipped"]
    assert again.items[0].warnings == ()
    longer = InitialisersOptions(("he",), str(tmp_path), seeds=2, rate=0.02, **SMALL)
    assert "other settings" in run(longer).items[0].warnings[0]
    assert run(InitialisersOptions(("he",), str(tmp_path), placement=Placement(overwrite=True), **SMALL)).files == {}


def test_options() -> None:
    assert parse_initialisers("he, lsuv") == ("he", "lsuv")
    assert len(parse_initialisers("all")) > 30
    with pytest.raises(ValueError, match="no initialiser"):
        parse_initialisers(",")
    with pytest.raises(OptionError, match="Did you mean lecun"):
        InitialisersOptions(("lecum",))
    with pytest.raises(OptionError, match="steps"):
        InitialisersOptions(steps=0)
