"""`attn train priorclip` as users type it, on drawn scenes and a model that is trained in seconds."""

import pytest

from attn.core.retrieve.priorclip.scenes import draw_scenes, write_scenes

TINY = ["--width", "32", "--image-size", "32", "--patch", "8", "--batch", "8", "--warmup", "1", "--threads", "1",
        "--coarse-steps", "2", "--instruction-steps", "2", "--evaluate-every", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    scenes = draw_scenes(48, seed=3)
    return write_scenes(
        tmp_path_factory.mktemp("dä ta"), {"train": scenes[:32], "val": scenes[32:40], "test": scenes[40:]}
    )


def test_train_resume_and_load(cli, data, tmp_path):
    command = ["train", "priorclip", "--data", str(data), "-o", str(tmp_path / "run"), *TINY, "--json"]
    first = cli(*command, "--steps", "4")
    assert first.code == 0, first.stderr
    item = first.report["items"][0]
    assert 0 <= item["metrics"]["mr"] <= 1
    assert {"i2t_r@1", "t2i_r@10"} <= item["metrics"].keys()
    assert item["details"]["scene_accuracy"] is not None
    more = cli(*command, "--steps", "6")  # two more steps of the last stage; the others are read
    assert [len(one.report["items"][0]["details"]["losses"]) for one in (first, more)] == [3, 4]
    from attn.core.retrieve.priorclip.checkpoint import read_checkpoint

    assert read_checkpoint(tmp_path / "run" / "model.safetensors").scenes[0] == "airport"


def test_compare_shows_both_models(cli, data, tmp_path):
    command = ["train", "priorclip", "--data", str(data), "-o", str(tmp_path / "run"), *TINY, "--steps", "4"]
    done = cli(*command, "--compare")
    assert done.code == 0, done.stderr
    assert "PriorCLIP" in done.stdout
    assert "plain CLIP" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gate", "ranks"], "Did you mean rank"),
        (["--data", "nothing.json"], "nothing.json is no file"),
        (["--steps", "4", "--coarse-steps", "4", "--warmup", "0"], "nothing of --steps less --coarse-steps"),
        (["--report", "x.pdf"], "reports end in"),
    ],
)
def test_usage_errors(cli, tmp_path, arguments, words):
    done = cli("train", "priorclip", "-o", str(tmp_path / "run"), *arguments)
    assert done.code == 2
    assert words in done.stderr
    assert not (tmp_path / "run").exists()
