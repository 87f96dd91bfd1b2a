"""A recipe is a folder (here one module) and a registry line: nothing else knows of it, and it trains and resumes."""

import json
import sys

import pytest

from attn.core.catalogue import registry
from attn.core.registry import Method

MODULE = '''
"""Fits a line."""

from dataclasses import dataclass, field
from typing import Annotated

from attn.core.bundles import Compute
from attn.core.command import Verb
from attn.core.fit.options import FILES, LearningRate, OutputFolder, TrainingOptions
from attn.core.options import Option, check


@dataclass(frozen=True, slots=True)
class ToyOptions:
    output: OutputFolder
    points: Annotated[int, Option("Points that are drawn.", metavar="N", least=1)] = 64
    noise: Annotated[str, Option("How they scatter.", choices=("none", "normal"))] = "normal"
    steps: Annotated[int, Option("Steps.", metavar="N", least=1, resumable=True)] = 4
    learning_rate: LearningRate = 0.1
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self):
        check(self)


RECIPE = Verb(
    options=ToyOptions, run="toy_recipe:train_toy", description="Fit a line.\\n\\nTo drawn points.", files=FILES,
    examples=(("attn train toy -o line/", "A line."),),
)


class Line:
    score, stalled_below = "r2", ("r2", -1e9)

    def __init__(self, options):
        import torch

        torch.manual_seed(options.compute.seed)
        self.model = torch.nn.Linear(1, 1)
        self.x = torch.randn(options.points, 1)
        self.y = 3 * self.x + (0.1 * torch.randn_like(self.x) if options.noise == "normal" else 0)

    def loss(self, step):
        return (self.model(self.x) - self.y).square().mean()

    def evaluate(self, model):
        return {"r2": float(1 - (model(self.x) - self.y).square().mean() / self.y.var())}


def train_toy(options, *, watcher=None, arguments=None):
    from safetensors.torch import save_file

    from attn.core.fit.frame import run_of
    from attn.core.fit.loop import Plan

    with run_of("toy", options, watcher=watcher, arguments=arguments) as run:
        recipe = Line(options)
        plan = Plan(steps=options.steps, warmup=0, learning_rate=options.learning_rate, evaluate_every=2)
        outcome = run.fit(recipe, plan, identity={"slope": 3})
        run.save(lambda path: save_file(recipe.model.state_dict(), path), lambda size: f"# toy, {size} bytes")
        return run.report(outcome, data="drawn points")
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_recipe.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    row = Method("toy", home="toy_recipe:RECIPE", summary="a line", paper="Gauss", year=1809)
    monkeypatch.setitem(registry("train")._methods, "toy", row)
    yield
    sys.modules.pop("toy_recipe", None)


def test_a_toy_recipe_trains_resumes_and_is_told_of_everywhere(cli, toy, tmp_path):
    first = cli("train", "toy", "-o", "run", "--json")
    assert first.code == 0, first.stderr
    item = first.report["items"][0]
    assert item["metrics"]["step"] == 4
    assert item["output"] == "run/model.safetensors"
    assert set(item["files"]) == {"card", "metrics", "curve"}
    assert item["details"]["options"]["points"] == 64
    assert first.report["arguments"]["recipe"] == "toy"
    more = cli("train", "toy", "-o", "run", "--steps", "6", "--json")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert more.report["items"][0]["metrics"]["r2"] > item["metrics"]["r2"]
    other = cli("train", "toy", "-o", "run", "--points", "9")
    assert other.code == 2
    assert "run holds another run (points was 64, now 9). Name another --output, or give --restart" in other.stderr
    assert cli("train", "toy", "-o", "run", "--points", "9", "--restart", "-q").code == 0

    assert "toy" in cli("train", "--help").stdout
    assert "toy" in {row["method"] for row in json.loads(cli("train", "--list", "--json").stdout)}
    assert "Points that are drawn." in cli("train", "toy", "--help").stdout
    wrong = cli("train", "toy", "-o", "x", "--noise", "normel")
    assert "Did you mean normal?" in wrong.stderr
    from attn.cli.man import write_man_pages

    pages = {path.name: path.read_text() for path in write_man_pages(tmp_path / "man")}
    assert "attn train toy \\-o line/" in pages["attn-train-toy.1"]


def test_options_of_a_recipe_from_a_file(cli, toy, tmp_path):
    config = tmp_path / "toy.toml"
    config.write_text('output = "run"\npoints = 32\nlearning-rate = 1e-3\n[compute]\nseed = 5\n')
    done = cli("train", "toy", "--config", "toy.toml", "--points", "16", "--json")
    assert done.code == 0, done.stderr
    arguments = done.report["arguments"]
    assert arguments["config"] == "toy.toml"
    read = {name: arguments[name] for name in ("points", "learning_rate", "seed", "output", "steps")}
    assert read == {"points": 16, "learning_rate": 1e-3, "seed": 5, "output": "run", "steps": 4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pionts = 3", "toy.toml: no option of this recipe is named 'pionts'. Did you mean points?"),
        ('points = "many"', "toy.toml: points = 'many' is not a whole number."),
        ("points = true", "points = True is not a whole number"),
        ("noise = 3", "noise = 3 is not text in quotes"),
        ("restart = 1", "restart = 1 is not true or false"),
        ("points = 3\n[x]\npoints = 4", "'points' is there twice"),
        ("points 3", "toy.toml: is no TOML"),
        ("points = 0", "--points"),
        ('noise = "normel"', "--noise: 'normel' is no choice. Did you mean normal?"),
        ('config = "other.toml"', "no option of this recipe is named 'config'"),
    ],
)
def test_a_file_of_options_that_cannot_be_taken(cli, toy, tmp_path, text, words):
    (tmp_path / "toy.toml").write_text(text)
    done = cli("train", "toy", "-o", "run", "--config", "toy.toml")
    assert done.code == 2
    assert words in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Usage:", "Try ")) and line.strip()]
    assert len(lines) == 1
    assert not (tmp_path / "run").exists()


def test_a_file_of_options_that_is_not_there(cli, toy):
    done = cli("train", "toy", "-o", "run", "--config", "nowhere.toml")
    assert done.code == 2
    assert "nowhere.toml: does not exist" in done.stderr
