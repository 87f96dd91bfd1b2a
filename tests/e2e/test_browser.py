"""Pages in a real browser: nothing overflows, nothing leaves the page, a keyboard is enough, both themes are drawn.

``ATTN_SCREENSHOTS=DIR`` keeps the screenshots, for people to look at.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, browser
from encoder_folders import text_folder
from PIL import Image
from small_models import photo, vision_folder
from small_vlms import vlm_folder

from attn.core.catalogue import registry
from attn.core.report.html import PAGE, document
from attn.core.report.model import Item, Report, summarise
from attn.core.report.sections import Curve, Facts, Section, Table, Trust, TrustLine, Words
from attn.core.report.write import write_report

pytestmark = pytest.mark.slow
SIZES = ((1400, False), (1400, True), (400, False), (400, True))
TAB, ENTER = ("Tab", 9), ("Enter", 13)
OVERFLOW = """
[...document.querySelectorAll('body, body *')].filter(e => !e.closest('.scroll') && e.getClientRects().length &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`)
"""
FOCUS = """
(() => { const e = document.activeElement, s = getComputedStyle(e);
  return [e.tagName, s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2] })()
"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as made:
        yield made


def look_at(tab: Browser, page: Path, name: str, folder: Path) -> None:
    """Both themes, wide and narrow: what must hold of every page."""
    assert page.stat().st_size < 20_000_000
    shots = Path(os.environ.get("ATTN_SCREENSHOTS") or folder)
    shots.mkdir(parents=True, exist_ok=True)
    for width, dark in SIZES:
        tab.open(page.as_uri(), width=width, dark=dark)
        wide = tab.run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], (name, width, tab.run(OVERFLOW))
        assert tab.run(OVERFLOW) == [], (name, width)
        assert tab.run("[...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
        assert tab.run("[...document.images].filter(i => !i.alt).length") == 0
        background = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark
        tab.screenshot(shots / f"{name}-{width}-{'dark' if dark else 'light'}.png")
        outside = [url for url in tab.requests if not url.startswith(("data:", "about:", page.as_uri()))]
        assert outside == []
        assert tab.faults == []
    headings = tab.run("[...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    tab.open(page.as_uri(), width=1400)
    for _ in range(3):
        tab.press(*TAB)
        tag, visible = tab.run(FOCUS)
        assert tag == "BODY" or visible, (name, tag)


def test_a_request_would_be_seen(tab: Browser, tmp_path: Path) -> None:
    """The test of the tests: an attempt is caught, also one that the policy of our pages stops."""
    picture = '<img src="http://attn.invalid/a.png" alt="a">'
    (tmp_path / "open.html").write_text(picture)
    tab.open((tmp_path / "open.html").as_uri(), width=400)
    assert "http://attn.invalid/a.png" in tab.requests
    (tmp_path / "shut.html").write_text(document("t", [picture]))
    tab.open((tmp_path / "shut.html").as_uri(), width=400)
    assert "http://attn.invalid/a.png" in tab.requests
    assert any("Content Security Policy" in fault for fault in tab.faults)


def test_every_kind_of_section(tab: Browser, tmp_path: Path) -> None:
    """Long names, many inputs, wide tables, folds: and how the page is turned."""
    long = "a_very_long_name_without_any_place_to_break_" * 4
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 1700, 3), np.uint8)).save(tmp_path / "p.png")
    trust = Trust("trust", [TrustLine("seeds", 0.9, 0.1, True, "fine"), TrustLine(long, 0.0, 0.2, False, long)])
    sections: tuple[Section, ...] = (
        Table("layers", [{f"column_{n}": n / 7 for n in range(30)}], detail=True), trust,
        Curve("losses", {"ours": [3.0, 2.0, 1.0], "theirs": [3.0, 2.5, 2.0]}), Words("text", [(long, 0.5), ("b", 1.0)]),
        Facts("machine", {long: long, "cores": 2}), Table("wide", [{f"c{n}": "text " * 9 for n in range(9)}]),
    )  # fmt: skip
    items = [
        Item(f"{number} {long}.png", str(tmp_path / "p.png"), "ok", 0.0, metrics={f"m{n}": n / 3 for n in range(12)},
             files={"figure": str(tmp_path / "p.png")}, warnings=(long,), sections=sections if number < 2 else ())
        for number in range(PAGE + 6)
    ]  # fmt: skip
    report = Report(
        "probe", "0", {"argv": ["probe", long], "x": [long]}, "cpu", 1.0, tuple(items), summarise(items), (long,)
    )
    write_report(report, tmp_path / "r.html")
    look_at(tab, tmp_path / "r.html", "sections", tmp_path)
    address = (tmp_path / "r.html").as_uri()
    shown = "[...document.querySelectorAll('section[id]')].filter(e => e.offsetHeight).length"
    tab.open(address, width=1400)
    assert tab.run(shown) == PAGE
    tab.open(f"{address}#page-2", width=1400)
    assert tab.run(shown) == 6
    tab.open(f"{address}#item-{PAGE + 3}", width=1400)
    assert tab.run(shown) == 6
    tab.open(address, width=1400)
    tab.run("document.querySelector('summary').focus()")
    assert tab.run("document.querySelector('details').open") is False
    tab.press(*ENTER)
    assert tab.run("document.querySelector('details').open") is True


def vit(folder: Path) -> list[str]:
    model = vision_folder(folder / "vit", "vit")
    return ["vit", str(photo(folder / "a.png")), "example:photo", "example:ct", "--model", str(model)]


def contrast(folder: Path) -> list[str]:
    model, size = vlm_folder(folder / "llava", "llava padded"), (40, 60)
    return [
        "contrast", str(photo(folder / "c.png", size)), "--model", str(model), "--prompt", "what colour is it",
        "--general", "what is there", "--suffix", "", "--max-new-tokens", "2",
    ]  # fmt: skip


def collapse(folder: Path) -> list[str]:
    model, words = text_folder(folder / "text"), "cat dog river town old new red blue near far".split()
    for number, length in enumerate((2, 3, 4, 5, 8, 9, 10, 12, 20, 22, 25, 28, 40)):
        (folder / f"{number:02}.txt").write_text(" ".join((words * 4)[number : number + length]))
    texts = [str(folder / f"{number:02}.txt") for number in range(13)]
    return ["collapse", *texts, "--model", str(model), "--lengths", "none", "--buckets", "3", "--measured", "2"]


def classify(folder: Path) -> list[str]:
    for name in ("red", "blue", "green"):
        for number in range(7):
            photo(folder / "set" / name / f"{number}.png", (20, 24), seed=number)
    model = vision_folder(folder / "vit")
    few = ["--queries", "4", "--epochs", "4", "--warmup", "1", "--seeds", "2", "--layer", "all", "--shots", "1,5"]
    return ["classify", str(folder / "set"), "--model", str(model), *few]


def relevance(folder: Path) -> list[str]:
    return ["relevance", str(photo(folder / "a.png", (48, 64))), "example:photo", "--max-side", "64"]


def distance(folder: Path) -> list[str]:
    pictures = [str(photo(folder / f"{number}.png", seed=number)) for number in range(3)]
    model = vision_folder(folder / "vit", "vit")
    return ["distance", *pictures, "--target", "example:ct", "--model", str(model), "--checked", "1"]


def filters(folder: Path) -> list[str]:
    return ["filters", "shapes-cnn", "--data", "example:photo"]


def initialisers(folder: Path) -> list[str]:
    return ["initialisers", "--init", "he,torch-default", "--seeds", "2", "--steps", "10", "--layers", "3"]


def icl(folder: Path) -> list[str]:
    return ["icl", "--heads", "2,linear", "--steps", "20", "--dim", "3", "--length", "6", "--prompts", "100"]


KINDS: dict[str, Callable[[Path], list[str]]] = {
    made.__name__: made for made in (vit, contrast, collapse, classify, relevance, distance, filters, initialisers, icl)
}
"""Kind -> how it is called cheaply, in a folder of its own."""


def test_every_kind_is_looked_at() -> None:
    assert set(registry("probe")) <= set(KINDS)


@pytest.mark.parametrize("kind", [name for name in registry("probe") if name in KINDS])
def test_pages_of_probe(cli: Any, tab: Browser, tmp_path: Path, kind: str) -> None:
    ran = cli("probe", *KINDS[kind](tmp_path), "-o", "out", "--report", "r.html", "-q")
    assert ran.code == 0, ran.stderr
    look_at(tab, tmp_path / "r.html", kind, tmp_path)
    drawn = {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png") if path.with_suffix(".json").exists()
    }
    assert drawn
    assert cli("probe", "redraw", "out", "--overwrite", "-q").code == 0
    assert all(path.read_bytes() == before for path, before in drawn.items())
