"""The pieces of ``check.sh``, and its rehearsal as a whole: the first minute on a GPU is not for debugging."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
FOLDER = Path(__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_tells_what_failed_and_what_was_fastest(tmp_path, capsys):
    items = [
        {"input": "dense", "status": "ok", "metrics": {"median_ms": 1.25}, "error": None},
        {"input": "hip", "status": "failed", "metrics": {}, "error": "too large"},
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"items": items}))
    load("tables").main(tmp_path)
    text = capsys.readouterr().out
    assert "| dense | ok | 1.25 |" in text
    assert "too large" in text
    assert "tune.json was not written" in text


def test_every_named_cut_is_timed_or_says_why_not_and_the_table_is_put_back(monkeypatch):
    tune = load("tune")
    before = dict(tune.blocks.TILES)
    monkeypatch.setattr(tune, "tables", lambda: [("blocks", tune.blocks)])
    monkeypatch.setattr(tune.blocks, "forward", lambda *_: (_ for _ in ()).throw(ValueError("no room\nat all")))
    found = tune.tune(torch.device("cpu"), 60, 16, most=1)
    assert [row["why"] for row in found["rows"]] == ["ValueError: no room"]
    assert not any(row.get("fastest") for row in found["rows"])
    assert before == tune.blocks.TILES
    monkeypatch.setattr(tune.blocks, "forward", lambda *_: None)
    rows = tune.tune(torch.device("cpu"), 60, 16, most=2)["rows"]
    assert sum(row.get("fastest", False) for row in rows) == 2
    assert before == tune.blocks.TILES
    assert all(name.startswith("blocks") for name in tune.tune(torch.device("cpu"), -1, 16, most=2)["left"])


def test_every_table_has_a_call():
    tune = load("tune")
    assert {name for name, _ in tune.tables()} == set(tune.CALLS)


def test_without_a_gpu_it_says_so_and_stops(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    done = subprocess.run(
        ["bash", FOLDER / "check.sh", tmp_path], capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout.startswith("no GPU that this Python's torch can use")


@pytest.mark.slow
def test_the_rehearsal(tmp_path):
    done = subprocess.run(
        ["bash", FOLDER / "check.sh", "--rehearse", tmp_path], capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable, "TRITON_CACHE_DIR": str(tmp_path / "cache")}, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    text = (tmp_path / "check.md").read_text()
    assert "rehearsal on the CPU, no figure of a GPU" in text
    assert "| dense @ 64 lowrank | ok |" in text
    rows = json.loads((tmp_path / "tune.json").read_text())["rows"]
    assert all(row["measured_ms"] for row in rows)
