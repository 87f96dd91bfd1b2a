"""`attn probe icl` on tiny networks: results, resuming, weights of others, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn.core.bundles import Placement
from attn.core.errors import InputError
from attn.core.options import OptionError
from attn.core.probe import panel
from attn.core.probe.icl import training
from attn.core.probe.icl.options import IclOptions, parse_networks, parse_variances
from attn.core.probe.icl.run import run
from attn.core.report.model import Item, Report

SMALL: dict[str, Any] = dict(dim=3, length=6, batch=8, steps=40, seeds=2, prompts=200)


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LOOKED_AT", 64)
    monkeypatch.setattr(training, "LOOKS", 2)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are what these tests would spend their time on."""
    monkeypatch.setattr(panel, "draw_figure", lambda path, data: path.write_bytes(data.kind.encode()))


def tables_of(item: Item) -> dict[str, Any]:
    return {section.name: section.rows() for section in item.sections}


def test_every_network_and_all_together(tmp_path: Path) -> None:
    report = run(IclOptions(("2", "linear"), str(tmp_path), **SMALL))
    assert [item.status for item in report.items] == ["ok", "ok"]
    assert {"icl.png", "icl-2.npz", "icl-linear.json", "icl-2"} <= {path.name for path in tmp_path.iterdir()}
    with np.load(tmp_path / "icl-2.npz") as arrays:
        assert arrays["KQ"].shape == (2, 2, 4, 4)
        assert arrays["OV"].shape == (2, 2, 1, 4)
        assert arrays["lengths"].tolist() == [3, 6, 12, 24]
        assert arrays["mse_network"].shape == (2, 4)
        assert arrays["track_omega"].shape == (2, 2, 1, 3)
        assert arrays["track_step"].tolist() == [0, 20, 40]
    softmax, linear = report.items
    assert len(tables_of(softmax)["heads"]) == 4
    assert "pattern" in softmax.metrics
    assert "pattern" not in linear.metrics
    predictors = [row["predictor"] for row in tables_of(linear)["errors"]]
    assert "network, divided by this length" in predictors
    at = {row["length"]: row["mse"] for row in tables_of(linear)["errors"] if row["predictor"].startswith("network")}
    assert len(at) == 4
    together = json.loads((tmp_path / "icl.json").read_text())
    assert [row["network"] for row in together["tables"]["networks"]] == [
        "2 heads", "linear", "linear, divided by length",
    ]  # fmt: skip
    assert softmax.details["examples_trained_on"] == linear.details["examples_trained_on"] == 40 * 8 * 6
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.usefixtures("undrawn")
def test_other_variances_and_several_tasks(tmp_path: Path) -> None:
    report = run(IclOptions(("3",), str(tmp_path), tasks=2, variances=(0.5, 1.0, 2.0), attend_query=True, **SMALL))
    (item,) = report.items
    tables = tables_of(item)
    assert [row["covariates"] for row in tables["tasks"]] == [2, 1]
    assert "omega_2" in tables["heads"][0]
    assert {"tasks_solved", "heads_shared", "mse_preconditioned"} <= set(item.metrics)
    assert "mse_single_head" not in item.metrics


@pytest.mark.usefixtures("undrawn")
def test_learning(tmp_path: Path) -> None:
    """Paired heads find the circuit in 300 steps: the sign of nothing is left to chance."""
    options = SMALL | {"steps": 300, "batch": 64, "rate": 0.02, "paired_init": True, "prompts": 1000}
    (item,) = run(IclOptions(("2",), str(tmp_path), **options)).items
    assert item.metrics["mse"] < 0.75 * item.metrics["mse_zero"]
    assert item.metrics["zero_sum"] < 0.2
    assert {row["sort"] for row in tables_of(item)["heads"]} == {"+", "-"}


