"""`attn probe contrast` on tiny models: files, report, drawn scenes, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_vlms import coloured, vlm_folder

from attn.core.errors import UsageError
from attn.core.options import OptionError, build
from attn.core.probe.contrast.options import ContrastOptions
from attn.core.probe.contrast.run import run
from attn.core.prune.carve.method import Carve
from attn.core.prune.carve.settings import parse_layers
from attn.core.prune.carve.target import found
from attn.core.report.sections import Trust


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_folder(tmp_path_factory.mktemp("model") / "llava", "llava padded")


def options(folder: Path, *inputs: str, **more: object) -> ContrastOptions:
    settings = {"general": "what is there", "suffix": "", "max_new_tokens": 2, "model": str(folder), "device": "cpu"}
    return build(ContrastOptions, {"inputs": inputs, **settings, **more})


def picture(path: Path) -> str:
    pixels = np.rint(coloured(40, 60).pixels.transpose(1, 2, 0) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_a_picture(folder: Path, tmp_path: Path) -> None:
    name = picture(tmp_path / "photo.png")
    asked = options(folder, name, prompt="what colour is it", output=str(tmp_path / "out"))
    (item,) = run(asked).items
    assert item.status == "ok", item.error
    assert set(item.files) == {"figure", "arrays", "facts", "crop"}
    assert all(Path(file).stat().st_size for file in item.files.values())
    assert {"entropy", "entropy_raw", "texture", "colours", "mask_share", "answers_equal"} <= set(item.metrics)
    with np.load(item.files["arrays"]) as arrays:
        assert arrays["map"].shape == arrays["mask"].shape == (40, 60)
        assert arrays["ratio"].shape == (36,)
        assert arrays["task"].shape[1:] == (4, 36)
        assert arrays["entropy"].mean() == pytest.approx(item.metrics["entropy"])
    trust = next(section for section in item.sections if isinstance(section, Trust))
    assert [(line.check, line.passed) for line in trust.lines] == [
        ("randomised weights", False)
    ]  # it was never trained
    (again,) = run(asked).items
    assert (again.status, again.warnings) == ("skipped", ())
    (other,) = run(options(folder, name, prompt="where is it", output=str(tmp_path / "out"))).items
    assert "another model or other settings" in other.warnings[0]


def test_without_contrast_nothing_is_cut(folder: Path, tmp_path: Path) -> None:
    name = picture(tmp_path / "photo.png")
    (item,) = run(options(folder, name, prompt="what is there", output=str(tmp_path / "o.png"))).items
    assert item.status == "ok", item.error
    assert "crop" not in item.files
    assert "mask_share" not in item.metrics
    assert any("no contrast" in warning for warning in item.warnings)


def test_drawn_scenes_by_density(folder: Path, tmp_path: Path) -> None:
    report = run(options(folder, "shapes:colour:3x2", output=str(tmp_path)))
    (item,) = report.items
    (table, layers) = item.sections
    assert [row["density"] for row in table.rows()] == [0.0, 0.3, 0.6]
    for row in table.rows():
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert 0 <= row["carve_recall"] <= 1
    assert len(layers.rows()) == 12
    assert (tmp_path / "shapes.contrast.png").exists()


def test_how_a_mask_lies() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:6, 2:6] = True
    place = found(mask, np.array([[4.0, 4.0, 8.0, 8.0]]))
    assert (place.recall, place.precision) == (4 / 16, 4 / 16)
    assert np.isnan(found(np.zeros((4, 4), bool), np.array([[0.0, 0.0, 2.0, 2.0]])).precision)


def test_layers_as_people_write_them() -> None:
    assert parse_layers("20-22,25") == (20, 21, 22, 25)
    for text in ("", "a", "5-3", "1--2"):
        with pytest.raises(ValueError, match="names no layers"):
            parse_layers(text)


@pytest.mark.parametrize(
    ("inputs", "more", "words"),
    [
        (("a.png",), {}, "prompt"),
        (("a.png",), {"prompt": " "}, "prompt"),
        (("shapesx4", "a.png"), {}, "stand alone"),
        (("shapesx4",), {"prompt": "what"}, "questions of its own"),
        (("a.png",), {"prompt": "what", "share": 0.0}, "share"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, inputs: tuple[str, ...], more: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        options(tmp_path, *inputs, **more)


def test_layers_beyond_the_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="decoder layers 0 to 3"):
        run(options(folder, picture(tmp_path / "p.png"), prompt="what", layers="20-25"))
    assert Carve().layers == ()


def test_a_damaged_file_is_one_item(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    report = run(options(folder, str(tmp_path / "bad.png"), prompt="what is it", output=str(tmp_path / "out")))
    assert report.exit_code == 1
