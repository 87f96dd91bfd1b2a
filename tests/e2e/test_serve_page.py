"""The page of `attn retrieve serve` in a real browser: by keyboard alone, both themes, nothing from elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from browser import Browser, browser
from encoder_folders import dual_folder
from served import Served, served
from small_models import photo

from attn.core.retrieve.options.encoder import EncoderOptions
from attn.core.retrieve.options.index import IndexOptions
from attn.core.retrieve.verbs.index import index

pytestmark = pytest.mark.slow
TAB, ENTER = ("Tab", 9), ("Enter", 13)
SIZES = ((1400, False), (1400, True), (400, False), (400, True))
LONG = "a_very_long_name_without_any_place_to_break_" * 4


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Iterator[Served]:
    """Four photos, one whose name is markup and one whose name is long; of one the file is gone."""
    home = tmp_path_factory.mktemp("home")
    for number, name in enumerate(("red", "<img src=x onerror=alert(1)>", LONG, "gone")):
        photo(home / "photos" / f"{name}.png", (30, 40), seed=number)
    options = IndexOptions(EncoderOptions(str(dual_folder(home / "clip"))))
    assert index([str(home / "photos")], str(home / "i"), options).exit_code == 0
    (home / "photos" / "gone.png").unlink()
    with served(str(home / "i")) as server:
        yield server


@pytest.fixture(scope="module")
def tab(there: Served) -> Iterator[Browser]:
    with browser(there.address.split("/")[2]) as made:
        yield made


def until(tab: Browser, script: str, value: Any) -> None:
    for _ in range(600):
        if tab.run(script) == value:
            return
        time.sleep(0.1)
    raise AssertionError(f"{script} is {tab.run(script)!r}, not {value!r}")


def write(tab: Browser, text: str) -> None:
    """What a person types where the focus is."""
    tab.call("Input.insertText", {"text": text})


COUNT = "document.querySelectorAll('#hits li').length"
FOCUS = "document.activeElement.id || document.activeElement.textContent"


def test_a_search_by_keyboard(tab: Browser, there: Served) -> None:
    tab.open(there.address, width=1400)
    assert tab.run(FOCUS) == "text"
    write(tab, "a red dog")
    tab.press(*ENTER)
    until(tab, COUNT, 4)
    assert "4 hits for “a red dog”" in tab.run("document.getElementById('status').textContent")
    assert "not there any more" in tab.run("document.getElementById('status').textContent")
    assert tab.run("new URLSearchParams(location.search).get('text')") == "a red dog"
    for _ in range(3):  # the button, the fold, then the hits
        tab.press(*TAB)
    assert tab.run(FOCUS) == "More like this"
    tab.press(*ENTER)
    until(tab, COUNT, 3)
    assert "entries like" in tab.run("document.getElementById('status').textContent")
    tab.run("history.back()")
    until(tab, COUNT, 4)
    tab.run("document.activeElement.blur()")
    tab.press("/", 191)
    assert tab.run(FOCUS) == "text"
    assert tab.run("document.title").endswith(": attn retrieve")


def test_faults_and_nothing_found_are_said(tab: Browser, there: Served) -> None:
    tab.open(f"{there.address}?text=dog&where=colour%3D1", width=1400)
    until(tab, "document.getElementById('error').hidden", False)
    assert "no metadata called 'colour'" in tab.run("document.getElementById('error').textContent")
    assert tab.run(COUNT) == 0
    tab.open(f"{there.address}?text=dog&where=id%3D'nobody'", width=1400)
    until(tab, "document.getElementById('status').textContent", "Nothing found for “dog”")


def test_a_photo_asks_too(tab: Browser, there: Served, tmp_path: Path) -> None:
    tab.open(there.address, width=1400)
    until(tab, "document.getElementById('by-photo').hidden", False)
    photo(tmp_path / "q.png", (30, 40), seed=0)
    node = tab.call("Runtime.evaluate", {"expression": "document.getElementById('photo')"})["result"]["objectId"]
    tab.call("DOM.setFileInputFiles", {"files": [str(tmp_path / "q.png")], "objectId": node})
    until(tab, COUNT, 4)
    assert tab.run("document.querySelector('#hits strong').textContent") == "1. red.png"


def test_it_looks_right_and_loads_nothing_from_elsewhere(tab: Browser, there: Served, tmp_path: Path) -> None:
    shots = Path(os.environ.get("ATTN_SCREENSHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    for width, dark in SIZES:
        tab.open(f"{there.address}?text=a+red+dog", width=width, dark=dark)
        until(tab, COUNT, 4)
        until(tab, "[...document.images].filter(i => i.complete).length", 4)
        assert tab.run("[...document.images].filter(i => i.naturalWidth).length") == 3  # of one the file is gone
        wide = tab.run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], width
        background = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark
        assert [url for url in tab.requests if not url.startswith((there.address, "data:", "about:"))] == []
        assert [fault for fault in tab.faults if "404" not in fault] == []  # the thumbnail of the one that is gone
        tab.screenshot(shots / f"serve-{width}-{'dark' if dark else 'light'}.png")
    named = "[...document.querySelectorAll('input, button')].filter(e => !e.labels?.length && !e.textContent).length"
    assert tab.run(named) == 0
    assert tab.run("[...document.images].filter(i => !i.alt).length") == 0
    assert tab.run("document.querySelectorAll('#hits script, #hits [onerror]').length") == 0
