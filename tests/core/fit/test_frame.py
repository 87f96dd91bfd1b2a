"""The frame of a run: its device, folder, processes and report."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from steps import Steps

from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.fit import frame
from attn.core.fit import loop as trainer
from attn.core.fit.frame import run_of
from attn.core.fit.loop import Outcome, Plan
from attn.core.fit.options import OutputFolder, TrainingOptions
from attn.core.fit.processes import ALONE, Processes, processes_of_environment
from attn.core.options import OptionError


@dataclass(frozen=True, slots=True)
class FrameOptions:
    output: OutputFolder
    weights: Path | None = None
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=lambda: Compute(device="cpu", threads=1, seed=5))


class Constant:
    score, stalled_below = "r2", ("r2", -1.0)

    def __init__(self):
        self.model, self.seen = torch.nn.Linear(1, 1), []

    def loss(self, step):
        self.seen.append((step, torch.is_autocast_enabled("cpu"), torch.initial_seed()))
        return self.model(torch.ones(1, 1)).square().sum()

    def evaluate(self, model):
        return {"r2": 0.5}


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


def test_seed_precision_and_batches_of_a_step_are_those_of_the_options(tmp_path):
    options, told = FrameOptions(tmp_path, training=TrainingOptions(amp="bf16", accumulate=2)), []
    recipe = Constant()
    with run_of("toy", options, watcher=Steps(lambda *step: told.append(step)), arguments={"argv": ["x"]}) as run:
        outcome = run.fit(recipe, Plan(steps=2, warmup=1, learning_rate=0.1, evaluate_every=2), identity={})
        run.save(lambda path: path.write_bytes(b"12345"), lambda size: f"{size} bytes")
        report = run.report(outcome, data="nothing", metrics={"more": 1.0})
    assert [(number, half) for number, half, _ in recipe.seen] == [(n, True) for n in range(4)]
    assert {seed for _, _, seed in recipe.seen} == {5_000_015, 5_000_016}
    assert told == [(1, 2), (2, 2)]
    assert (tmp_path / "model.md").read_text() == "5 bytes"
    item = report.items[0]
    assert (item.output, item.metrics["r2"], item.metrics["more"]) == (str(tmp_path / "model.safetensors"), 0.5, 1.0)
    assert report.arguments["argv"] == ["x"]
    assert report.arguments["seed"] == 5
    assert item.details["options"] == {"weights": None, "amp": "bf16", "accumulate": 2, "device": "cpu", "seed": 5}


def test_a_model_file_names_no_folders():
    with run_of("toy", FrameOptions(Path("out"), Path("/home/me/start.pt")), watcher=None, arguments=None) as run:
        assert run.facts(photos=3)["options"]["weights"] == "start.pt"
        assert not {"output", "restart", "threads", "config"} & run.shown().keys()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OptionError, match=r"output: .*file: .* is a file, not a directory"),
        run_of("toy", FrameOptions(tmp_path / "file"), watcher=None, arguments=None),
    ):
        raise AssertionError("entered")


def test_a_recipe_that_runs_in_one_process_says_why(tmp_path):
    with run_of("toy", FrameOptions(tmp_path), watcher=None, arguments=None) as run:
        run.alone("its loss compares pairs")
        run.processes = Processes(0, 3)
        with pytest.raises(UsageError, match="toy runs in one process, not 3: its loss compares pairs"):
            run.alone("its loss compares pairs")


def test_all_but_the_first_process_write_nothing(tmp_path):
    with run_of("toy", FrameOptions(tmp_path), watcher=None, arguments=None) as run:
        run.processes = Processes(1, 2)
        run.save(lambda path: path.write_bytes(b""), str)
        assert run.report(Outcome({}, (), 0.0, ()), data="x").items[0].output is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        ({"RANK": "x", "WORLD_SIZE": "2"}, ALONE),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Processes(3, 4, 1, 2)),
    ],
)
def test_processes_are_read_from_the_launcher(monkeypatch, environment, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes_of_environment() == expected


def test_parts_of_a_batch_are_all_of_it():
    parts = [list(Processes(rank, 3).part(12)) for rank in range(3)]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert list(ALONE.part(5)) == [0, 1, 2, 3, 4]


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(frame, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert frame._device("cuda", Processes(5, 8, 1, 2)) == torch.device("cuda", 1)
    assert chosen == [1]
    assert frame._device("cpu", Processes(1, 2, 1, 2)) == torch.device("cpu")
    with pytest.raises(OptionError, match="device: every process takes a device of its own"):
        frame._device("cuda:1", Processes(1, 2, 1, 2))
    with pytest.raises(OptionError, match="device: 4 processes on this machine, 2 CUDA devices"):
        frame._device("cuda", Processes(0, 4, 0, 4))
