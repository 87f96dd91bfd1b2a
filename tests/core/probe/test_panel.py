"""Figures that can be drawn again: what lies beside them, to the byte, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attn.core.bundles import Inputs, Placement
from attn.core.errors import InputError, UsageError
from attn.core.probe import FIGURES, panel
from attn.core.probe.frame import beside, mean_table, request_of, settings_of
from attn.core.probe.panel import FigureData, Origin, draw_figure, extent, read_figure, shown, write_figure
from attn.core.probe.redraw import FigureFiles, RedrawOptions, run
from attn.core.probe.vit.run import VitOptions
from attn.core.report.model import Item
from attn.core.report.sections import Table

ORIGIN = Origin("attn probe toy 'a b.png'", "model/", "f" * 64, "a" * 64, 7, "r")


def draw(data: FigureData, canvas: panel.FigureFile) -> None:
    with canvas((300, 200)) as figure:
        axes = figure.add_subplot()
        axes.imshow(data.arrays["map"])
        axes.set_title(f"{data.title} {data.facts['scale']}")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FigureData:
    monkeypatch.setattr(panel, "FIGURES", {**FIGURES, "toy": "test_panel:draw"})
    monkeypatch.setattr(panel, "drawing_of", lambda kind: draw)
    arrays: dict[str, Any] = {
        "map": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), "mask": np.array([True, False]),
        "picture": np.zeros((4, 8, 3), np.uint8),
    }  # fmt: skip
    return FigureData("toy", "größe & 太", arrays, {"scale": 1 / 3, "size": (8, 16), "box": (0, 4, 8, 12)}, ORIGIN)


def test_the_same_picture_again_to_the_byte(toy: FigureData, tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.toy.png"
    table = Table("layers", [{"layer": 0, "value": float("nan")}])
    files = write_figure(path, toy, metrics={"m": 1.5}, sections=(table,), warnings=("w",))
    assert sorted(files) == ["arrays", "facts", "figure"]
    made = path.read_bytes()
    path.unlink()
    report = run(RedrawOptions(FigureFiles((str(tmp_path / "out"),))))
    assert [item.status for item in report.items] == ["ok"]
    assert path.read_bytes() == made
    assert run(RedrawOptions(FigureFiles((files["facts"],)))).items[0].status == "skipped"
    elsewhere = RedrawOptions(FigureFiles((files["facts"],), str(tmp_path / "new")), Placement(overwrite=True))
    assert Path(run(elsewhere).items[0].files["figure"]).read_bytes() == made
    document = json.loads(Path(files["facts"]).read_text())
    assert (document["schema"], document["metrics"], document["warnings"]) == (1, {"m": 1.5}, ["w"])
    assert document["tables"] == {"layers": [{"layer": 0, "value": None}]}
    back = read_figure(Path(files["facts"]))
    assert (back.origin, back.title, back.facts["scale"]) == (ORIGIN, toy.title, 1 / 3)
    assert all(np.array_equal(back.arrays[name], array) for name, array in toy.arrays.items())
    assert back.arrays["mask"].dtype == bool


def test_a_figure_says_how_it_was_made(toy: FigureData, tmp_path: Path) -> None:
    draw_figure(tmp_path / "a.png", toy)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {  # type: ignore[attr-defined]
            "Title": toy.title, "attn-kind": "toy", "attn-command": ORIGIN.command, "attn-model": "model/",
            "attn-fingerprint": "f" * 64, "attn-picture": "a" * 64, "attn-seed": "7", "attn-request": "r",
            "attn-version": ORIGIN.version,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "is of schema 2, this attn reads up to 1"),
        ({"kind": "vti"}, "of kind 'vti', which this attn cannot draw"),
        ({"schema": None}, "is no JSON that attn probe wrote"),
        ({"arrays": {"map": [4, 3]}}, r"array map is \[3, 4\], a.json says \[4, 3\]"),
        ({"arrays": {"maps": [3, 4]}}, "has no array maps"),
        ({"arrays": 3}, "a.json"),
        ({"origin": {"nobody": 1}}, "a.json"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(toy: FigureData, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_figure(tmp_path / "a.png", toy)
    place = tmp_path / "a.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(InputError, match=words):
        read_figure(place)
    assert run(RedrawOptions(FigureFiles((str(place),)), Placement(overwrite=True))).exit_code == 1


def test_files_that_are_gone_or_damaged(toy: FigureData, tmp_path: Path) -> None:
    write_figure(tmp_path / "a.png", toy)
    (tmp_path / "a.npz").unlink()
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text('{"features": 3}')
    report = run(RedrawOptions(FigureFiles((str(tmp_path),)), Placement(overwrite=True)))
    assert [item.status for item in report.items] == ["failed", "failed"]
    assert [row["names"] for row in report.sections[0].rows() if "JSON" in row["why"]] == [str(tmp_path / "c.json")]
    named = run(RedrawOptions(FigureFiles((str(tmp_path / "c.json"),))))
    assert "is no JSON that attn probe wrote" in (named.items[0].error or "")
    (tmp_path / "only").mkdir()
    (tmp_path / "c.json").rename(tmp_path / "only" / "c.json")
    with pytest.raises(UsageError, match="no figure of attn probe"):
        run(RedrawOptions(FigureFiles((str(tmp_path / "only"),))))
    assert "internal" not in " ".join(item.error or "" for item in report.items)


def test_pictures_and_places(toy: FigureData) -> None:
    assert shown(np.full((3, 100, 1280), 0.5, np.float32)).shape == (50, 640, 3)
    assert extent(toy) == (1.5, 5.5, 3.5, -0.5)
    assert beside(Path("out/a.vit.png"), "vit", "crop") == Path("out/a.crop.png")
    assert beside(Path("out/a.png"), "vit", "vit", ".csv") == Path("out/a.vit.csv")


def test_what_makes_two_results_the_same() -> None:
    def options(**more: Any) -> VitOptions:
        return VitOptions(Inputs(more.pop("inputs", ("a.png",)), more.pop("output", None)), **more)

    same = settings_of(options())
    assert same == settings_of(options(inputs=("b.png",), output="o", model="m", device="cpu"))
    assert same == settings_of(options(placement=Placement(overwrite=True, workers=2, threads=3)))
    assert request_of("f", {"a": 1}) != request_of("f", {"a": 2}) != request_of("g", {"a": 2})


def test_tables_of_several_pictures_are_averaged() -> None:
    def item(*rows: dict[str, Any]) -> Item:
        return Item("a", None, "ok", 0.0, sections=(Table("layers", rows),))

    (table,) = mean_table(
        [item({"layer": 1, "name": "x", "v": 1.0}), item({"layer": 1, "name": "x", "v": 2.0})], "layers", "t"
    )
    assert table.rows() == [{"layer": 1, "name": "x", "v": 1.5}]
    assert mean_table([item({"layer": 1})], "layers", "t") == []
    assert mean_table([item({"layer": 1}), item({"layer": 1}, {"layer": 2})], "layers", "t") == []
