"""`attn probe classify` on tiny models and generated pictures: files, report, resume, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from small_models import vision_folder

from attn.core.errors import InputError, UsageError
from attn.core.models.load import load_model
from attn.core.options import OptionError, build
from attn.core.probe.classify import reading
from attn.core.probe.classify.checks import against_untrained, seeds_agree
from attn.core.probe.classify.data import read_classes
from attn.core.probe.classify.features import Extraction, read_features
from attn.core.probe.classify.ladder import Rung
from attn.core.probe.classify.options import PROBES, ClassifyOptions, parse_probes, parse_shots
from attn.core.probe.classify.run import layers_of, recipe_of, run
from attn.core.probe.panel import draw_figure, read_figure
from attn.core.report.model import Report

CLASSES = {"dark": 40, "bright": 200, "middle": 120}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_folder(tmp_path_factory.mktemp("model") / "vit")


def draw(path: Path, level: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(level, 12, (20, 24, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "photos"
    for place, (name, level) in enumerate(CLASSES.items()):
        for number in range(7):
            draw(folder / name / f"{number}.png", level, 10 * place + number)
    return folder


def options(data: Path | str, encoder: Path | str, output: Path, **more: Any) -> ClassifyOptions:
    settings: dict[str, Any] = {"device": "cpu"}
    if "head" not in more:
        settings |= {"epochs": 4, "warmup": 1, "seeds": 2, "maps": 2}
        settings |= {"queries": 4} if "ep" in str(more.get("poolings", "ep")) else {}
    return build(ClassifyOptions, {"data": str(data), "model": str(encoder), "output": str(output), **settings, **more})


def section(report: Report, name: str) -> list[Any]:
    return [dict(row) for of in report.sections if of.name == name for row in of.rows()]


def test_a_folder_of_classes(encoder: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(options(photos, encoder, out, shots="1,5", layer="all"))
    (item,) = report.items
    assert item.status == "ok", item.error
    ladder = section(report, "ladder")
    assert [row["probe"] for row in ladder] == ["knn", "linear", "gap", "ep"]
    assert all(row["low"] <= row["top1"] <= row["high"] for row in ladder)
    assert item.metrics["accuracy"] == max(row["top1"] for row in ladder)
    assert [row["layer"] for row in section(report, "layers")] == [0] * 4 + [1] * 4
    assert [row["shots"] for row in section(report, "shots")] == [1] * 4 + [5] * 4
    assert any("5 shots: " in notice and "fewer" in notice for notice in report.notices)
    assert any(notice.startswith("split: stratified") for notice in report.notices)
    for file in item.files.values():
        assert Path(file).stat().st_size
    for name in ("photos.classify", "photos.queries"):
        draw_figure(tmp_path / "again.png", read_figure(out / f"{name}.json"))
        assert (tmp_path / "again.png").read_bytes() == (out / f"{name}.png").read_bytes()


def test_a_run_that_is_there(encoder: Path, photos: Path, tmp_path: Path) -> None:
    few: Any = {"poolings": "gap", "trust": False}
    first = run(options(photos, encoder, tmp_path, **few))
    (again,) = run(options(photos, encoder, tmp_path, **few)).items
    assert (again.status, again.warnings) == ("skipped", ())
    (other,) = run(options(photos, encoder, tmp_path, **few | {"seed": 5})).items
    assert "other settings" in other.warnings[0]
    anew = run(options(photos, encoder, tmp_path, **few | {"overwrite": True}))
    assert any("features of 21 pictures were there already" in notice for notice in anew.notices)
    numbers = [[row["top1"] for row in section(report, "ladder")] for report in (first, anew)]
    assert numbers[0] == numbers[1]
    for file in (tmp_path / "features").glob("*/tokens-*.npy"):
        file.write_bytes(b"")  # what is there needs no features
    (still,) = run(options(photos, encoder, tmp_path, **few | {"overwrite": False})).items
    assert still.status == "skipped"


def test_a_randomised_model_is_red_in_every_line(encoder: Path, photos: Path, tmp_path: Path) -> None:
    """The encoder's weights are random: its ladder may be high, since brightness needs no weights."""
    lines = section(run(options(photos, encoder, tmp_path, epochs=8)), "trust")
    assert [line["check"].split(":")[0] for line in lines] == ["knn", "linear", "gap", "ep", "ep", "control"]
    assert {line["verdict"] for line in lines[:-1]} == {"failed"}
    assert "of the measurement" in lines[-1]["meaning"]


