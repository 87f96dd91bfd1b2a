"""The report: one schema, four forms, and no file name, number or picture that spoils any of them."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn.core.errors import UsageError
from attn.core.report import inline
from attn.core.report.model import Item, Report, dumps, summarise
from attn.core.report.sections import Curve, Facts, Passage, Picture, Section, Table, Words
from attn.core.report.write import check_report_path, render, write_report
from attn.core.text import csv_cell

NASTY = "a <b>&\"c',\n|x`*.dcm"


def report(*items: Item, **changes: Any) -> Report:
    values: dict[str, Any] = {"command": "denoise", "version": "0.1.0", "arguments": {"method": "tv"}, "device": "cpu"}
    values |= {"seconds": 1.5, "items": items, "summary": summarise(items), "notices": ("Not for diagnosis.",)}
    return Report(**(values | changes))


def done(name: str = "a.dcm", **changes: Any) -> Item:
    return Item(**({"input": name, "output": "out/a.dcm", "status": "ok", "seconds": 1.0} | changes))


FAILED = Item("bad.dcm", None, "failed", 0.1, error="no pixel data. Name another file")
SKIPPED = Item("old.dcm", "out/old.dcm", "skipped", 0.0)


class Page(HTMLParser):
    """What a browser would see: attributes, the text of elements, and whether tags nest."""

    VOID = frozenset({"meta", "img", "rect", "polyline", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for name, key, value in self.attributes if (name, key) == (tag, attribute)]


def every_kind(text: str) -> tuple[Section, ...]:
    """A section of each kind, all of its text ``text``."""
    return (
        Table(text, [{text: text}]),
        Facts(text, {text: text}, text),
        Curve(text, {text: [1.0, 2.0], "b": [2.0, 3.0]}, xlabel=text),
        Picture(text, text),
        Words(text, [(text, 0.5)]),
        Passage(text, [(text, "planted"), (text, text)]),
    )


def page(*items: Item, path: str = "report.html", **changes: Any) -> Page:
    return Page(render(report(*items, **changes), path))


@pytest.mark.parametrize(
    ("items", "changes", "code"),
    [
        ((), {}, 0),
        ((done(), SKIPPED), {}, 0),
        ((done(), FAILED), {}, 1),
        ((done(),), {"left": ()}, 130),
        ((FAILED,), {"left": ("b.dcm",)}, 130),
        ((FAILED,), {"gate": True}, 3),
        ((done(),), {"gate": True}, 0),
    ],
)
def test_exit_code(items: tuple[Item, ...], changes: dict[str, Any], code: int) -> None:
    assert report(*items, **changes).exit_code == code


def test_report_travels_between_processes() -> None:
    sent = report(done(metrics={"psnr": np.float32(38.25)}, sections=(Curve("losses", {"loss": [1.0, 0.5]}),)), FAILED)
    assert pickle.loads(pickle.dumps(sent)) == sent


def test_json_is_the_schema_and_valid() -> None:
    item = done(
        metrics={"psnr": np.float32(38.25), "steps": np.int64(5), "ssim": float("nan"), "x": float("-inf")},
        files={"maps": "m.npy"},
        details={"path": Path("a/b"), "array": np.array([1.0, np.nan]), "flag": np.bool_(True), "set": {"b", "a"}},
    )

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    read = json.loads(dumps(report(item, FAILED)), parse_constant=refuse)
    assert list(read)[:7] == ["command", "version", "arguments", "device", "seconds", "items", "summary"]
    assert list(read["items"][0])[:7] == ["input", "output", "status", "error", "seconds", "metrics", "files"]
    assert read["items"][0]["metrics"] == {"psnr": 38.25, "steps": 5, "ssim": None, "x": None}
    assert read["items"][0]["details"] == {"path": "a/b", "array": [1.0, None], "flag": True, "set": ["a", "b"]}
    assert read["items"][1]["error"] == "no pixel data. Name another file"
    assert read["items"][1]["output"] is None


def test_json_does_not_depend_on_the_order_of_options() -> None:
    assert dumps(report(arguments={"a": 1, "b": 2})) == dumps(report(arguments={"b": 2, "a": 1}))


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1))
def test_any_file_name_survives(name: str) -> None:
    one = report(done(name, metrics={"psnr": 1.0}))
    assert json.loads(dumps(one))["items"][0]["input"] == name
    rows = list(csv.reader(io.StringIO(render(one, "r.csv"), newline="")))
    assert rows[1][0] == csv_cell(name)
    assert "".join(Page(render(one, "r.html")).text("h2")) == f"{name}This run"
    table = [line for line in render(one, "r.md").split("\n") if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table[:2]}) == 1


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    odd = done("m\udcfcller.dcm", output="out/m\udcfcller.dcm")
    for suffix in (".json", ".csv", ".md", ".html"):
        write_report(report(odd), tmp_path / f"r{suffix}")
        shown = "xfc" if suffix == ".md" else "udcfc"  # Markdown is for people: as a terminal shows it
        assert shown in (tmp_path / f"r{suffix}").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "r.json").read_text())["items"][0]["input"] == odd.input


def test_csv_opens_in_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "r.csv"
    write_report(report(done(NASTY, metrics={"psnr": 38.25}), FAILED, done(metrics={"ssim": 0.9})), path)
    table = pandas.read_csv(path)
    assert list(table.columns) == ["input", "output", "status", "error", "seconds", "psnr", "ssim"]
    assert table.input[0] == NASTY
    assert table.psnr[0] == 38.25
    assert table.psnr.isna().tolist() == [False, True, True]
    assert table.status.tolist() == ["ok", "failed", "ok"]


def test_markdown_has_table_summary_and_command_line() -> None:
    text = render(
        report(
            done("a|b.dcm", metrics={"psnr": 38.25}, warnings=("odd",)),
            FAILED,
            arguments={"argv": ["denoise", "a b.dcm"]},
            summary={"done": 1},
            sections=(Table("comparison", [{"method": "tv", "psnr": 37.0}]),),
        ),
        "r.md",
    )
    assert "    attn denoise 'a b.dcm'\n" in text
    assert "| a\\|b.dcm | ok | out/a.dcm | 1.00 | 38.25 |  |" in text
    assert "| bad.dcm | failed |  | 0.10 |  | no pixel data. Name another file |" in text
    assert "| done | 1 |" in text
    assert "| method | psnr |\n| --- | --- |\n| tv | 37 |" in text
    assert "- a\\|b.dcm: odd" in text
    assert text.count("Not for diagnosis.") == 1


def test_html_escapes_everything() -> None:
    evil = '<script>alert("1")</script>'
    item = done(
        evil,
        output=f"javascript:alert(1)//{evil}",
        error=evil,
        metrics={evil: 1.0},
        files={evil: evil},
        warnings=(evil,),
        details={evil: evil, "trace": f"{evil}\n{evil}"},
        sections=(Facts("settings", {evil: [evil]}), Table("comparison", [{evil: evil}]), *every_kind(evil)),
        unit=evil,
    )
    text = render(
        report(item, done(), command=evil, version=evil, device=evil, notices=(evil,), summary={evil: evil},
               arguments={"argv": [evil], evil: evil}, sections=every_kind(evil)),
        "r.html",
    )  # fmt: skip
    seen = Page(text)
    assert "script" not in {tag for tag, _ in seen.texts}
    assert "<script" not in text
    assert all(re.match(r"#item-\d+$|[\w./%-]+$", link) for link in seen.values("a", "href"))
    assert evil in seen.text("h2")


def test_html_stands_alone(tmp_path: Path) -> None:
    Image.new("L", (40, 20), 128).save(tmp_path / "a.png")
    (tmp_path / "b.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "c.npy").write_bytes(b"x")
    files = {name: str(tmp_path / name) for name in ("a.png", "b.svg", "c.npy", "gone.png")}
    seen = page(done(files=files), path=str(tmp_path / "r.html"))
    heads = [source.partition(",")[0] for source in seen.values("img", "src")]
    assert heads == ["data:image/png;base64", "data:image/svg+xml;base64"]
    data = base64.b64decode(seen.values("img", "src")[0].partition(",")[2])
    assert data == (tmp_path / "a.png").read_bytes()
    assert {"c.npy", "gone.png"} <= set(seen.values("a", "href"))
    assert "default-src 'none'" in seen.values("meta", "content")[0]
    assert not seen.values("link", "href")


def test_html_shows_notice_comparison_losses_settings_and_warnings() -> None:
    item = done(
        warnings=("window was guessed",),
        metrics={"psnr": 38.25, "ssim": float("nan")},
        sections=(
            Facts("settings", {"steps": 500}),
            Curve("losses", {"loss": [1.0, float("nan"), 0.5, 0.25]}),
            Table("comparison", [{"method": "tv", "psnr": 37.0}, {"method": "nlm", "psnr": 36.5, "note": "slow"}]),
        ),
        unit="HU",
    )
    seen = page(item, arguments={})
    assert seen.text("p").count("Not for diagnosis.") == 1
    assert "window was guessed" in seen.text("li")
    words = ["PSNR after, dB", "SSIM after", "Steps of the fit", "unit", "method", "PSNR after, dB", "note"]
    assert [head for head in seen.text("th") if head in words] == words
    assert {"38.25", "–", "500", "HU", "tv", "36.5", "slow"} <= set(seen.text("td"))
    (points,) = seen.values("polyline", "points")
    heights = [float(point.partition(",")[2]) for point in points.split()]
    assert len(heights) == 3  # the NaN is left out
    assert heights == sorted(heights)  # falling losses run down the page


def test_one_file_has_no_means_and_the_picture_comes_first(tmp_path: Path) -> None:
    Image.new("L", (40, 20), 128).save(tmp_path / "a.png")
    numbers = {"mean_calibre_px": 4.5, "parameters": 100.0, "noise_std_after": 3.0, "odd_name": 1.0}
    one = done(metrics=numbers, files={"figure": str(tmp_path / "a.png")}, unit="HU")
    text = render(report(one, arguments={"argv": ["denoise", "a.dcm"]}), "r.html")
    assert text.index("<img") < text.index("<table") < text.index("attn denoise a.dcm")
    heads = Page(text).text("th")
    assert heads[:4] == ["Mean vessel calibre, px", "Parameters of the model", "Noise after (SD), HU", "odd name"]
    both = Page(render(report(one, done(metrics=numbers | {"mean_calibre_px": 5.5})), "r.html"))
    assert not [name for name in both.text("th") + both.text("td") if "_" in name]
    cells = both.text("td")
    assert cells[cells.index("mean") + 1] == "5"  # of the calibre; the parameters have none
    for form in ("r.json", "r.csv"):
        assert "mean_calibre_px" in render(report(one), form)
    assert "mean_parameters" not in summarise([one])


def test_csv_cells_are_no_formulas() -> None:
    rows = list(csv.reader(io.StringIO(render(report(done("=1+1.dcm", metrics={"psnr": -1.5})), "r.csv"), newline="")))
    assert rows[1][0] == "'=1+1.dcm"
    assert rows[1][5] == "-1.5"


@pytest.mark.parametrize("losses", [[], [1.0], [float("nan")] * 5, [2.0] * 5, np.linspace(1, 0, 5000)], ids=len)
def test_any_loss_curve_is_drawn_or_left_out(losses: Any) -> None:
    for points in page(done(sections=(Curve("losses", {"loss": losses}),))).values("polyline", "points"):
        assert "nan" not in points
        assert len(points.split()) <= 601


@pytest.mark.parametrize(("mode", "grey"), [("L", 128), ("I;16", 128 * 257)])
def test_large_pictures_are_reduced(tmp_path: Path, mode: str, grey: int) -> None:
    pixels = np.full((300, 4 * inline.MAX_SIDE), grey, np.uint8 if mode == "L" else np.uint16)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (source,) = page(done(files={"figure": str(tmp_path / "wide.png")})).values("img", "src")
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        assert image.size == (inline.MAX_SIDE, 75)
        assert image.mode == "L" or image.convert("L").getextrema() == (128, 128)
        assert abs(image.convert("L").getpixel((5, 5)) - 128) <= 1  # type: ignore[operator]


def test_broken_picture_is_a_link(tmp_path: Path) -> None:
    Image.new("L", (40, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "b.jpg").write_bytes(b"no picture at all")
    seen = page(done(files={"a": str(tmp_path / "a.png"), "b": str(tmp_path / "b.jpg")}), path=str(tmp_path / "r.html"))
    assert not seen.values("img", "src")
    assert {"a.png", "b.jpg"} <= set(seen.values("a", "href"))


def test_pictures_beyond_the_budget_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", 2 * size)
    seen = page(*(done(files={"figure": str(tmp_path / "a.png")}) for _ in range(3)))
    assert len(seen.values("img", "src")) == 2


def test_unknown_suffix_names_the_four(tmp_path: Path) -> None:
    for path in (tmp_path / "r.pdf", tmp_path / "r"):
        with pytest.raises(UsageError, match=r"\.json, \.csv, \.md or \.html"):
            write_report(report(), path)
        with pytest.raises(UsageError, match="report_file"):
            check_report_path(path)
    assert not list(tmp_path.iterdir())


def test_written_whole_and_nothing_else(tmp_path: Path) -> None:
    for name in ("r.JSON", "r.csv", "r.md", "r.html"):
        write_report(report(done()), tmp_path / name)
        write_report(report(FAILED), tmp_path / name)
        assert "bad.dcm" in (tmp_path / name).read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 4


def test_summarise_counts_and_averages_done_items() -> None:
    items = [
        done(metrics={"psnr": 30.0, "ssim": float("nan")}),
        done(metrics={"psnr": np.float32(40.0), "ssim": float("inf")}),
        done(metrics={"psnr": float("nan")}),
        Item("x", None, "failed", 1.0, metrics={"psnr": 1000.0}),
        SKIPPED,
    ]
    assert summarise(items) == {"done": 3, "failed": 1, "skipped": 1, "mean_psnr": 35.0, "mean_ssim": None}
    assert summarise([]) == {"done": 0, "failed": 0, "skipped": 0}


def test_importing_the_report_is_cheap() -> None:
    heavy = "{'torch', 'matplotlib', 'PIL', 'pydicom', 'jinja2'}"
    code = f"import sys, attn.core.report.model, attn.core.report.write; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
