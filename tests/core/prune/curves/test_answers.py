"""What is a right answer."""

from __future__ import annotations

import pytest

from attn.core.prune.curves.answers import judged, normalised


@pytest.mark.parametrize(
    ("text", "compared"),
    [
        (" Top-Left. ", "top left"), ("1,200.50 €", "1200.50 €"), ("Don't!", "dont"), ("(B) ２", "b 2"), ("3.", "3"),
        ("a,b", "a b"), ("STRASSE", normalised("straße")), ("...", ""),
    ],
)  # fmt: skip
def test_normalised(text: str, compared: str) -> None:
    assert normalised(text) == compared


def test_exact() -> None:
    assert judged("Yes.", ["no", "yes"], "exact") == 1
    assert judged("yes it is", ["yes"], "exact") == 0


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_leaves_one_of_ten_out(matches: int, score: float) -> None:
    """The values of the official script, which averages min(1, matches / 3) over the ten sets of nine."""
    assert judged("yes", ["Yes"] * matches + ["no"] * (10 - matches), "vqa") == pytest.approx(score)
