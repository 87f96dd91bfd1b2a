"""The recipe of perturbed attention: what is read, how it is perturbed, and runs that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from attn.core.bundles import Compute
from attn.core.errors import InputError, UsageError
from attn.core.fit import loop as trainer
from attn.core.nets.attentive import perturbation
from attn.core.nets.attentive.file import read_classifier
from attn.core.nets.attentive.network import AttentiveLSTM, AttentiveShape, answer_loss
from attn.core.nets.attentive.texts import bucketed, split_text
from attn.core.options import OptionError
from attn.core.probe.text.generated import BAD, GOOD, NEGATIONS, drawn_texts
from attn.core.train.attention_at import recipe
from attn.core.train.attention_at.data import prepare
from attn.core.train.attention_at.options import AttentionAtOptions, TextSet
from attn.core.train.attention_at.run import train_attention_at

SMALL = TextSet(drawn=40)


def options(folder: Path, **changes: Any) -> AttentionAtOptions:
    small = AttentionAtOptions(
        folder, SMALL, beside=(), embedding=8, hidden=4, epochs=2, batch=16,
        compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


def test_what_is_drawn_is_decided_by_its_cues() -> None:
    wrong = 0
    texts = drawn_texts(300, pair=False)
    assert [text.split for text in texts].count("val") == 100
    for text in texts:
        words = text.text.split()
        cues = [
            (word in GOOD) != (words[at - 1] in NEGATIONS) for at, word in enumerate(words) if word in (*GOOD, *BAD)
        ]
        assert len(cues) % 2
        wrong += (2 * sum(cues) > len(cues)) != (text.label == "good")
    assert 0.02 < wrong / len(texts) < 0.09
    for story in drawn_texts(30, pair=True):
        told = [sentence.split() for sentence in story.text.split(" .") if sentence]
        asked = story.query.split()[2]
        assert [sentence[-1] for sentence in told if sentence[0] == asked][-1] == story.label


def test_batches_are_of_like_length_and_hold_every_text_once() -> None:
    lengths = np.random.default_rng(1).integers(1, 100, 200)
    batches = bucketed(lengths, 16, (3, 0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    assert np.mean([lengths[rows].std() for rows in batches]) < lengths.std() / 2
    assert any((a != b).any() for a, b in zip(batches, bucketed(lengths, 16, (3, 1)), strict=True) if len(a) == len(b))


def test_words() -> None:
    assert split_text("It's GOOD, really.", "whitespace") == ["it's", "good,", "really."]
    assert split_text("It's GOOD, really.", "words") == ["it's", "good", ",", "really", "."]


def test_moves_of_words_and_of_predictions() -> None:
    """Sato's directions, one word after the other; and the divergence that a virtual direction makes."""
    torch.manual_seed(2)
    texts = prepare(replace(SMALL, pair=True)).train
    network = AttentiveLSTM(AttentiveShape(len(texts.vocabulary.words), 8, 4, 6, "dot", True, True)).double()
    network.counts[0] = 0
    batch = texts.batch([0, 1, 2])
    vectors = network.vectors()
    assert float(vectors[1:].detach().mean(0).abs().max()) < 1e-9
    read = network.read(batch, vectors)
    g = perturbation.gradient(answer_loss(network.answer(read)[0], batch.labels), read.embedded)
    near = perturbation.nearest_words(vectors, 3)
    r = perturbation.word_iat(g, batch.ids, read.embedded, vectors, near, 2.0)
    for row in range(3):
        alpha, towards = [], []
        for at, word in enumerate(batch.ids[row].tolist()):
            cosines = F.cosine_similarity(vectors[word], vectors[1:], dim=-1).tolist()
            order = sorted((n for n in range(1, len(vectors)) if n != word), key=lambda n: -cosines[n - 1])[:3]
            units = [F.normalize(vectors[n] - read.embedded[row, at], dim=0).detach() for n in order]
            towards.append(units)
            alpha.append([float(unit @ g[row, at]) * (word > 0) for unit in units])
        norm = sum(a * a for line in alpha for a in line) ** 0.5
        wanted = [
            sum(2 * a / norm * unit for a, unit in zip(*pair, strict=True)) for pair in zip(alpha, towards, strict=True)
        ]
        torch.testing.assert_close(r[row], torch.stack(wanted).detach())
    r, moved = perturbation.virtual(network, read, 1.0, torch.Generator().manual_seed(1))
    before, after = (network.answer(read, x)[0].log_softmax(-1) for x in (None, r))
    torch.testing.assert_close(moved, F.kl_div(after, before, log_target=True, reduction="batchmean"))
    torch.testing.assert_close(r.norm(dim=1), torch.ones(3).double())
    others = [perturbation.random_direction(r, read.mask, 1.0, torch.Generator().manual_seed(n)) for n in range(9)]
    ways = [perturbation.divergence(before.exp().detach(), network.answer(read, x)[0]) for x in others]
    assert moved > torch.stack(ways).median()


