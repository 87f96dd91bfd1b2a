"""`attn prune` as a user runs it, on tiny models with random weights."""

import json
import math

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from small_models import PREPROCESSOR, photo, vision_folder
from small_vlms import vlm_folder

from attn.core.prune.overlay import KEPT, MERGED

ASK = ("--prompt", "what colour is the red", "--max-new-tokens", "3", "--repeat", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(vlm_folder(tmp_path_factory.mktemp("model") / "llava", "llava"))


def test_command(cli, tmp_path, model):
    photo(tmp_path / "a b.png")
    photo(tmp_path / "c.png", (40, 40))
    (tmp_path / "torn.png").write_bytes((tmp_path / "a b.png").read_bytes()[:300])
    ran = cli("prune", "a b.png", "torn.png", "c.png", *ASK, "--model", model, "--json", "--report", "r.html")
    assert ran.code == 1, ran.stderr
    assert [line for line in ran.stderr.splitlines() if "torn.png" in line and "warning" not in line]
    report = ran.report
    assert [item["status"] for item in report["items"]] == ["ok", "failed", "ok"]
    first = report["items"][0]
    assert (first["metrics"]["tokens_before"], first["metrics"]["tokens_after"]) == (36, 9)
    assert {"answer_before", "answer_after", "model_kind"} <= first["details"].keys()
    assert len(first["details"]["layers"]) == 4
    assert not math.isfinite(first["metrics"].get("prefill_seconds_after", math.nan))
    with Image.open(tmp_path / "a b.kept.png") as drawn:
        assert drawn.size == (528, 264)  # 48 x 24 pixels, eleven times as large
    assert (tmp_path / "r.html").read_text().count("data:image/png") == 2
    again = cli("prune", "a b.png", "c.png", *ASK, "--model", model, "--json").report
    assert [item["status"] for item in again["items"]] == ["skipped", "skipped"]
    assert not any(item["warnings"] for item in again["items"])
    other = cli("prune", "a b.png", *ASK, "--model", model, "--keep", "12", "--json").report
    assert "other options" in other["items"][0]["warnings"][0]
    again = ("--keep", "12", "--repeat", "1", "--json", "--overwrite")
    metrics = cli("prune", "a b.png", *ASK, "--model", model, *again).report["items"][0]["metrics"]
    assert metrics["tokens_after"] == 12
    assert metrics["kv_bytes_after"] < metrics["kv_bytes_before"]
    assert 0 < metrics["flops_ratio"] < 1
    assert 0 < metrics["attention_mass"] < 1
    whole = cli("prune", "a b.png", *ASK, "--model", model, "--keep", "37", "--json", "--overwrite").report["items"][0]
    assert (whole["metrics"]["tokens_after"], whole["metrics"]["logit_kl"]) == (36, 0)
    assert "keep: 37 are more than its 36 visual tokens: all stay" in whole["warnings"]
    names = ("prefill_seconds_before", "prefill_seconds_after", "decode_seconds_after", "scoring_seconds")
    assert min(metrics[name] for name in names) > 0


def test_csv_and_a_list_on_stdin(cli, tmp_path, model):
    photo(tmp_path / "a.png")
    ran = cli("prune", "-", "-o", "out", *ASK, "--model", model, "--report", "r.csv", stdin="a.png\n")
    assert ran.code == 0, ran.stderr
    assert (tmp_path / "out/a.kept.png").exists()
    assert "tokens_after" in (tmp_path / "r.csv").read_text().splitlines()[0]
    assert "answer_after" in (tmp_path / "r.answers.csv").read_text().splitlines()[0]
    assert len((tmp_path / "r.layers.csv").read_text().splitlines()) == 5


def test_methods_side_by_side(cli, tmp_path, model):
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", *ASK, "--model", model, "-m", "fastv", "--compare", "random,uniform", "--json")
    assert ran.code == 0, ran.stderr
    rows = ran.report["summary"]["comparison"]
    assert [row["method"] for row in rows] == ["fastv", "random", "uniform"]
    assert {row["tokens_before"] for row in rows} == {36}
    with Image.open(tmp_path / "a.compare.png") as drawn:
        assert np.asarray(drawn.convert("RGB")).std(-1).max() > 10  # in colour


def test_early_exit_says_whose_answer_it_is(cli, tmp_path, model):
    photo(tmp_path / "a.png")
    guide = str(vlm_folder(tmp_path / "guide", "llava", 1))
    calibrate = ("--model", model, "--guide", guide, "--share", "0.5", "--max-new-tokens", "3")
    made = cli("prune", "calibrate", "sgl", "shapes:colour:3x4", "-o", "exit.json", *calibrate)
    assert made.code == 0, made.stderr
    own = ("prune", "a.png", *ASK, "--model", model, "-m", "sgl", "--guide", guide, "--json", "--overwrite")
    assert "large_calls" not in cli(*own).report["items"][0]["metrics"]
    for asked, by in (("0", "guide"), ("1.5", "large model"), ("exit.json", None)):
        ran = cli(*own, "--early-exit", asked)
        assert ran.code == 0, ran.stderr
        (item,) = ran.report["items"]
        said, metrics = item["details"]["answers"], item["metrics"]
        assert by in (None, said["answered_by"])
        assert metrics["large_calls"] == (said["answered_by"] == "large model")
        assert said["answer_after"] == said[f"answer_{said['answered_by'].split()[0]}"]
        assert metrics["answers_equal"] == (said["answer_before"].strip() == said["answer_after"].strip())
        assert 0 <= metrics["decision"] <= 1
    assert any("large_calls is the share of pictures" in text for text in ran.report["notices"])
    kept = cli(*own, "--early-exit", "exit.json", "--save", "kept")
    assert kept.code == 0, kept.stderr
    (tmp_path / "exit.json").unlink()
    again = cli("prune", "a.png", *ASK, "--model", model, "--saved", "kept", "--json", "--overwrite")
    assert again.report["items"][0]["metrics"]["decision"] == item["metrics"]["decision"]


def test_a_run_is_kept_and_done_again(cli, tmp_path, model):
    photo(tmp_path / "a.png")
    first = cli("prune", "a.png", *ASK, "--model", model, "-m", "random", "--seed", "5", "-k", "7", "--save", "kept")
    assert first.code == 0, first.stderr
    assert json.loads((tmp_path / "kept/prune.json").read_text())["settings"]["seed"] == 5
    before = (tmp_path / "a.kept.png").read_bytes()
    again = cli("prune", "a.png", "-o", "b.png", *ASK, "--model", model, "--saved", "kept")
    assert again.code == 0, again.stderr
    with Image.open(tmp_path / "a.kept.png") as one, Image.open(tmp_path / "b.png") as two:
        assert np.array_equal(one, two)
    assert before == (tmp_path / "a.kept.png").read_bytes()
    refused = cli("prune", "a.png", *ASK, "--model", model, "--saved", "kept", "--keep", "3")
    assert (refused.code, "--saved says that" in refused.stderr) == (2, True)
    (tmp_path / "kept/prune.json").write_text("{}")
    damaged = cli("prune", "a.png", *ASK, "--model", model, "--saved", "kept")
    assert (damaged.code, "is no saved pruning" in damaged.stderr) == (2, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--keep", "0"], "--keep: 0 keeps no token"),
        (["--keep", "101%"], "--keep: 101% keeps more tokens than there are"),
        (["--keep", "much"], "--keep: 'much' is neither a share"),
        (["--keep", "0.0"], "keeps no token"),
        (["--method", "fastw"], "Did you mean fastv?"),
        (["--method", "fastv+debais"], "debais cannot stand behind +"),
        (["--method", "debias"], "fastv+debias"),
        (["--compare", ","], "--compare: name methods"),
        (["-m", "fastv", "--layer", "4"], "--layer: LlavaForConditionalGeneration has decoder layers 0 to 3, not 4"),
        (["-m", "pyramiddrop", "--set", "layers=1,2,9"], "--set layers=1,2,9: the model has decoder layers 0 to 3"),
        (["-m", "oracle+debias"], "+debias changes the scores of fastv, "),
        (["--set", "nonsense"], "--set: 'nonsense' is no setting"),
        (["--set", "sigma=1"], "divprune has no such setting"),
        (["-m", "fastv+debias", "--set", "sigma=much"], "it is a number or none"),
        (["-m", "fastv", "--set", "layer=1"], "--layer says that"),
        (["--calibration", "x.json"], "--calibration works with --method"),
        (["--set", "fastv.layer=1"], "--set fastv.layer=1: fastv is not run, but divprune."),
        (["-m", "carve+debias"], "carve ranks no tokens"),
        (["--saved", "nowhere"], "--saved: nowhere/prune.json"),
        (["-m", "sgl"], "--guide: sgl needs a smaller model"),
        (["-m", "sgl", "--guide", "x", "--early-exit", "-1"], "--early-exit: -1 is no threshold"),
        (["-m", "fastv", "--early-exit", "1"], "--early-exit works with --method sgl only"),
        (["--model", "nowhere"], "no model named 'nowhere'"),
        (["--prompt", " "], "--prompt: say what is asked"),
        (["--prompt", "<image> <image>"], "stands for a picture"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(cli, tmp_path, model, args, message):
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", *ASK, "--model", model, *args)
    assert ran.code == 2, ran
    assert message in ran.stderr
    assert (ran.stdout, len(ran.stderr.strip().splitlines())) == ("", 1)
    assert not (tmp_path / "a.kept.png").exists()


def test_a_prompt_is_needed(cli, tmp_path, model):
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", "--model", model)
    assert (ran.code, "--prompt: say what is asked" in ran.stderr) == (2, True)


def test_words_that_the_embedded_model_does_not_know(cli, tmp_path):
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", "--prompt", "is it beautiful")
    assert (ran.code, "--prompt: the model does not know 'it', 'beautiful'." in ran.stderr) == (2, True)
    assert len(ran.stderr.strip().splitlines()) == 1


def test_calibrate_is_a_group_and_a_file_of_its_name_is_reached(cli, tmp_path, model):
    assert cli("prune", "calibrate", "--list").code == 0
    assert cli("prune", "calibrate", "nothing").code == 2
    photo(tmp_path / "calibrate.png").rename(tmp_path / "calibrate")
    ran = cli("prune", "./calibrate", *ASK, "--model", model)
    assert ran.code == 0, ran.stderr


def test_carve_keeps_pixels(cli, tmp_path, model):
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", *ASK, "--model", model, "-m", "carve", "-k", "30%", "--set", "steps=first", "--json")
    assert ran.code == 0, ran.stderr
    (item,) = ran.report["items"]
    assert 0 < item["metrics"]["pixels_kept"] < 0.5
    assert item["metrics"]["tokens_after"] == 2 * item["metrics"]["tokens_before"]
    assert (tmp_path / "a.crop.png").exists()
    x0, y0, x1, y1 = item["details"]["box"]
    assert 0 <= x0 < x1 <= 48
    assert 0 <= y0 < y1 <= 24
    for refused in (["-k", "7"], ["--compare", "fastv"], ["--positions", "compact"]):
        ran = cli("prune", "a.png", *ASK, "--model", model, "-m", "carve", *refused)
        assert (ran.code, len(ran.stderr.strip().splitlines())) == (2, 1)


def test_image_classifiers_and_backbones(cli, tmp_path):
    backbone = str(vision_folder(tmp_path / "backbone"))
    torch.manual_seed(0)
    labels = {number: f"kind {number}" for number in range(7)}
    small = dict(hidden_size=16, num_hidden_layers=5, num_attention_heads=2, intermediate_size=24)
    config = transformers.ViTConfig(image_size=16, patch_size=4, id2label=labels, **small)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny/preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", (40, 30))
    asked = ("prune", "a.png", "b.png", "--repeat", "1", "-k", "75%")
    ran = cli(*asked, "--model", "tiny", "-m", "tome", "--compare", "random,class-attention", "--json")
    assert ran.code == 0, ran.stderr
    first, second = ran.report["items"]
    assert first["metrics"]["tokens_before"] == 16
    assert first["metrics"]["flops_ratio"] < 1
    assert first["details"]["answer_before"].startswith("kind ")
    assert "noise" in ran.report["notices"][0]
    assert first["details"]["model_kind"] == "random"
    assert second["metrics"]["tokens_after"] == first["metrics"]["tokens_after"]
    rows = {row["method"]: row for row in ran.report["summary"]["comparison"]}
    assert len(rows) == 3
    budgets = [row["mean_retention"] for row in rows.values()]
    assert max(budgets) - min(budgets) < 0.05  # of 16 patches
    assert {"a.kept.png", "a.compare.png"} <= {path.name for path in tmp_path.iterdir()}
    ran = cli("prune", "a.png", "-o", "out", "--repeat", "1", "--model", backbone, "-m", "tome", "-k", "75%", "--json")
    assert ran.code == 0, ran.stderr
    (item,) = ran.report["items"]
    assert "class_token_cosine" in item["metrics"]
    assert "top1_agreement" not in item["metrics"]
    for refused in (["--prompt", "what"], ["-m", "fastv"], ["-m", "tome+debias"], ["--positions", "compact"]):
        ran = cli("prune", "a.png", "-o", "two", "--model", "tiny", "-m", "tome", *refused)
        assert (ran.code, len(ran.stderr.strip().splitlines())) == (2, 1), ran


def test_merged_tokens_are_known(cli, tmp_path, model):
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", *ASK, "--model", model, "-m", "visionzip", "--set", "contextual=0.5", "--json")
    assert ran.code == 0, ran.stderr
    with Image.open(tmp_path / "a.kept.png") as drawn:
        colours = {colour for _, colour in drawn.getcolors(10**6)}
    assert {tuple(KEPT), tuple(MERGED)} <= colours


def test_a_model_of_text_alone_is_refused(cli, tmp_path):
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=50)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**small)).save_pretrained(tmp_path / "llama")
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", *ASK, "--model", "llama")
    assert ran.code == 2
    assert "llama (LlamaForCausalLM), which is no model for vision-language" in ran.stderr


def test_an_image_model_is_told_its_methods(cli, tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    photo(tmp_path / "a.png")
    ran = cli("prune", "a.png", "--model", "vit")
    assert ran.code == 2
    assert "--method: divprune asks a vision-language model, which vit is not" in ran.stderr
    assert "takes --method random, tome" in ran.stderr