def test_what_weights_add_is_green() -> None:
    sure, guess = np.ones((2, 40), bool), np.arange(40)[None] % 3 == 0
    (line,) = against_untrained([Rung("ep", 0, "patches", sure, sure)], [[Rung("ep", 0, "patches", guess, guess)]])
    assert (line.passed, line.value, line.chance) == (True, 1.0, guess.mean())
    rng = np.random.default_rng(0)
    assert seeds_agree(0.8 + 0.1 * rng.random(20), [0.1 * rng.random(20)], "ep", 3).passed


def test_a_corrupted_picture_among_good_ones(encoder: Path, photos: Path, tmp_path: Path) -> None:
    listed = ["image,label", *[f"{file.parent.name}/{file.name},{file.parent.name}" for file in photos.glob("*/*")]]
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for file in photos.glob("*/*"):
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        (tmp_path / file.parent.name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "labels.csv").write_text("\n".join([*listed, "bad.png,dark"]))
    report = run(options(tmp_path, encoder, tmp_path / "out", poolings="gap", trust=False))
    assert report.exit_code == 1
    done, failed = report.items
    assert (done.metrics["pictures"], failed.input, failed.status) == (21, "bad.png", "failed")


def test_features_go_on_where_they_were(encoder: Path, photos: Path, tmp_path: Path) -> None:
    asked = Extraction(load_model(str(encoder), "vision"), (0, 1))
    pictures = read_classes(str(photos), label=None, limit=None, seed=0)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_features(asked, pictures, tmp_path / "a", stop)
    resumed, whole = (read_features(asked, pictures, tmp_path / name) for name in "ab")
    assert (resumed.reused, whole.reused) == (16, 0)
    assert resumed.grid == (4, 4)
    for layer in (0, 1):
        np.testing.assert_array_equal(resumed.tokens[layer], whole.tokens[layer])
        np.testing.assert_array_equal(resumed.cls[layer], whole.cls[layer])
    model = asked.loaded.model
    prepared = asked.loaded.processor.images.prepared(pictures.picture(3).pixels)
    with torch.no_grad():
        hidden = model(prepared.pixels[None], output_hidden_states=True).hidden_states
    for layer in (0, 1):  # raw, without the last norm
        of = hidden[layer + 1][0]
        np.testing.assert_allclose(whole.tokens[layer][3], of[-16:], rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(whole.cls[layer][3], of[0], rtol=1e-3, atol=2e-3)
    normed = read_features(Extraction(asked.loaded, (1,), final_norm=True), pictures, tmp_path / "a")
    np.testing.assert_allclose(normed.tokens[1][3], model.layernorm(hidden[2])[0, -16:].detach(), rtol=1e-3, atol=2e-3)


def test_more_than_memory_is_read_from_files(
    encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Any = {"poolings": "ep,ep_all", "trust": False}
    kept = run(options(photos, encoder, tmp_path / "a", **asked))
    monkeypatch.setattr(reading, "budget", lambda: 0)
    mapped = run(options(photos, encoder, tmp_path / "b", **asked))
    a, b = ([(row["top1"], row["chosen"]) for row in section(of, "ladder")] for of in (kept, mapped))
    assert a == b


def test_a_saved_head_on_other_pictures(encoder: Path, photos: Path, tmp_path: Path) -> None:
    run(options(photos, encoder, tmp_path / "out", poolings="gap,ep", trust=False))
    head = tmp_path / "out" / "heads" / "ep.safetensors"
    report = run(options(photos / "dark", encoder, tmp_path / "maps", head=head))
    assert [item.status for item in report.items] == ["ok"] * 7
    assert {item.details["class"] for item in report.items} <= set(CLASSES)
    assert (tmp_path / "maps" / "ep.queries.png").exists()
    with pytest.raises(OptionError, match="looks nowhere"):
        run(options(photos, encoder, tmp_path, head=tmp_path / "out" / "heads" / "gap.safetensors"))
    other = vision_folder(tmp_path / "other", "vit")
    with pytest.raises(OptionError, match="another encoder"):
        run(options(photos, other, tmp_path, head=head))
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match="no safetensors"):
        run(options(photos, encoder, tmp_path, head=tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"queries": 5}, "{queries}: 5 queries do not divide 16 channels; near it do 1, 2, 4, 8"),
        ({"poolings": "ep,nothing"}, "no probe named 'nothing'"),
        ({"poolings": ","}, "name a probe"),
        ({"layer": "7"}, "no block 7; this encoder has 0 to 1"),
        ({"layer": "x"}, "names no layers"),
        ({"shots": "0"}, "one picture"),
        ({"epochs": 4, "warmup": 4}, "leave nothing"),
        ({"label": "kind"}, "holds no list"),
        ({"poolings": "gap", "queries": 8}, "{queries} is of ep"),
        ({"head": "x.safetensors", "seeds": 2}, "{seeds} says nothing of a saved {head}"),
    ],
)
def test_options_that_cannot_be(encoder: Path, photos: Path, tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises((OptionError, InputError)) as caught:
        run(options(photos, encoder, tmp_path, **more))
    text = caught.value.text if isinstance(caught.value, OptionError) else str(caught.value)
    assert words in text


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"a": 5}, "one class only"),
        ({"a": 5, "b": 1}, "class 'b' has 1 picture"),
        ({"a": 5, "b": 2}, "class 'b' has 2 pictures"),
        ({}, "no pictures in folders of classes"),
    ],
)
def test_sets_that_cannot_be(encoder: Path, tmp_path: Path, counts: dict[str, int], words: str) -> None:
    for name, count in counts.items():
        for number in range(count):
            draw(tmp_path / "set" / name / f"{number}.png", 100, number)
    (tmp_path / "set").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=words):
        run(options(tmp_path / "set", encoder, tmp_path / "out"))


