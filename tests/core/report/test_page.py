"""The page of a report: pagination, folds, trust lines, sizes, contrast of its colours."""

from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attn.core.report import inline
from attn.core.report.html import PAGE
from attn.core.report.model import Item, Report, summarise
from attn.core.report.sections import Table, Trust, TrustLine
from attn.core.report.write import render

STYLE = Path(inline.__file__).with_name("document.html").read_text(encoding="utf-8")


def page(*items: Item, **more: Any) -> str:
    return render(Report("probe", "0", {}, "cpu", 1.0, items, summarise(items), **more), "r.html")


def noise(path: Path, size: tuple[int, int]) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(path)
    return path


def test_more_than_a_page_of_inputs_is_turned() -> None:
    def items(count: int) -> list[Item]:
        return [Item(f"{number}.png", None, "ok", 0.0) for number in range(count)]

    assert 'class="page' not in page(*items(PAGE))
    text = page(*items(2 * PAGE + 1))
    assert re.findall(r'<div class="page( first)?" id="page-(\d)">', text) == [(" first", "1"), ("", "2"), ("", "3")]
    assert text.count("<nav") == 2
    assert f'<a href="#page-2">{PAGE + 1} to {2 * PAGE}</a>' in text
    assert [int(number) for number in re.findall(r'<section id="item-(\d+)">', text)] == list(range(2 * PAGE + 1))
    assert "<script" not in text


def test_trust_is_a_word_beside_the_colour_and_details_are_folded(tmp_path: Path) -> None:
    trust = Trust(
        "trust",
        [
            TrustLine("seed agreement", 0.91234, 0.1, True, "how alike & <b>"),
            TrustLine("r", float("nan"), 0, False, "x"),
        ],
    )
    table = Table("layers", [{"layer": 1, "value": 2.5}], detail=True)
    figure = noise(tmp_path / "a.png", (8, 8))
    item = Item("photo", None, "ok", 0.0, sections=(table, trust), files={"figure": str(figure)})
    text = page(item)
    assert '<li class="passed"><strong>passed</strong> <b>seed agreement</b> 0.912 (chance: 0.1)' in text
    assert '<li class="failed"><strong>failed</strong> <b>r</b> –' in text
    assert "<b>&" not in text
    assert text.index("<img") < text.index('class="trust"') < text.index("<details><summary>Layers</summary>")
    assert 'alt="Figure of photo"' in text
    assert "<h3>Layers" not in text
    assert re.search(r"<h3>Can this map be believed\?</h3>", text)


def test_pictures_share_the_room_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noise(tmp_path / "a.png", (400, 900))
    before = path.read_bytes()
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", 400_000)
    text = page(*(Item(str(number), None, "ok", 0.0, files={"figure": str(path)}) for number in range(5)))
    sources = re.findall(r'src="data:(image/\w+);base64,([^"]+)"', text)
    data = [base64.b64decode(source) for _, source in sources]
    assert sum(map(len, data)) <= 400_000
    assert {kind for kind, _ in sources} == {"image/jpeg"}
    assert all(Image.open(io.BytesIO(one)).size[0] >= 240 for one in data)
    assert "5 pictures are shown reduced, and 0 are links alone" in text
    assert path.read_bytes() == before
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", 1000)
    assert "0 pictures are shown reduced, and 1 are links alone" in page(
        Item("a", None, "ok", 0.0, files={"figure": str(path)})
    )
    assert "To keep this page" not in page(Item("a", None, "ok", 0.0))


def luminance(colour: str) -> float:
    """Of WCAG 2, of a colour as the style writes it."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(theme: int) -> None:
    """WCAG 2, level AA: 4.5 to 1."""
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    colours = dict(re.findall(r"--(\w+): #([0-9a-f]{3,6})", blocks[theme]))
    assert len(blocks) == 2
    for ink, back in itertools.product(("ink", "soft", "good", "bad", "wait", "accent"), ("back", "panel")):
        one, other = sorted((luminance(colours[ink]), luminance(colours[back])), reverse=True)
        assert (one + 0.05) / (other + 0.05) >= 4.5, (ink, back)
