"""A set scored at points: what is counted, what is told, what a killed run goes on from."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from attn.core.bundles import Placement
from attn.core.errors import InputError, UsageError
from attn.core.options import OptionError
from attn.core.progress import Silent
from attn.core.prune.curves import run as runs
from attn.core.prune.curves.options import CurveOptions
from attn.core.prune.curves.run import run_set
from attn.core.prune.data.marks import mark_of
from attn.core.prune.data.read import read_samples
from attn.core.prune.options import ModelChoice, PruneOptions
from attn.core.prune.sgl.tradeoff import exit_tradeoff
from attn.core.prune.vflowopt.strategy import FlowStrategy
from attn.core.report.model import Report, plain
from attn.core.report.sections import Curve
from attn.core.report.write import render
from tests.support.small_vlms import vlm_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder as if it had been trained, its norms being none of 1; and the same with the norms of a new model."""
    folder = tmp_path_factory.mktemp("models")
    trained = vlm_folder(folder / "trained", "llava")
    random = folder / "random"
    shutil.copytree(trained, random)
    weights = load_file(random / "model.safetensors")
    new = {name: torch.ones_like(w) if "norm" in name and name.endswith("weight") else w for name, w in weights.items()}
    save_file(new, random / "model.safetensors", metadata={"format": "pt"})
    return {"random": random, "trained": trained}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven questions about four pictures, one of which is damaged."""
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "0.png").read_bytes()[:200])
    asked = [
        "what colour is it",
        "is it red",
        "how many",
        "where is the red",
        "what is the colour of it",
        "no",
        "where",
    ]
    rows = [
        {
            "image": f"{number % 4}.png",
            "question": question,
            "answer": "red",
            "task": "ab"[number % 2],
            "boxes": [4, 4, 20, 20],
        }
        for number, question in enumerate(asked)
    ]
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "set.jsonl"


CURVE = CurveOptions(methods=("fastv",), keeps=(0.5, 0.25), draws=2, batch_size=2)


def scored(
    questions: Path, out: Path, model: Path, curve: CurveOptions = CURVE, *, overwrite: bool = False, **more: Any
) -> Report:
    options = PruneOptions(choice=ModelChoice(str(model)), max_new_tokens=2, **more)
    placement = Placement(overwrite=overwrite, threads=1)
    return run_set(str(questions), out, options, curve, placement, watcher=Silent())


def records_of(out: Path) -> list[str]:
    return [line for path in sorted((out / "records").iterdir()) for line in path.read_text().splitlines()]


def test_points(questions: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    report = scored(questions, tmp_path / "out", models["trained"])
    rows = {(row["method"], row["r_requested"]): row for row in report.sections[0].rows()}
    assert set(rows) == {
        ("full", 1.0), ("fastv", 0.5), ("random", 0.5), ("random", 0.25), ("oracle", 0.5), ("oracle", 0.25)
    }  # fmt: skip
    assert all(row["n"] == 6 and row["model_kind"] == "unknown" for row in rows.values())
    assert all(row["r_counted"] == pytest.approx(row["r_requested"], abs=0.01) for row in rows.values())
    assert rows["full", 1.0]["kl_mean"] == 0
    assert rows["random", 0.5]["seeds"] == 2
    assert rows["full", 1.0]["flops_ratio"] == 1
    assert rows["random", 0.25]["flops_ratio"] < rows["random", 0.5]["flops_ratio"] < 1
    assert rows["oracle", 0.5]["attn_mass"] > rows["random", 0.5]["attn_mass"]
    assert 0 <= rows["random", 0.25]["evidence_recall"] <= 1
    whole, *failed = report.items
    assert any("fastv at 0.25: a mean of 0.25 over all 4 layers cannot be reached" in text for text in whole.warnings)
    assert [item.input for item in failed] == ["line 4"]
    assert "3.png" in str(failed[0].error)
    assert report.exit_code == 1
    assert report.summary["rule"] == "exact"
    names = [section.name for section in report.sections]
    assert names == ["points", "curves", "tests", "areas", "tasks"]
    written = [json.loads(line) for line in (tmp_path / "out" / "points.jsonl").read_text().splitlines()]
    assert len(written) == 3 * len(rows)
    assert {row["task"] for row in written} == {None, "a", "b"}
    for suffix in ("json", "csv", "md", "html"):
        assert "fastv" in render(report, tmp_path / f"r.{suffix}") or suffix == "csv"


def test_early_exit_in_a_set(questions: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    """Accuracy against the share of calls is that of ``exit_tradeoff`` over the records."""
    guide = vlm_folder(tmp_path / "guide", "llava", 1)
    curve = CurveOptions(methods=("sgl", "random"), keeps=(0.6, 0.5), draws=1, batch_size=4)
    report = scored(questions, tmp_path / "out", models["trained"], curve, guide=str(guide), early_exit=0.25)
    rows = {(row["method"], row["r_requested"]): row for row in report.sections[0].rows()}
    assert {method for (method, _), row in rows.items() if "large_calls" in row} == {"sgl"}
    (found,) = [section for section in report.sections if section.name == "early_exit"]
    records = [json.loads(line) for line in records_of(tmp_path / "out")]
    mine = [record for record in records if record.get("method") == "sgl" and record["keep"] == 0.5]
    assert len(mine) == 6
    names = ("decision", "score_guide", "score_large")
    wanted = exit_tradeoff(*([one[name] for one in mine] for name in names))
    assert isinstance(found, Curve)
    np.testing.assert_allclose(found.axis, wanted.shares)
    np.testing.assert_allclose(found.lines["sgl at 0.5"], wanted.accuracy)
    calls = [one["decision"] < 0.25 for one in mine]
    assert [one["large_calls"] for one in mine] == calls
    assert rows["sgl", 0.5]["large_calls"] == pytest.approx(np.mean(calls))
    assert [one["score"] for one in mine] == [
        one["score_large" if one["large_calls"] else "score_guide"] for one in mine
    ]
    assert any("large_calls is" in text for text in report.notices)


def test_goes_on_where_it_was(
    questions: Path, tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(questions, tmp_path / "whole", models["trained"])
    work, done = runs.score_part, []

    def until_killed(*args: Any, **kwargs: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return work(*args, **kwargs)

    monkeypatch.setattr(runs, "score_part", until_killed)
    stopped = scored(questions, tmp_path / "out", models["trained"])
    assert stopped.exit_code == 130
    assert len(stopped.left or ()) == 2
    done.clear()
    monkeypatch.setattr(runs, "score_part", lambda *args, **kwargs: (done.append(args), work(*args, **kwargs))[1])
    again = scored(questions, tmp_path / "out", models["trained"])
    assert len(done) == 2
    assert records_of(tmp_path / "out") == records_of(tmp_path / "whole")
    assert plain(again.sections[0].rows()) == plain(whole.sections[0].rows())


@pytest.mark.slow
def test_two_processes_find_the_same(questions: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    curve = CurveOptions(methods=("uniform",), keeps=(0.25,), draws=1, batch_size=2)
    options = PruneOptions(choice=ModelChoice(str(models["trained"])), max_new_tokens=2)
    for name, workers in (("one", 1), ("two", 2)):
        placement = Placement(workers=workers, threads=1)
        run_set(str(questions), tmp_path / name, options, curve, placement, watcher=Silent())
    assert records_of(tmp_path / "one") == records_of(tmp_path / "two")


def test_another_run_is_refused(questions: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    few = CurveOptions(methods=("uniform",), keeps=(0.5,), draws=1, limit=2)
    scored(questions, tmp_path / "out", models["trained"], few)
    other = CurveOptions(methods=("uniform",), keeps=(0.25,), draws=1, limit=2)
    with pytest.raises(OptionError, match=r"keeps was \[0.5\], now \[0.25\]"):
        scored(questions, tmp_path / "out", models["trained"], other)
    report = scored(questions, tmp_path / "out", models["trained"], other, overwrite=True)
    assert {row["r_requested"] for row in report.sections[0].rows()} == {1.0, 0.25}


def test_random_weights_carry_no_claim(questions: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    report = scored(questions, tmp_path / "out", models["random"], CurveOptions(methods=("uniform",), limit=2, draws=1))
    assert "random: it was never trained" in report.notices[0]
    for row in report.sections[0].rows():
        assert row["model_kind"] == "random"
        assert row["accuracy"] is None
        assert row["kl_mean"] is None
        assert math.isfinite(row["r_counted"])
    assert not (tmp_path / "out" / "curves.png").exists()


def test_without_answers_fidelity_alone(questions: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [{**json.loads(line), "answer": None} for line in questions.read_text().splitlines()[:3]]
    source = questions.parent / "unanswered.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = scored(
        source, tmp_path / "out", models["trained"], CurveOptions(methods=("uniform",), keeps=(0.5,), draws=1)
    )
    assert any("no sample has an answer: only fidelity" in text for text in report.items[0].warnings)
    assert [section.name for section in report.sections] == ["points", "curves", "tasks"]
    assert all(math.isnan(row["accuracy"]) for row in report.sections[0].rows())


@pytest.mark.parametrize(
    ("curve", "more", "what"),
    [
        ({"methods": ("nosuch",)}, {}, "no prune method named 'nosuch'"),
        ({}, {"prompt": "what is it"}, "prompt: every sample of a dataset has a question of its own"),
        ({}, {"method": "uniform"}, "method is for pictures, not for a dataset. Use methods"),
        ({}, {"settings": {"": {"seed": "3"}}}, "settings seed: which of methods is it of"),
    ],
)
def test_refused(
    questions: Path, tmp_path: Path, models: dict[str, Path], curve: dict[str, Any], more: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        scored(questions, tmp_path / "out", models["random"], CurveOptions(**curve), **more)
    assert not (tmp_path / "out").exists()


def test_a_strategy_is_not_scored_on_its_own_samples(questions: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    marks = tuple(mark_of(sample) for sample in read_samples(str(questions), limit=1, seed=0))
    path = tmp_path / "s.json"
    FlowStrategy(0.5, 1.5, 0.0, 3.0, 0.5, 0.8, None, (1, 2), 1, split=marks).write(path)
    curve = CurveOptions(methods=("vflowopt",), keeps=(0.5,))
    with pytest.raises(UsageError, match=r"1 of the samples are among those that the strategy was found on"):
        scored(questions, tmp_path / "out", models["random"], curve, calibration=path)
    assert not (tmp_path / "out").exists()


def test_options() -> None:
    with pytest.raises(OptionError, match="keeps: 0 keeps no token"):
        CurveOptions(keeps=(0.0,))
    with pytest.raises(OptionError, match=r"keeps: 1\.5 keeps more tokens than there are"):
        CurveOptions(keeps=(1.5,))


def test_a_set_that_is_not_there(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="does not exist"):
        scored(tmp_path / "gone.jsonl", tmp_path / "out", models["random"])
