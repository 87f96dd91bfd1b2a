"""The pass key test: what its documents are, and that what is found is what ranks first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attn.core.errors import UsageError
from attn.core.probe.collapse.passkey import EACH, NAMES, SENTENCE, documents, passkey, sentences_of

TEXTS = ["The river is old. The town is new! Is the road far?", "A pass key of nobody. Red and blue boats."] * 9
LENGTHS = (24, 48, 96)


@dataclass(frozen=True)
class WordCounter:
    """An encoder whose tokens are words, and whose vectors are what a rule makes of a text."""

    rule: Any
    most: int = 10**9

    def cut(self, max_tokens: int) -> WordCounter:
        return WordCounter(self.rule, max_tokens)

    def tokens(self, texts: list[str]) -> Any:
        return SimpleNamespace(counts=np.array([min(self.most, len(text.split()) + 2) for text in texts]))

    def encode_texts(self, texts: list[str], *, side: str = "document") -> Any:
        return SimpleNamespace(vectors=np.stack([self.rule(text) for text in texts]).astype(np.float32))


def by_name(text: str) -> np.ndarray:
    """One axis for each name that is in the text."""
    return np.array([float(re.search(rf"\b{name}\b", text) is not None) for name in NAMES])


def by_name_and_brevity(text: str) -> np.ndarray:
    """As ``by_name``, but whatever is short is near to every question."""
    short = 10.0 if len(text.split()) < 30 else 0.0
    return np.array([*by_name(text), 10.0 if text.endswith("?") else short])


def nothing(text: str) -> np.ndarray:
    return np.ones(3)


def test_documents_are_as_long_as_asked_and_hold_the_sentence_once() -> None:
    rng = np.random.default_rng(3)
    encoder: Any = WordCounter(nothing)
    hidden = documents(encoder, sentences_of(TEXTS), LENGTHS, EACH, rng)
    assert [document.length for document in hidden] == [n for n in LENGTHS for _ in range(EACH)]
    assert len({document.name for document in hidden}) == len(hidden)
    places = set()
    for document in hidden:
        words = len(document.text.split()) + 2
        assert document.length - 1 <= words <= document.length
        found = re.findall(SENTENCE.format(name=document.name, key=r"\d{5}").replace(".", r"\."), document.text)
        assert len(found) == 1
        assert document.text.count("pass key") == 1  # filler that speaks of one is left out
        places.add(round(document.text.index("The pass key") / len(document.text), 1))
    assert len(places) > 3  # at random places


def test_an_encoder_that_reads_names_finds_all() -> None:
    encoder: Any = WordCounter(by_name)
    rows = passkey(encoder, TEXTS, LENGTHS, rounds=2)
    assert [row["tokens"] for row in rows] == list(LENGTHS)
    for row in rows:
        assert (row["questions"], row["found"], row["found_among_all"]) == (16, 1.0, 1.0)
        assert (row["shorter_won"], row["longer_won"]) == (0.0, 0.0)
        assert row["chance"] == 1 / EACH
        assert row["chance_among_all"] == pytest.approx(1 / (3 * EACH))


def test_short_texts_that_win_are_seen_among_all_lengths_only() -> None:
    encoder: Any = WordCounter(by_name_and_brevity)
    short, *longer = passkey(encoder, TEXTS, LENGTHS, rounds=2)
    assert short["found_among_all"] == 1.0
    for row in longer:
        assert (row["found"], row["found_among_all"], row["shorter_won"], row["longer_won"]) == (1.0, 0.0, 1.0, 0.0)


def test_an_encoder_that_reads_nothing_is_at_chance() -> None:
    encoder: Any = WordCounter(nothing)
    rows = passkey(encoder, TEXTS, LENGTHS, rounds=3)
    assert all(row["found"] == pytest.approx(1 / EACH) for row in rows)  # the first of equals wins


def test_the_seed_decides() -> None:
    encoder: Any = WordCounter(nothing)
    one, same, other = (
        documents(encoder, sentences_of(TEXTS), LENGTHS, 2, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("lengths", "texts", "message"),
    [
        ((12,), TEXTS, "no room for a pass key; 24 is the least"),
        ((24, 32, 48, 64, 80, 96, 128), TEXTS, "more than 50 names"),
        ((400,), TEXTS, "too short for filler of 400 tokens"),
        ((24,), ["", "  "], "no sentence"),
    ],
)
def test_what_cannot_be_tested_is_said(lengths: tuple[int, ...], texts: list[str], message: str) -> None:
    encoder: Any = WordCounter(nothing)
    with pytest.raises(UsageError, match=message):
        passkey(encoder, texts, lengths)
