"""`attn probe relevance` as a user runs it: pictures of all kinds, drawn ones, and what it refuses."""

import json

import numpy as np
import torch
from PIL import Image


def rows(report, number=0):
    return report["items"][number]


def test_pictures(cli, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 80, 3), dtype=np.uint8)).save(tmp_path / "a b.png")
    Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 255, (40, 40, 4), dtype=np.uint8), "CMYK").save(tmp_path / "cmyk.jpg")
    Image.new("RGB", (1, 1), (200, 30, 30)).save(tmp_path / "one.png")
    ran = cli("probe", "relevance", "a b.png", "grey.png", "cmyk.jpg", "one.png", "--no-trust", "--max-side", "64",
              "--target", "red ring", "-o", "out", "--json")  # fmt: skip
    assert ran.code == 1
    assert [item["metrics"]["class"] for item in ran.report["items"][:3]] == [32] * 3
    assert "one.png: is all of one colour" in ran.stderr
    assert "knows drawn shapes alone" in ran.report["notices"][0]
    assert "Traceback" not in ran.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        f"a b.{end}" for end in ("relevance.png", "relevance.npz", "relevance.json", "heat.png", "overlay.png")
    } <= names
    with np.load(tmp_path / "out/a b.relevance.npz") as arrays:
        assert arrays["relevance"].shape == (3, 64, 64)
        kept = float(arrays["relevance"].astype(np.float64).sum()) / float(arrays["kept"][0, 0])
    assert abs(kept - rows(ran.report)["metrics"]["conserved"]) < 1e-3
    drawn = (tmp_path / "out/a b.relevance.png").read_bytes()
    (tmp_path / "out/a b.relevance.png").unlink()
    assert cli("probe", "redraw", "out/a b.relevance.json").code == 0
    assert (tmp_path / "out/a b.relevance.png").read_bytes() == drawn
    again = cli("probe", "relevance", "grey.png", "--no-trust", "--rules", "official", "-o", "out", "--json")
    assert rows(again.report)["status"] == "skipped"
    assert "other settings" in rows(again.report)["warnings"][0]


def test_drawn_pictures(cli, tmp_path):
    ran = cli("probe", "relevance", "shapesx12", "--max-side", "64", "--json")
    assert ran.code == 0, ran.stderr
    item = rows(ran.report)
    assert item["metrics"]["accuracy"] >= 0.9
    assert item["metrics"]["pointing_relevance"] >= 0.75
    assert [row["ranking"] for row in item["details"]["maps"]] == ["relevance", "salient", "gradient", "random"]
    assert item["details"]["trust"][0]["verdict"] == "passed"
    assert (tmp_path / "shapes.relevance.png").exists()
    assert "stand alone" in cli("probe", "relevance", "shapesx4", "a.png").stderr
    assert "have no task" in cli("probe", "relevance", "shapes:countx4").stderr
    assert "classes of its own" in cli("probe", "relevance", "shapesx4", "--target", "red ring").stderr


def test_two_models(cli, tmp_path):
    Image.radial_gradient("L").resize((40, 30)).save(tmp_path / "a.png")
    words = ("probe", "relevance", "a.png", "--no-trust", "--max-side", "64", "--json")
    ran = cli(*words, "--compare", "shapes-cnn")
    assert ran.code == 0, ran.stderr
    details = rows(ran.report)["details"]
    assert details["likeness"][0]["spearman"] > 0.999
    first, second = details["models"]
    assert first == second
    assert (tmp_path / "a.compared.png").exists()
    assert "other settings" in rows(cli(*words).report)["warnings"][0]
    assert "--compare" in cli("probe", "relevance", "shapesx3", "--compare", "shapes-cnn").stderr


def test_what_is_refused(cli, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for words, said in (
        (("--target", "red rnig"), "--target: no class named 'red rnig'. Near: red ring"),
        (("--model", "shapes-vit"), "has attention"),
        (("--model", "net.pth"), "no weights of a chain such as AlexNet or VGG: features.0.weight is missing"),
        (("--rules", "lrp"), "--rules"),
    ):
        torch.save({"features.0.bias": torch.zeros(3), "classifier.0.weight": torch.zeros(2, 3)}, tmp_path / "net.pth")
        ran = cli("probe", "relevance", "a.png", *words)
        assert ran.code == 2, ran.stderr
        assert said in ran.stderr.replace("\n", " "), ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_map_that_is_the_same_everywhere(cli, tmp_path):
    from attn.core.models.convolutional import write_convolutional
    from attn.core.models.images import ImagePreparation
    from attn.core.nets.convolutional import folded, vgg

    net = folded(vgg((4,), 6, 3, grid=8).eval())
    torch.nn.init.zeros_(net.classifier[-1].weight)
    (tmp_path / "net").mkdir()
    images = ImagePreparation((16, 16), (0.5,) * 3, (0.25,) * 3)
    write_convolutional(net, tmp_path / "net/model.safetensors", labels=("a", "b", "c"), images=images)
    Image.linear_gradient("L").resize((20, 20)).save(tmp_path / "a.png")
    ran = cli("probe", "relevance", "a.png", "--model", "net", "--json", "--max-side", "64")
    assert ran.code == 0, ran.stderr
    item = json.loads(ran.stdout)["items"][0]
    assert any("same everywhere" in text for text in item["warnings"])
    assert item["metrics"]["regions"] == 0
    assert {line["verdict"] for line in item["details"]["trust"]} == {"failed"}
