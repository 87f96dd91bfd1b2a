"""The recipe of TNL: its text, two networks of equal size, what is judged and timed, and runs that go on."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attn.core.bundles import Compute
from attn.core.errors import InputError, UsageError
from attn.core.fit import loop as trainer
from attn.core.io.weights import read_tensors, write_weights
from attn.core.options import OptionError
from attn.core.train.tnl import network, recipe, texts
from attn.core.train.tnl.network import (
    TOLERANCE,
    LanguageModel,
    continuation,
    equal_shapes,
    read_language_file,
    write_language_file,
)
from attn.core.train.tnl.options import KINDS, TnlOptions
from attn.core.train.tnl.run import train_tnl
from attn.core.train.tnl.speed import kept_bytes, speeds
from attn.core.train.tnl.tokens import BytePairs

CPU = torch.device("cpu")
WORDS = "the a list of keys returns value item error if string number file open not none function called with".split()


def paragraph(number: int) -> str:
    """Twenty words, no two paragraphs alike."""
    return (
        " ".join(WORDS[(number * number + 7 * place * (number + 1)) % len(WORDS)] for place in range(20))
        + f" {number}."
    )


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Forty documents; every other one ends with the same paragraph."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(40):
        parts = [paragraph(10 * number + place) for place in range(6)]
        if number % 2:
            parts.append("what all odd documents say, word for word, at their end")
        (folder / f"{number:02}.txt").write_text("\n\n".join(parts), encoding="utf-8")
    return folder


def options(folder: Path, notes: Path, **changes: Any) -> TnlOptions:
    small = TnlOptions(
        folder, (str(notes),), vocabulary=300, length=16, batch=2, width=24, layers=2, heads=2, steps=4, warmup=1,
        lengths=(16, 32, 64), judged=64, decoded=3, sample=5, evaluate_every=2,
        compute=Compute(device="cpu", threads=1, seed=5),
    )  # fmt: skip
    return replace(small, **changes)


# --- the text


def test_what_is_held_out_has_not_been_read(notes: Path, tmp_path: Path) -> None:
    found = texts.corpus((str(notes),), tmp_path / "run")
    parts = [found.train, found.val, found.test]
    names = [document.name for part in parts for document in part]
    assert len(set(names)) == len(names) == 40
    said = [{line for document in part for line in document.text.split("\n\n")} for part in parts]
    assert not said[0] & (said[1] | said[2])
    assert any("paragraphs of held-out documents" in notice for notice in found.notices)
    sizes = found.counts()
    total = sum(size for name, size in sizes.items() if name.endswith("bytes"))
    assert 0.05 < sizes["test_bytes"] / total < 0.1
    again = texts.corpus((str(notes),), tmp_path / "run")
    assert again == found
    (notes / "00.txt").write_text("another text", encoding="utf-8")
    assert texts.corpus((str(notes),), tmp_path / "run").sha256 != found.sha256


def test_one_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(paragraph(number) for number in range(2000)), encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    found = texts.corpus((str(book), str(tmp_path / "empty.txt")), tmp_path / "run")
    pieces = sorted((*found.train, *found.val, *found.test), key=lambda piece: int(piece.name.split()[-1]))
    assert "\n\n".join(piece.text for piece in pieces) == book.read_text(encoding="utf-8")
    assert min(len(piece.text) for piece in pieces[:-1]) >= texts.PIECE
    told = " ".join(found.notices)
    assert "1 empty files are left out" in told
    assert f"1 documents are cut at blank lines into {len(pieces)}" in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("few words", "too few to hold some out"),
        ("\n\n".join(["the same words again and again, all of it"] * 9000), "repeats itself"),
    ],
)
def test_too_little_text(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        texts.corpus((str(tmp_path / "a.txt"),), tmp_path / "run")
    with pytest.raises(InputError, match=r"gone\.txt"):
        texts.corpus((str(tmp_path / "gone.txt"),), tmp_path / "run")


def test_docstrings_are_read_without_running_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json").mkdir()
    source = '"Mod."\nraise SystemExit\nclass A:\n    """Cls.\n\n    More."""\n    def f(self, x=1):\n        "Do."\n'
    (tmp_path / "json" / "__init__.py").write_text(source)
    (tmp_path / "json" / "test").mkdir()
    (tmp_path / "json" / "test" / "x.py").write_text('"""Not this one."""')
    (tmp_path / "stray.py").write_text('"""Nor this, which is not of the library."""')
    monkeypatch.setattr(texts.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(texts, "FEWEST_OF_PYTHON", 1)
    found = texts.python_documents.__wrapped__()
    assert [d for d in found if not d.name.startswith("topic ")] == [
        ("json", "json\n    Mod.\n\njson.A\n    Cls.\n\n    More.\n\njson.A.f(self, x=1)\n    Do.")
    ]
    assert len(found) > 50
    monkeypatch.setattr(texts, "FEWEST_OF_PYTHON", 1000)
    with pytest.raises(InputError, match="Name texts of your own"):
        texts.python_documents.__wrapped__()


@pytest.mark.slow
def test_documentation_of_this_python(tmp_path: Path) -> None:
    found = texts.corpus((), tmp_path)
    assert found.counts()["train_bytes"] > 1_000_000
    names = {document.name for document in found.train + found.val + found.test}
    assert {"topic if", "json.decoder", "argparse"} <= names
    assert "antigravity" not in sys.modules


# --- tokens, batches, bits


def test_tokens_write_every_text() -> None:
    tokens = BytePairs.learn([paragraph(number) for number in range(50)], 320)
    assert tokens.vocabulary == 320
    assert BytePairs.learn([paragraph(number) for number in range(50)], 320) == tokens
    for text in ("the value of a list", "  <end>\n\n\tčau 🙂", ""):
        encoded = tokens.encode(text)
        assert tokens.decode(encoded) == text
        assert int(tokens.sizes()[encoded].sum()) == len(text.encode())
        assert tokens.end not in encoded
    assert len(tokens.encode("the value of a list")) < 10
    assert tokens.stream(["a", "b"]).tolist() == [319, *tokens.encode("a"), 319, *tokens.encode("b"), 319]
    assert tokens.sizes()[319] == 0
    plain = BytePairs.learn(["the the the"], 257)
    assert len(plain.encode("the")) == 3


def test_batches_are_drawn_from_seed_and_step() -> None:
    stream = torch.arange(100)
    drawn = recipe.training_batch(stream, 3, 7, 50, 9)
    assert drawn.shape == (50, 10)
    assert bool((drawn.diff(dim=1) == 1).all())
    assert torch.equal(drawn, recipe.training_batch(stream, 3, 7, 50, 9))
    assert not torch.equal(drawn, recipe.training_batch(stream, 3, 8, 50, 9))
    ends = recipe.training_batch(stream, 3, 7, 5000, 9)
    assert (int(ends.min()), int(ends.max())) == (0, 99)


def test_bits_per_byte_of_a_network_that_knows_nothing() -> None:
    class Uniform(nn.Module):
        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
            return torch.zeros(*tokens.shape, 256), None

    stream = torch.randint(256, (65,))
    losses = recipe.token_losses(Uniform(), stream, 16, CPU)
    assert losses.shape == (4, 16)
    assert recipe.bits_per_byte(losses, torch.ones(64, dtype=torch.int64)) == pytest.approx(8)
    assert recipe.bits_per_byte(losses, torch.full((64,), 2)) == pytest.approx(4)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_judge_the_same_tokens_with_more_context(kind: Any) -> None:
    torch.manual_seed(1)
    model = equal_shapes(40, 24, 2, 2)[kind].build().double().eval()
    stream = torch.randint(40, (65,))
    for window in (8, 64):
        losses = recipe.token_losses(model, stream, window, CPU)
        for start in range(0, 64, window):
            logits = model(stream[None, start : start + window])[0][0]
            truth = F.cross_entropy(logits, stream[start + 1 : start + window + 1], reduction="none")
            torch.testing.assert_close(losses[start // window], truth.float().double(), rtol=1e-5, atol=1e-5)


# --- the networks


@pytest.mark.parametrize("sizes", [(1024, 128, 4, 4), (300, 64, 2, 4), (5000, 96, 12, 6), (1024, 128, 1, 2)], ids=str)
@pytest.mark.parametrize("variant", ["tnl", "tnl_v2"])
def test_both_networks_have_as_many_parameters(sizes: tuple[int, int, int, int], variant: Any) -> None:
    shapes = equal_shapes(*sizes, variant=variant)
    counts = {kind: sum(p.numel() for p in shape.build().parameters()) for kind, shape in shapes.items()}
    assert abs(counts["tnl"] - counts["softmax"]) <= TOLERANCE * counts["tnl"]
    assert {kind: shape.parameters for kind, shape in shapes.items()} == counts


def test_sizes_that_are_not_equal_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TOLERANCE", 1e-9)
    with pytest.raises(ValueError, match="widen both"):
        equal_shapes(300, 24, 2, 2)


@pytest.mark.parametrize("variant", ["tnl", "tnl_v2"])
@pytest.mark.parametrize("kind", KINDS)
def test_writing_step_by_step_is_reading_the_whole(kind: Any, variant: Any) -> None:
    """The recurrent form, token by token from the state, against the parallel one over all of them."""
    torch.manual_seed(2)
    model = equal_shapes(40, 24, 3, 2, variant=variant)[kind].build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    prompt = torch.randint(40, (150,))  # more than a block of the operator
    generator = torch.Generator().manual_seed(0)
    written = continuation(model, prompt, 20, temperature=0, generator=generator)
    whole = torch.cat([prompt, written])
    assert torch.equal(model(whole[None])[0][0, 149:-1].argmax(-1), written)
    assert len(set(written.tolist())) > 2
    warm = [continuation(model, prompt, 20, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*warm)
    assert not torch.equal(warm[0], written)


@pytest.mark.parametrize("kind", KINDS)
def test_model_files_hold_the_weights_as_they_are(kind: Any, tmp_path: Path) -> None:
    tokens = BytePairs.learn(["the words"], 258)
    shape = equal_shapes(tokens.vocabulary, 24, 2, 2)[kind]
    model = shape.build()
    write_language_file(tmp_path / "m.safetensors", LanguageModel(model, shape, tokens), {})
    read = read_language_file(tmp_path / "m.safetensors")
    assert (read.shape, read.tokens) == (shape, tokens)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), read.network.parameters(), strict=True))
    assert read_tensors(tmp_path / "m.safetensors")[1]["head.weight"].dtype == torch.float32
    wrong = LanguageModel(model, replace(shape, vocabulary=300), tokens)
    write_language_file(tmp_path / "forged.safetensors", wrong, {})
    with pytest.raises(UsageError, match="another architecture"):
        read_language_file(tmp_path / "forged.safetensors")
    write_weights(tmp_path / "other.safetensors", model.state_dict(), {"format": "attn-lookup", "version": 1})
    with pytest.raises(UsageError, match="no language model of attn"):
        read_language_file(tmp_path / "other.safetensors")


def test_what_is_kept_and_remembered() -> None:
    shapes = equal_shapes(40, 24, 2, 2)
    networks = {kind: shape.build() for kind, shape in shapes.items()}
    timed = speeds(networks, torch.randint(40, (50,)), (32, 64), 2, CPU)
    state = {of: row["state_bytes"] for of, row in timed.items()}
    d = 12
    assert state["tnl", 32] == state["tnl", 64] == 4 * 2 * (2 * d * d + d * d)  # the first layer's keys are doubled
    assert state["softmax", 64] == 2 * state["softmax", 32] == 4 * 2 * 2 * 24 * 64
    assert all(row[name] > 0 for row in timed.values() for name in ("train_tokens_s", "decode_tokens_s"))

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(40, 3))

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
            return (self.weight[tokens] ** 2).repeat(1, 1, 4), None

    # indices twice (8 bytes), 3 channels squared, log-softmax of 12, and what cross-entropy needs beside
    once, twice = (kept_bytes(Squared(), torch.zeros(1, length + 1, dtype=torch.int64)) for length in (50, 100))
    assert 50 * (8 + 4 * 3 + 4 * 12) <= twice - once <= 50 * (4 * 8 + 4 * 3 + 4 * 12)


# --- runs


def test_a_run_and_its_report(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    report = train_tnl(options(tmp_path / "run", notes, seeds=2))
    item = report.items[0]
    rows = report.sections[0].rows()
    assert [(row["network"], row["tokens"]) for row in rows] == [(kind, n) for kind in KINDS for n in (16, 32, 64)]
    assert all(row["bits_std"] > 0 for row in rows)
    assert item.metrics["tnl_bits"] == rows[0]["bits"]
    assert item.metrics["softmax_bits_longest"] == rows[-1]["bits"]
    assert abs(item.metrics["parameters"] / item.metrics["softmax_parameters"] - 1) <= TOLERANCE
    assert item.details["sha256"] == texts.corpus((str(notes),), tmp_path / "run").sha256
    assert {section.name for section in item.sections} >= {"bits_by_length", "speed_ratio", "sample_tnl"}
    places = [tmp_path / "run" / name for name in ("", "softmax", "seed-6", "seed-6/softmax")]
    models = [read_language_file(place / "model.safetensors") for place in places]
    assert [model.shape.kind for model in models] == ["tnl", "softmax"] * 2
    # bits are those of the files
    data = texts.corpus((str(notes),), tmp_path / "run")
    test = models[0].tokens.stream(document.text for document in data.test)
    judged = test[: 1 + (len(test) - 1) // 64 * 64]
    sizes = models[0].tokens.sizes()[judged[1:]]
    found = [recipe.bits_per_byte(recipe.token_losses(m.network, judged, 16, CPU), sizes) for m in models[::2]]
    assert math.fsum(found) / 2 == pytest.approx(rows[0]["bits"])
    assert "| softmax | 64 |" in (tmp_path / "run" / "model.md").read_text(encoding="utf-8")
    assert item.details["judged_tokens"] == len(judged) - 1

    (notes / "00.txt").write_text("another text", encoding="utf-8")
    with pytest.raises(OptionError, match="another run"):
        train_tnl(options(tmp_path / "run", notes))


def test_lengths_that_cannot_be_judged_are_told(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    report = train_tnl(options(tmp_path / "run", notes, steps=2, lengths=(24, 32, 2**11), sample=0))
    rows = {row["tokens"]: row for row in report.sections[0].rows() if row["network"] == "tnl"}
    assert sorted(rows) == [16, 24, 32, 2**11]
    assert [length for length, row in rows.items() if "bits" in row] == [16, 32]
    assert any("no loss at 24, 2k" in notice for notice in report.notices)


def test_a_run_that_was_stopped_goes_on(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    train_tnl(options(tmp_path / "whole", notes))
    draw, steps = recipe.training_batch, iter(range(30))

    def until(*given: Any) -> Any:
        if next(steps) == 7:
            raise KeyboardInterrupt
        return draw(*given)

    monkeypatch.setattr(recipe, "training_batch", until)
    assert train_tnl(options(tmp_path / "stopped", notes)).left
    monkeypatch.setattr(recipe, "training_batch", draw)
    train_tnl(options(tmp_path / "stopped", notes))
    for place in ("", "softmax"):
        states = [read_tensors(tmp_path / name / place / "model.safetensors")[1] for name in ("whole", "stopped")]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_bit_for_bit(notes: Path, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        return [
            sys.executable, "-m", "attn", "train", "tnl", "--data", str(notes), "-o", str(tmp_path / name), "--steps",
            "300", "--warmup", "1", "--evaluate-every", "20", "--length", "16", "--judged", "64", "--width", "24",
            "--heads", "2", "--layers", "2", "--vocabulary", "300", "--lengths", "16", "--sample", "0", "--threads",
            "1", "-q",
        ]  # fmt: skip

    subprocess.run(command("whole"), check=True)
    process = subprocess.Popen(command("killed"))
    lines = tmp_path / "killed" / "metrics.jsonl"
    while not (lines.exists() and lines.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "softmax" / "model.safetensors").exists()
    subprocess.run(command("killed"), check=True)
    for place in ("", "softmax"):
        states = [read_tensors(tmp_path / name / place / "model.safetensors")[1] for name in ("whole", "killed")]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 27}, "multiple of twice"),
        ({"judged": 8}, "less than a sequence"),
        ({"lengths": (4, 16)}, "8 tokens at least"),
        ({"warmup": 4}, "leave nothing"),
    ],
)
def test_refuses(notes: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options(tmp_path, notes, **changes)


def test_too_few_tokens_for_a_sequence(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no more than a sequence of 4096"):
        train_tnl(options(tmp_path / "run", notes, length=4096, judged=4096))
