"""Typed sections: what a toy command returns shows in all five writers, and JSON keeps the keys that scripts read."""

from __future__ import annotations

import ast
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn.cli.show import show
from attn.core.bundles import Reporting
from attn.core.report.model import Item, Report, dumps, summarise
from attn.core.report.sections import Curve, Facts, Passage, Picture, Row, Section, Table, Words
from attn.core.report.write import render, write_report


@dataclass(frozen=True, slots=True)
class Dial(Section):
    """A kind of section that nobody else knows."""

    turned: float

    def rows(self) -> list[Row]:
        return [{"degrees": self.turned}]


def toy(*sections: Section, of_item: tuple[Section, ...] = ()) -> Report:
    item = Item("a.png", None, "ok", 0.1, sections=of_item)
    return Report("toy", "0.1.0", {}, "cpu", 0.1, (item,), summarise([item]), sections=sections)


def written(report: Report, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What the five writers make of a report; of CSV, the files beside its own."""
    texts = {}
    for suffix in (".json", ".csv", ".md", ".html"):
        beside = write_report(report, folder / f"r{suffix}")
        texts[suffix] = "".join(place.read_text() for place in beside) or (folder / f"r{suffix}").read_text()
    show(report, Reporting())
    return texts | {"terminal": capsys.readouterr().out}


@pytest.mark.parametrize("of_item", [False, True])
def test_a_new_kind_shows_in_all_five_writers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of_item: bool
) -> None:
    dial = Dial("needle", 271.5, title="the needle of the dial")
    report = toy(of_item=(dial,)) if of_item else toy(dial)
    texts = written(report, tmp_path, capsys)
    for form, text in texts.items():
        assert "271.5" in text, form
        assert "degrees" in text, form
    for form in (".md", ".html", "terminal"):
        assert "he needle of the dial" in texts[form]
    document = json.loads(texts[".json"])
    place = document["items"][0]["details"] if of_item else document["summary"]
    assert place["needle"] == [{"degrees": 271.5}]
    assert texts[".csv"] == ("input,degrees\na.png,271.5\n" if of_item else "degrees\n271.5\n")


def test_all_kinds_show_in_all_five_writers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "atlas.png")
    sections = (
        Table("heads", [{"layer": 1, "distance": 3.25}]),
        Curve("recall", {"ours": [0.5, 0.75], "theirs": [0.25, float("nan")]}, [10.0, 20.0], xlabel="keys"),
        Picture("atlas", str(tmp_path / "atlas.png")),
        Words("sentence", [("red", 0.875), ("coat", 0.125)]),
        Facts("machine", {"cores": 12.0}),
        Passage("answer", [("2+2=", "prompt"), ("2 and 2", "planted"), (" are 4", "written")]),
    )
    texts = written(toy(*sections), tmp_path, capsys)
    for form, text in texts.items():
        for word in ("3.25", "0.75", "atlas.png", "red", "12", "2 and 2"):
            if (form, word) != (".html", "0.75"):  # drawn: the value is a point of the line, and the axis' end
                assert word in text, (form, word)
    assert '<img src="data:image/png;base64,' in texts[".html"]
    assert texts[".html"].count("<polyline") == 1  # of the other line one point is left, which is no line
    assert ">0.75<" in texts[".html"]
    assert "<mark" in texts[".html"]
    assert '<span class="planted" title="planted">⟨2 and 2⟩</span>' in texts[".html"]


def test_json_keeps_the_keys_that_scripts_read() -> None:
    rows = [{"method": "tv", "psnr": 37.0}]
    item = Item(
        "a.dcm", None, "ok", 1.0, details={"window": "lung"}, unit="HU",
        sections=(Curve("losses", {"loss": [1.0, float("nan")]}, detail=True), Facts("settings", {"steps": 5}),
                  Table("comparison", rows, detail=True)),
    )  # fmt: skip
    report = Report(
        "denoise", "0.1.0", {}, "cpu", 1.0, (item,), {"done": 1}, sections=(Table("comparison", rows),),
        left=("b.dcm",), files={"measures": "vessels.csv"},
    )  # fmt: skip
    document = json.loads(dumps(report))
    assert document["items"][0]["details"] == {
        "window": "lung", "unit": "HU", "losses": [1.0, None], "settings": {"steps": 5}, "comparison": rows,
    }  # fmt: skip
    assert document["summary"] == {
        "done": 1, "comparison": rows, "interrupted": True, "left": ["b.dcm"], "measures": "vessels.csv",
    }  # fmt: skip


def test_details_are_for_who_looks_closely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = written(toy(of_item=(Dial("needle", 271.5, detail=True),)), tmp_path, capsys)
    assert {form for form, text in texts.items() if "271.5" in text} == {".json", ".html"}


def test_a_terminal_shows_lines_and_short_rows(capsys: pytest.CaptureFixture[str]) -> None:
    long = Table("scaling", [{"exponent": 1.0, "low": 0.5, "high": 1.5}], [{"exponent": "1.00 (0.5 - 1.5)"}])
    show(toy(long, Facts("machine", {"cores": 2}, "2 cores")), Reporting())
    shown = capsys.readouterr().out
    assert "1.00 (0.5 - 1.5)" in shown
    assert "low" not in shown
    assert "\n2 cores\n" in shown
    assert "cores" not in render(toy(Table("a", [])), "r.md")


def test_csv_holds_nested_values_as_json(tmp_path: Path) -> None:
    (place,) = write_report(toy(Table("used", [{"heads": [0, 1]}, {"more": 1}])), tmp_path / "r.csv")
    assert place.name == "r.used.csv"
    with place.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"heads": "[0, 1]", "more": ""}, {"heads": "", "more": "1"}]


def test_nobody_reads_details_or_a_summary_back() -> None:
    """What a part of ours needs of another is a field or a section, not a key that both must know."""
    root = Path(__file__).resolve().parents[3]
    readers = []
    for path in [*(root / "core").rglob("*.py"), *(root / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            read = isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and node.attr == "get")
            held = node.value if read else None
            if isinstance(held, ast.Attribute) and held.attr in ("details", "summary"):
                readers.append(f"{path.relative_to(root)}:{node.lineno}")
    assert [place for place in readers if not place.startswith("core/report/")] == []
