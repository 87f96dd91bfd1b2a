"""The registry of encoders drives: a kind in a module of its own and one row are all it takes."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attn.core import catalogue
from attn.core.errors import UsageError
from attn.core.registry import Need
from attn.core.retrieve import EncoderMethod, model_help
from attn.core.retrieve.encoders.load import load

TOY = '''
"""toy: the letters of a text, counted."""
from dataclasses import dataclass

import numpy as np

from attn.core.retrieve.encoders.base import Encoded, Fingerprint
from attn.core.retrieve.encoders.kind import EncoderKind


@dataclass(frozen=True)
class Toy:
    fingerprint: Fingerprint
    modalities: frozenset = frozenset({"text"})
    warnings: tuple = ()
    engine: str = "letters"

    def encode_texts(self, texts, *, side="document"):
        counts = np.array([[text.lower().count(chr(97 + i)) + 0.01 for i in range(26)] for text in texts], np.float32)
        vectors = counts / np.linalg.norm(counts.reshape(-1, 26), axis=1, keepdims=True)
        return Encoded(vectors, np.zeros(len(texts), bool), np.ones(len(texts), np.int64))


def load(name, path, *, device, dtype, temperature, max_tokens):
    return Toy(Fingerprint(name, "0" * 64, 26, "letters", True, 1.0, None, None))


def recognises(source):
    return source.name == "toy" or source.form == "toy-file" or source.holds("toy.txt")


KIND = EncoderKind(recognises, load, files=("toy.txt",))
'''
ROW = EncoderMethod(
    "toy", home="a_toy_encoder:KIND", summary="letters", paper="none", year=2026, given=("name", "folder", "file"),
)  # fmt: skip


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[EncoderMethod]:
    """A row at the end of the registry, and the module that it names."""
    home = types.ModuleType("a_toy_encoder")
    monkeypatch.setitem(sys.modules, home.__name__, home)
    exec(TOY, vars(home))
    with catalogue.registry("retrieve").extended(ROW):
        yield ROW


def test_a_toy_indexes_and_searches(toy: EncoderMethod, tmp_path: Path, cli: Callable[..., Any]) -> None:
    gallery, index = tmp_path / "gallery.tsv", str(tmp_path / "index")
    gallery.write_text("id\ttext\n1\tzebras graze\n2\ta quiet afternoon\n3\tjazz\n")
    made = cli("retrieve", "index", gallery, "-o", index, "--model", "toy", "--json")
    assert made.code == 0, made.stderr
    assert json.loads(made.stdout)["summary"]["model"] == "toy"
    shown = cli("retrieve", "search", index, "a quite quiet one", "jazz", "--top", "1", "--json")
    assert shown.code == 0, shown.stderr
    assert [item["details"]["hits"][0]["id"] for item in json.loads(shown.stdout)["items"]] == ["2", "3"]


def test_a_toy_is_listed_completed_and_suggested(toy: EncoderMethod, cli: Callable[..., Any]) -> None:
    from attn.core.retrieve.options.encoder import complete_model

    assert "toy" in cli("retrieve", "--list").stdout
    assert complete_model("to") == [("toy", "letters")]
    assert "minilm, vit-minilm, toy, a folder (" in model_help()
    with pytest.raises(UsageError, match=r"Did you mean toy\? Give minilm or vit-minilm or toy"):
        load("toyy")


def test_a_folder_and_a_file_of_a_toy(toy: EncoderMethod, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "toy.txt").touch()
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", {"attn": json.dumps({"format": "toy-file"})})
    for path in (tmp_path / "model", tmp_path / "x.safetensors"):
        assert load(str(path)).fingerprint.pooling == "letters"
    with pytest.raises(UsageError, match=r"^pooling: .* has none to choose"):
        load("toy", pooling="mean")
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"holds none of .*toy\.txt"):
        load(str(tmp_path / "other"))


def test_the_name_of_a_kind_that_has_no_model_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"clip is a kind of model\. Give the folder of one"):
        load("clip")


def test_kinds_are_asked_whatever_package_is_missing(toy: EncoderMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Need, "missing", True)
    assert toy.missing() == []
    assert load("toy").fingerprint.pooling == "letters"
