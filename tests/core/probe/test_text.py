"""``attn probe text``: what it says of trained attention, on drawn texts and on files, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.nets.attentive.file import read_classifier, write_classifier
from attn.core.nets.attentive.network import AttentiveLSTM, AttentiveShape
from attn.core.nets.attentive.texts import KnownWords
from attn.core.options import OptionError
from attn.core.probe.text.generated import BAD, FILLERS, GOOD, NEGATIONS, drawn_texts
from attn.core.probe.text.measure import divergence_of_attention, judge
from attn.core.probe.text.options import LabelledSets, TextOptions, parse_models
from attn.core.probe.text.run import run, untrained_like
from attn.core.report.sections import Table, Trust, Words

WORDS = tuple(sorted({*FILLERS, *GOOD, *BAD, *NEGATIONS}))


def classifier(
    folder: Path, *, seed: int = 0, words: tuple[str, ...] = WORDS, pair: bool = False, labels=("bad", "good")
):
    """The folder of a model with start values."""
    torch.manual_seed(seed)
    outputs = 1 if len(labels) == 2 else len(labels)
    network = AttentiveLSTM(AttentiveShape(len(words), 8, 4, outputs, "additive", pair, False))
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3)  # start values attend too evenly to tell anything apart
    folder.mkdir(parents=True)
    write_classifier(
        folder / "model.safetensors", network, KnownWords(words, labels, "whitespace", 1, 60, pair), "at", {}
    )
    return folder


def options(model: Path, *inputs: Any, **changes: Any) -> TextOptions:
    given = LabelledSets(tuple(map(str, inputs)), str(model.parent / "out"))
    return TextOptions(str(model), given, device="cpu", **{"drawn": 30, **changes})


def section(item: Any, name: str) -> Any:
    return next(one for one in item.sections if one.name == name)


def test_drawn_texts_and_models_beside_each_other(tmp_path: Path) -> None:
    model, other = classifier(tmp_path / "a"), classifier(tmp_path / "b", seed=1)
    report = run(options(model, "generated", compare=(str(other),), show=2))
    (item,) = report.items
    assert item.status == "ok"
    rows = section(item, "models").rows()
    assert [row["model"] for row in rows] == [str(model), str(other), "untrained"]
    assert rows[0]["jsd"] == 0
    assert rows[0]["same_answer"] == 1
    assert rows[1]["jsd"] > 0
    texts = section(item, "texts").rows()
    assert len(texts) == 30
    assert item.metrics["texts"] == 30
    words = [one for one in item.sections if isinstance(one, Words)]
    assert len(words) == 2 * 4  # two texts: attention of two models, other attention, gradients
    assert all(max(weight for _, weight in one.words) == pytest.approx(1) for one in words)
    assert isinstance(section(item, "believed"), Trust)
    with np.load(item.files["arrays"]) as arrays:
        assert arrays["attention"].shape[:2] == (2, 30)
        assert np.nansum(arrays["attention"][0], 1) == pytest.approx(np.ones(30), abs=1e-6)
        assert arrays["attacked"].shape == (2, 2, len(arrays["norms"]))


def test_numbers_are_those_of_the_measure(tmp_path: Path) -> None:
    model = classifier(tmp_path / "a")
    (item,) = run(options(model, "generated")).items
    known = read_classifier(model / "model.safetensors")
    texts = known.vocabulary.encode([row for row in drawn_texts(30, pair=False) if row.split == "test"])
    found = judge(known.network, texts.batches(7), seed=0)
    assert item.metrics["kendall"] == pytest.approx(found.metrics()["kendall"], abs=1e-6)
    assert item.metrics["accuracy"] == found.metrics()["accuracy"]


def test_a_file_is_read_as_the_recipe_reads_it(tmp_path: Path) -> None:
    model, file = classifier(tmp_path / "a"), tmp_path / "texts.csv"
    rows = [f'"{row.text}",{row.label}' for row in drawn_texts(30, pair=False)]
    file.write_text("\n".join(["text,label", *rows, '"zyx wvu",good']))
    (item,) = run(options(model, file)).items
    assert any("a fifth is held out" in warning for warning in item.warnings)
    assert 12 <= item.metrics["texts"] <= 16  # a fifth of each label of 70
    (item,) = run(
        options(model, file, part="all", placement=replace(options(model, file).placement, overwrite=True))
    ).items
    assert item.metrics["texts"] == len(rows)
    assert any("1 of" in warning and "no known word" in warning for warning in item.warnings)
    document = json.loads(Path(item.files["facts"]).read_text())
    assert document["facts"]["part"] == "all"


def test_pairs(tmp_path: Path) -> None:
    stories = drawn_texts(30, pair=True)
    words = tuple(sorted({word for row in stories for word in f"{row.text} {row.query}".split()}))
    rooms = tuple(sorted({row.label for row in stories}))
    (item,) = run(options(classifier(tmp_path / "a", words=words, pair=True, labels=rooms), "generated")).items
    assert item.metrics["texts"] == 30
    assert "macro_f1" in section(item, "models").rows()[0]


def test_a_broken_file_does_not_stop_the_others(tmp_path: Path) -> None:
    model, good, bad = classifier(tmp_path / "a"), tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("text,label\nthe great film,good\nthe dull film,bad\n")
    bad.write_text("words,label\nthe great film,good\n")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("text,label\nzyx wvu,good\n")
    items = {Path(item.input).name: item for item in run(options(model, good, bad, foreign, part="all")).items}
    assert items["good.csv"].status == "ok"
    assert items["bad.csv"].status == items["foreign.csv"].status == "failed"
    assert "words" in items["bad.csv"].error  # the columns that are there
    assert "no known word" in items["foreign.csv"].error


def test_what_cannot_be_compared_or_read_is_refused(tmp_path: Path) -> None:
    model, other = classifier(tmp_path / "a"), classifier(tmp_path / "b", words=WORDS[:-1])
    with pytest.raises(OptionError, match="knows other words"):
        run(options(model, "generated", compare=(str(other),)))
    with pytest.raises(UsageError):
        run(options(tmp_path / "none", "generated"))
    with pytest.raises(OptionError, match="stand alone"):
        LabelledSets(("generated", "a.csv"))
    with pytest.raises(OptionError, match="has no columns"):
        options(model, "generated", text_column="text")
    assert parse_models("a, b,a") == ("a", "b")


def test_divergence_between_two_attentions() -> None:
    a = np.array([[1.0, 0.0, np.nan], [0.5, 0.5, np.nan]])
    b = np.array([[0.0, 1.0, np.nan], [0.5, 0.5, np.nan]])
    assert divergence_of_attention(a, b) == pytest.approx([np.log(2), 0.0])


def test_the_untrained_network_is_always_the_same(tmp_path: Path) -> None:
    network = read_classifier(classifier(tmp_path / "a") / "model.safetensors").network
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first = untrained_like(network).state_dict()
    assert torch.equal(before, torch.rand(1))  # the random numbers of others go on as they were
    second = untrained_like(network).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert isinstance(Table("a", []), Table)