@pytest.mark.parametrize("method", ["vanilla", "rp", "iat", "vat", "word-at", "word-iat"])
def test_what_a_step_is_made_of(method: str, tmp_path: Path) -> None:
    """The clean loss, and another that is larger by as much as lambda says; gradients everywhere."""
    given = options(tmp_path, method=method, epsilon=1.0)
    texts = prepare(given.texts)
    torch.manual_seed(1)
    network = AttentiveLSTM(AttentiveShape(len(texts.vocabulary.words), 8, 4, normalised=method in recipe.ON_WORDS))
    parts = (recipe.Regime(method, method, 1.0), texts.train, texts.held_out)
    cpu, losses = torch.device("cpu"), []
    for weight in (0.0, 1.0, 2.0):
        trained = recipe.AttentiveRecipe(network, *parts, replace(given, adversarial_weight=weight), cpu)
        losses.append(float(trained.loss(3).detach()))
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], abs=1e-5)
    if method == "vanilla":
        assert losses[0] == losses[1]
    elif method != "vat":
        assert losses[1] > 1.5 * losses[0]
    recipe.AttentiveRecipe(network, *parts, given, torch.device("cpu")).loss(3).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"beside": ("word-iat", "vat"), "sweep": (0.5,)}
    whole = train_attention_at(options(tmp_path / "whole", **changes))
    rows = whole.sections[0].rows()
    assert [row["training"] for row in rows] == ["at", "word-iat", "vat", "epsilon-0.5"]
    assert rows[0]["pearson"] == whole.items[0].metrics["pearson"]
    batch, steps = recipe.AttentiveRecipe._batch, iter(range(100))

    def until(*given: Any) -> Any:
        if next(steps) == 10:
            raise KeyboardInterrupt
        return batch(*given)

    monkeypatch.setattr(recipe.AttentiveRecipe, "_batch", until)
    assert train_attention_at(options(tmp_path / "stopped", **changes)).left
    monkeypatch.setattr(recipe.AttentiveRecipe, "_batch", batch)
    went_on = train_attention_at(options(tmp_path / "stopped", **changes))
    assert went_on.sections[0].rows() == rows
    for name in ("", "word-iat", "vat", "epsilon-0.5"):
        files = [tmp_path / run / name / "model.safetensors" for run in ("whole", "stopped")]
        states = [read_classifier(file).network.state_dict() for file in files]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    with pytest.raises(UsageError, match="another run"):
        train_attention_at(options(tmp_path / "whole", epsilon=1.0, **changes))
    (tmp_path / "whole" / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(UsageError, match="safetensors"):
        read_classifier(tmp_path / "whole" / "model.safetensors")


def test_nan_stops_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = recipe.AttentiveRecipe.loss
    monkeypatch.setattr(
        recipe.AttentiveRecipe, "loss", lambda self, step: loss(self, step) * (float("nan") if step == 4 else 1)
    )
    with pytest.raises(FloatingPointError, match="at step 4: lower the learning rate"):
        train_attention_at(options(tmp_path))
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["step"] == 3


def test_texts_of_a_user(tmp_path: Path) -> None:
    """Labels as words, a text over two lines, texts that are empty, too long, or of unknown words alone."""
    lines = ["review,stars", *(f'"it was fine, truly {n}",good\n"bad\nand {n}",bad' for n in range(10))]
    (tmp_path / "own.csv").write_text("\n".join([*lines, '"",good', f"{'very ' * 30}long,bad"]) + "\n")
    (tmp_path / "test.csv").write_text("review,stars\nit was bad,bad\nfine,good\nzzz,good\n")
    texts = TextSet(
        tmp_path / "own.csv", tmp_path / "test.csv", label_column="stars", positive="bad", longest=20, tokens="words"
    )
    found = prepare(texts)
    assert found.vocabulary.labels == ("good", "bad")
    assert "badand" not in found.vocabulary.words
    assert len(found.test) == 2
    told = " ".join(found.notices)
    for part in (
        "1 texts left out, empty",
        "1 texts left out, longer than 20",
        "test: 1 texts left out, no known word",
    ):
        assert part in told
    given = options(tmp_path / "run", texts=texts)
    assert train_attention_at(given).items[0].metrics.keys() >= {"f1", "auc", "kendall"}


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("", {}, "holds no row"),
        ("a,b\n1,2\n", {}, "line 2 has no column label"),
        ("text,label\n1,2\n", {"text_column": "body"}, "line 2 has no column 'body'; it has 'text', 'label'"),
        ("text,label\na,x\nb,\n", {}, "line 3 has an empty label"),
        ("text,label\n" + "a,x\n" * 30, {}, "all texts have the label 'x'"),
        ("text,label\na,x\na,x\nb,y\nb,y\n", {}, "no text of val can be read"),
        ("text,label\n" + "a,x\nb,y\n" * 30, {"positive": "z"}, "none of two labels; there are: x, y"),
        ("text,label\n" + "a,x\nb,y\n" * 30, {"pair": True}, "no column query"),
        ("text,label,split\na,x,train\nb,y,train\n", {}, "no rows of test"),
        ("text,label\na,x,y\n", {}, "line 2 has more columns"),
        ("text,text,label\na,a,y\n", {}, "names the column 'text' twice"),
        (b"text,label\n\xff\xfe,x\n", {}, "line 2 is not UTF-8"),
    ],
)  # fmt: skip
def test_refuses_texts(content: str | bytes, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((InputError, OptionError), match=message):
        prepare(TextSet(tmp_path / "set.csv", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"released": True, "iat_mode": "word"}, "says otherwise"),
        ({"sweep": (0.0,)}, "no norm"),
        ({"epsilon": 0.0}, "above 0"),
    ],
)
def test_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options(tmp_path, **changes)
    with pytest.raises(OptionError, match="about pairs"):
        TextSet(answers_in_text=True)