def test_words_of_options() -> None:
    assert parse_probes("all") == PROBES
    assert parse_probes("ep_all, ep_all") == ("ep_all",)
    assert parse_shots("5,1") == (1, 5)
    assert layers_of("-2,0", 12) == (0, 10)


def test_which_recipe() -> None:
    asked = build(ClassifyOptions, {"data": "x"})
    small, said = recipe_of(asked, 100)
    assert (small.optimizer, small.batch) == ("adamw", 16)
    assert "few for LARS" in said
    large, _ = recipe_of(asked, 50_000)
    assert (large.optimizer, large.batch, large.learning_rate, large.rate(4096)) == ("lars", 4096, 0.1, 1.6)


def test_a_table_and_an_encoder_without_class_token(tmp_path: Path) -> None:
    rows, labels = [], []
    for number, level in enumerate([*CLASSES.values()] * 4):
        draw(tmp_path / "one.png", level, number)
        rows.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": ""})
        labels.append(number % 3)
    pyarrow.parquet.write_table(pa.table({"image": rows, "label": labels}), tmp_path / "set.parquet")
    siglip = vision_folder(tmp_path / "siglip", "siglip")
    report = run(options(tmp_path / "set.parquet", siglip, tmp_path / "out", trust=False))
    assert [row["probe"] for row in section(report, "ladder")] == ["knn", "gap", "ep"]
    assert any("linear is left out" in notice for notice in report.notices)
    with pytest.raises(OptionError, match="ep_all reads a class token"):
        run(options(tmp_path / "set.parquet", siglip, tmp_path / "out", poolings="ep_all", overwrite=True))


def test_drawn_pictures_have_their_number() -> None:
    with pytest.raises(OptionError, match="in their name"):
        read_classes("shapesx40", label=None, limit=20, seed=0)
    with pytest.raises(OptionError, match="no columns"):
        read_classes("shapesx40", label="kind", limit=None, seed=0)
