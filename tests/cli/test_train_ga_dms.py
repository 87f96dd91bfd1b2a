import json

import pytest
from typer.testing import CliRunner

from attn.cli.train import app
from attn.core.retrieve.gadms.people import make_people, write_people

TINY = [
    "--width",
    "16",
    "--vision-layers",
    "1",
    "--text-layers",
    "1",
    "--epochs",
    "2",
    "--batch",
    "16",
    "--device",
    "cpu",
]


def call(*arguments):
    return CliRunner().invoke(app, ["ga-dms", *map(str, arguments)])


def test_a_run_and_its_report(tmp_path):
    data = write_people({"train": make_people(6, 5), "val": make_people(3, 5, skip=6)}, tmp_path / "data")
    result = call("--data", data, "-o", tmp_path / "run", *TINY, "--save-scores", "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (item,) = report["items"]
    assert item["output"] == str(tmp_path / "run" / "model.safetensors")
    assert {"r1", "map", "minp"} <= set(item["metrics"])
    assert item["details"]["options"]["losses"] == ["sdm", "itc", "mlm"]
    assert item["details"]["options"]["augment"] is True
    assert {"card", "metrics", "curve", "scores"} == set(item["files"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "64"], "--image-size: '64' is no height and width, as 384x128"),
        (["--losses", "sdm,mlmm"], "--losses: 'mlmm' is no choice. Did you mean mlm?"),
        (["--width", "18"], "--width: 18"),
        (["--weights", "none.safetensors"], "--weights: none.safetensors does not exist"),
        (["--data", "none.jsonl"], "none.jsonl: does not exist"),
    ],
)
def test_faults_are_one_line(tmp_path, arguments, message):
    result = call("-o", tmp_path / "run", *TINY, *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