class Stops:
    """A watcher with which Ctrl-C comes at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def item(self, item: Item, done: int, total: int) -> None: ...

    def step(self, name: str, done: int, total: int) -> None:
        if done == self.at:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(IclOptions(("2",), str(whole), **SMALL))
    stopped = run(IclOptions(("2",), str(parts), **SMALL), watcher=Stops(21))
    assert stopped.exit_code == 130
    assert not (parts / "icl-2.png").exists()
    run(IclOptions(("2",), str(parts), **SMALL))
    with np.load(whole / "icl-2.npz") as one, np.load(parts / "icl-2.npz") as other:
        for name in one.files:
            assert np.array_equal(one[name], other[name]), name
    again = run(IclOptions(("2",), str(parts), **SMALL))
    assert again.items[0].status == "skipped"
    assert not again.items[0].warnings
    changed = run(IclOptions(("2",), str(parts), **SMALL | {"steps": 50}))
    assert "other settings" in changed.items[0].warnings[0]


@pytest.mark.usefixtures("undrawn")
def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    run(IclOptions(("2",), str(tmp_path), **SMALL), watcher=Stops(25))
    other = SMALL | {"rate": 0.1}
    with pytest.raises(OptionError, match=r"rate was 0.003, now 0.1.*overwrite"):
        run(IclOptions(("2",), str(tmp_path), **other))
    assert run(IclOptions(("2",), str(tmp_path), placement=Placement(overwrite=True), **other)).exit_code == 0


@pytest.mark.usefixtures("undrawn")
def test_a_loss_that_is_no_number_ends_one_network(tmp_path: Path) -> None:
    """Softmax attention stays within what a float holds, linear attention does not."""
    report = run(IclOptions(("2", "linear"), str(tmp_path), **SMALL | {"rate": 1e18}))
    assert report.exit_code == 1
    assert [item.status for item in report.items] == ["ok", "failed"]
    assert "lower rate" in str(report.items[1].error)


def probed(path: Path, tmp_path: Path, **given: Any) -> Report:
    return run(
        IclOptions(output=str(tmp_path / "probed"), weights=path, **{"dim": 3, "length": 6, "prompts": 200} | given)
    )


@pytest.mark.usefixtures("undrawn")
def test_weights_of_a_file(tmp_path: Path) -> None:
    report = run(IclOptions(("2",), str(tmp_path), **SMALL))
    again = probed(tmp_path / "icl-2.npz", tmp_path)
    assert again.items[0].metrics["mse"] == pytest.approx(report.items[0].metrics["mse"], rel=1e-6)
    assert Path(str(again.items[0].output)).name == "icl-2-probed.png"
    generator = np.random.default_rng(0)
    key, query, value, out = generator.standard_normal((4, 2, 4, 4))
    np.savez(tmp_path / "factors.npz", K=key, Q=query, V=value, O=out)
    np.savez(tmp_path / "merged.npz", KQ=key.transpose(0, 2, 1) @ query, OV=out @ value)
    one, other = (probed(tmp_path / f"{name}.npz", tmp_path).items[0].metrics for name in ("factors", "merged"))
    assert one["mse"] == pytest.approx(other["mse"])
    np.savez(tmp_path / "mixed.npz", KQ=np.zeros((1, 4, 4)), OV=np.ones((1, 4, 4), np.float16))
    assert probed(tmp_path / "mixed.npz", tmp_path).exit_code == 0
    np.savez(tmp_path / "large.npz", KQ=np.full((1, 4, 4), 1.7e308), OV=np.ones((1, 4, 4)))
    assert "too large" in str(probed(tmp_path / "large.npz", tmp_path).items[0].error)
    linear = probed(tmp_path / "merged.npz", tmp_path, networks=("linear",))
    assert linear.items[0].status == "skipped"
    assert "other settings" in linear.items[0].warnings[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"KQ": np.zeros((2, 4, 4))}, "has of these arrays KQ"),
        ({"KQ": np.zeros((2, 5, 5)), "OV": np.zeros((2, 5, 5))}, "width 5, not 4"),
        ({"KQ": np.zeros((2, 4, 4)), "OV": np.zeros((3, 4, 4))}, "array OV is"),
        ({"KQ": np.full((2, 4, 4), np.nan), "OV": np.zeros((2, 4, 4))}, "no finite"),
        ({"KQ": np.zeros((2, 4, 4), int), "OV": np.zeros((2, 4, 4))}, "no finite"),
        ({"KQ": np.zeros(4), "OV": np.zeros((2, 4, 4))}, r"array KQ is \[4\]"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    report = probed(tmp_path / "bad.npz", tmp_path)
    assert report.exit_code == 1
    assert re.search(message, str(report.items[0].error))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        probed(tmp_path / "gone.npz", tmp_path)
    (tmp_path / "text.npz").write_text("no archive")
    assert "KQ and OV" in str(probed(tmp_path / "text.npz", tmp_path).items[0].error)


def test_options() -> None:
    assert parse_networks("4, 1,linear,4") == ("4", "1", "linear")
    assert parse_variances("0.5,2") == (0.5, 2.0)
    for text in ("0", "17", "04", "four", "", "4,,1"):
        with pytest.raises(ValueError, match="heads"):
            parse_networks(text)
    for text in ("0", "-1", "nan", "inf", "a", ""):
        with pytest.raises(ValueError, match="variances"):
            parse_variances(text)
    for given, message in (
        ({"tasks": 6}, "tasks"), ({"variances": (1.0, 2.0)}, "variances"), ({"lengths": (1, 8)}, "lengths"),
        ({"networks": ("1", "linear"), "paired_init": True}, "paired_init"), ({"networks": ("x",)}, "heads"),
        ({"weights": Path("a.npz"), "steps": 10}, "steps would do nothing"), ({"steps": 0}, "steps"),
        ({"weights": Path("a.npz"), "networks": ("4", "1")}, "networks"), ({"rate": float("nan")}, "rate"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            IclOptions(**given)  # type: ignore[arg-type]
    assert IclOptions(length=5).measured_lengths == (2, 5, 10, 20)
    assert IclOptions(length=5, lengths=(8,)).measured_lengths == (5, 8)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_four_heads_find_the_circuit(tmp_path: Path) -> None:
    """Section 6's acceptance, in its quick mode."""
    report = run(IclOptions(("4",), str(tmp_path), seeds=2, steps=5000))
    for row in tables_of(report.items[0])["verdicts"]:
        assert 0.235 < row["mse"] < 0.262
        assert row["zero_sum_value"] < 0.05
        assert row["both_signs"]
        assert row["signs_match"]
