"""`attn train` as users type it, on drawn photos and a network that is trained in seconds."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from attn.core.segment.fsgnet.checkpoint import read_checkpoint
from attn.core.segment.threshold import Calibration

SHORT = ["--width", "2", "--depths", "1,1,1,1", "--crop", "48", "--batch", "2", "--warmup", "1"]
TINY = [*SHORT, "--hold-out", "1"]


def draw(folder, count=4, side=120):
    """Photos with dark lines on a bright disc, and their labels."""
    rng = np.random.default_rng(5)
    for name in ("images", "manual"):
        (folder / name).mkdir(parents=True)
    y, x = np.mgrid[:side, :side]
    disc = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (0.46 * side) ** 2
    for number in range(1, count + 1):
        lines = np.zeros((side, side), bool)
        for _ in range(5):
            a, b = rng.uniform(-1, 1), rng.uniform(20, 100)
            lines |= np.abs(y - (a * (x - side / 2) + b)) < 1.5
        photo = np.array([0.7, 0.5, 0.25]) * (1 - 0.5 * lines[..., None]) + 0.02 * rng.standard_normal((side, side, 3))
        Image.fromarray((255 * (photo * disc[..., None]).clip(0, 1)).astype(np.uint8)).save(
            folder / "images" / f"{number:02}.png"
        )
        Image.fromarray(lines & disc).save(folder / "manual" / f"{number:02}.png")
    return folder


def test_two_data_sets_and_a_split(cli, tmp_path):
    for name in ("one", "two"):
        draw(tmp_path / name)
    lists = {"one": {"train": ["01", "02"], "held_out": ["03"], "test": ["04"]}, "two": {"train": ["01", "02"]}}
    (tmp_path / "split.json").write_text(json.dumps(lists), encoding="utf-8")
    sets = ["--data", "one,two", "--split", "split.json", "--fine-diameter", "700"]
    command = ["train", "fsgnet", *sets, "-o", "run", *SHORT, "--steps", "2", "--json"]
    done = cli(*command, cwd=tmp_path)
    assert done.code == 0, done.stderr
    model = read_checkpoint(tmp_path / "run" / "model.safetensors")
    assert model.training["held_out"] == ["one/03"]
    assert model.preparation.fine_diameter == 700
    assert "4 photos of one, two" in (tmp_path / "run" / "model.md").read_text()
    both = cli(*command, "--hold-out", "1", cwd=tmp_path)
    assert (both.code, both.stderr.count("\n")) == (2, 1)
    assert "--split names the 1 photos that are held out" in both.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("photos"))


def test_train_resume_and_use(attn, cli, data, tmp_path):
    """Begun by one process, gone on with by another."""
    command = ["train", "fsgnet", "--data", str(data), "-o", str(tmp_path / "run"), *TINY, "--evaluate-every", "2"]
    first = attn(*command, "--steps", "2", "--json")
    assert first.code == 0, first.stderr
    item = first.report["items"][0]
    assert item["metrics"]["step"] == 2
    assert 0 <= item["metrics"]["f1"] <= 1
    more = cli(*command, "--steps", "4", "--json")
    assert more.code == 0, more.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert more.report["items"][0]["files"].keys() == {"card", "metrics", "curve"}
    card = (tmp_path / "run" / "model.md").read_text()
    assert "Threshold" in card
    assert str(data.parent) not in card  # a card names the set, not where it was

    model = read_checkpoint(tmp_path / "run" / "model.safetensors")
    assert model.calibration != Calibration()  # fitted on the photo that was held out

    used = cli("segment", data / "images" / "01.png", "-m", tmp_path / "run" / "model.safetensors",
               "-o", "out", "--truth", data / "manual", "--json")  # fmt: skip
    assert used.code == 0, used.stderr
    assert (tmp_path / "out" / "01.mask.png").exists()
    assert "f1" in used.report["items"][0]["metrics"]


def test_another_run_in_the_folder_is_refused_unless_restarted(cli, data, tmp_path):
    command = ["train", "fsgnet", "--data", str(data), "-o", str(tmp_path / "run"), *TINY, "--steps", "2", "-q"]
    assert cli(*command).code == 0
    other = cli(*command, "--seed", "5")
    assert other.code == 2
    assert "another run (seed" in other.stderr
    assert cli(*command, "--seed", "5", "--restart").code == 0


@pytest.mark.parametrize(
    "options", [["--trunk", "unet"], ["--no-guided"], ["--init", "lsuv"], ["--augment", "paper"]], ids=str
)
def test_variants(cli, data, tmp_path, options):
    done = cli("train", "fsgnet", "--data", str(data), "-o", str(tmp_path / "run"), *TINY, "--steps", "2", *options)
    assert done.code == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trunk", "unett"], "Did you mean unet?"),
        (["--init", "kaimingg"], "--init: 'kaimingg'"),
        (["--crop", "50"], "--crop: 50 px"),
        (["--steps", "2", "--warmup", "2"], "--warmup"),
        (["--hold-out", "9"], "--hold-out: 9 of 4"),
        (["--fine-diameter", "300"], "--fine-diameter: 300 px is not from 540 to 4096"),
        (["--diameter", "9"], "--diameter: 9 px is not from 64 to 4096"),
        (["--depths", "1,2"], "--depths"),
        (["--depths", "a"], "--depths"),
        (["--batch", "1"], "--batch"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--weights", "nowhere.safetensors"], "does not exist"),
    ],
    ids=str,
)
def test_usage_errors_are_one_line(cli, data, tmp_path, options, message):
    done = cli("train", "fsgnet", "--data", str(data), "-o", str(tmp_path / "run"), *TINY, *options)
    assert done.code == 2
    assert message in done.stderr


def test_drawn_photos_are_the_default(cli):
    done = cli("train", "fsgnet", "-o", "run", *TINY, "--steps", "2", "--json")
    assert done.code == 0, done.stderr
    assert done.report["items"][0]["input"] == "synthetic"
    assert done.report["arguments"]["crop"] == 48


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does_and_the_first_speaks_alone(cli, data, tmp_path):
    """In float64 and without a launcher: tests/core/train/fsgnet/test_processes.py."""
    options = ["--data", data, *TINY, "--steps", "4", "--evaluate-every", "2", "--threads", "1", "--json"]
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "attn", "train", "fsgnet", *options]
    alone = cli("train", "fsgnet", *options, "-o", "one")
    done = subprocess.run(
        [sys.executable, *map(str, command), "-o", "two"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = (report["items"][0] for report in (alone.report, json.loads(done.stdout)))
    assert theirs["details"]["losses"] == pytest.approx(ours["details"]["losses"], rel=1e-3)
    assert theirs["metrics"]["f1"] == pytest.approx(ours["metrics"]["f1"], abs=1e-2)
    refused = subprocess.run(
        [sys.executable, *map(str, command), "-o", "three", "--batch", "3"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.stderr.count("attn: --batch: 3 crops cannot be divided evenly by 2 processes") == 1
    assert not (tmp_path / "three").exists()


def test_data_without_labels(cli, data, tmp_path):
    (tmp_path / "images").mkdir()
    done = cli("train", "fsgnet", "--data", str(tmp_path), "-o", str(tmp_path / "run"))
    assert done.code == 2
    assert "no folder of labels" in done.stderr


def test_recipes_are_listed(cli):
    done = cli("train", "--list", "--json")
    listed = {row["method"] for row in json.loads(done.stdout)}
    assert listed >= {"fsgnet", "ga-dms", "priorclip", "image-text-head", "shapes-vlm", "as-vit", "sparsifiner"}
    assert listed >= {"shapes-classifier", "pattern-atlas", "fewshot-detect"}
    assert "fsgnet" in cli("train").stdout
    wrong = cli("train", "fsgnett")
    assert wrong.code == 2
    assert "Did you mean fsgnet?" in wrong.stderr
