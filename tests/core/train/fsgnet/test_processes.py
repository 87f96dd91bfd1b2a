"""Training in two processes (gloo, on the CPU) gives what one process gives."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attn.core.fit import loop as trainer
from attn.core.fit.loop import Plan, fit
from attn.core.fit.processes import ALONE, Processes, joined
from attn.core.options import OptionError
from attn.core.segment.fsgnet.network import fsgnet
from attn.core.segment.prepare import Preparation
from attn.core.train.fsgnet.augment import PAPER
from attn.core.train.fsgnet.options import FSGNetOptions
from attn.core.train.fsgnet.recipe import CropBatches, Example, FSGNetRecipe, dice_bce
from attn.core.train.fsgnet.run import check_processes

PLAN = Plan(steps=3, warmup=1, learning_rate=1e-3, evaluate_every=2)


def photo(seed, side=56):
    """Noise, some of which is called vessel."""
    layers = torch.rand(5, side, side, generator=torch.Generator().manual_seed(seed))
    layers[3], layers[4] = (layers[3] > 0.8).float(), 1
    return Example(str(seed), layers, layers[:3].reshape(3, -1)[:, :400])


class Exact(FSGNetRecipe):
    """In float64, where Adam's division makes no step of the rounding of a gradient that is zero."""

    def loss(self, step):
        x, target = self.batches(step)
        return dice_bce(self.model(x.double()), target.double(), self.batches.processes)

    def evaluate(self, model):
        return {"f1": 0.0}


def train(folder, processes):
    torch.set_num_threads(1)
    trainer._draw = lambda recipe, state, path: None  # takes longer than all else here
    torch.manual_seed(1)
    net = fsgnet(2, (1, 1, 1, 1), drop_block=False).double()
    batches = CropBatches([photo(0), photo(1)], Preparation(), PAPER, 48, 4, 1, processes=processes)
    recipe = Exact(net, batches, [])
    return fit(recipe, PLAN, folder, processes=processes)


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.fixture
def second(monkeypatch):
    """Starts the second of two processes, and makes this one the first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []

    def start(*command):
        environment = {**os.environ, **places, "RANK": "1", "LOCAL_RANK": "1"}
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
        for name, value in {**places, "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_two_processes_train_as_one(tmp_path, monkeypatch, second):
    monkeypatch.setattr(trainer, "_draw", None)  # restored afterwards
    alone = train(tmp_path / "one", ALONE)
    other = second(__file__, tmp_path / "two")
    with joined() as processes:
        assert processes == Processes(0, 2, 0, 2)
        together = train(tmp_path / "two", processes)
    said = other.communicate(timeout=60)[0].decode()
    assert other.returncode == 0, said
    assert [row["loss"] for row in together.history] == pytest.approx([row["loss"] for row in alone.history], rel=1e-9)
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    for part in ("model", "averaged"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"drop_block": True}, "drop_block draws its blocks"),
        ({"batch_coupled": True}, "batch_coupled sums its attention"),
        ({"batch": 5}, "batch: 5 crops cannot be divided evenly by 2"),
    ],
)
def test_what_couples_a_batch_is_refused(changes, why):
    options = FSGNetOptions(Path("run"))
    check_processes(options, Processes(0, 2))
    check_processes(replace(options, **changes), ALONE)
    with pytest.raises(OptionError, match=why):
        check_processes(replace(options, **changes), Processes(0, 2))


if __name__ == "__main__":
    with joined() as these:
        train(Path(sys.argv[1]), these)
