"""The recipe of superlinear attention: what is asked, what the four attentions differ in, and runs that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attn.core.attention import attention
from attn.core.attention.equations import masked_attention
from attn.core.attention.superlinear.operator import SELECT
from attn.core.attention.superlinear.settings import Settings
from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.fit import loop as trainer
from attn.core.options import OptionError
from attn.core.train.superlinear import recipe
from attn.core.train.superlinear.data import ASK, VALUES, draw_lookups
from attn.core.train.superlinear.network import LookupNetwork, LookupShape, read_lookup
from attn.core.train.superlinear.options import KEYS, SuperlinearOptions
from attn.core.train.superlinear.run import ROUTINGS, train_superlinear

SHAPE = LookupShape(width=64, num_spans=2, sw_index=2, memory=0.9)


def options(folder: Path, **changes: Any) -> SuperlinearOptions:
    small = SuperlinearOptions(
        folder, length=64, every=16, width=64, steps=4, warmup=1, batch=2, judged=8, evaluate_every=2,
        compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


def test_questions_are_about_what_was_defined_before() -> None:
    """Read from left to right, as a person would."""
    drawn = draw_lookups((3,), 5, 256, 16)
    assert drawn.asked.shape == (5, 16)
    back = []
    for tokens, asked, answer, place in zip(drawn.tokens, drawn.asked, drawn.answer, drawn.place, strict=True):
        known: dict[int, tuple[int, int]] = {}
        answers = []
        for at, (token, following) in enumerate(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True)):
            if token == ASK:
                value, where = known[following]
                answers.append((at + 1, value, where))
            elif 1 <= token <= KEYS and tokens[at - 1] != ASK:
                assert token not in known
                known[token] = following - 1 - KEYS, at + 1
        assert len(known) == 16
        assert answers == list(zip(asked.tolist(), answer.tolist(), place.tolist(), strict=True))
        assert all(0 <= value < VALUES for _, value, _ in answers)
        back += [at - where for at, _, where in answers]
    assert max(back) > 128
    assert min(back) < 32
    assert torch.equal(drawn.tokens, draw_lookups((3,), 5, 256, 16).tokens)
    assert not torch.equal(drawn.tokens, draw_lookups((4,), 5, 256, 16).tokens)


def test_the_window_sees_as_many_keys_as_superlinear_attention() -> None:
    for length in (40, 300, 1000):
        window = SHAPE.window(length)
        seen = [sum(min(t, w) for t in range(1, length + 1)) / length for w in (window, window - 1)]
        assert seen[0] >= min(SHAPE.keys(length), (length + 1) / 2)
        assert seen[1] < SHAPE.keys(length)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_networks_attend_to_what_they_say(routing: Any) -> None:
    torch.manual_seed(1)
    network = LookupNetwork(SHAPE, routing)
    drawn = draw_lookups((7,), 2, 160, 16)
    logits = network(drawn.tokens, drawn.asked)
    assert logits.shape == (2, 10, VALUES)
    q, k, v, q_search = network.look(drawn.tokens)[1]
    here, key = torch.arange(160)[:, None], torch.arange(160)
    seen = (key <= here)[None, None].expand(2, 1, -1, -1)
    if routing == "window":
        seen = seen & (key > here - SHAPE.window(160))
        truth = masked_attention(q, k, v, seen[0, 0], scale=None)
    elif routing == "dense":
        truth = masked_attention(q, k, v, seen[0, 0], scale=None)
    else:
        settings = {**SHAPE.settings, "q_search": q_search}
        seen = SELECT(q, k, settings=Settings(**settings)).mask(torch.arange(160))
        truth = attention("superlinear", q, k, v, causal=True, backend="reference", **settings)
    torch.testing.assert_close(network.attend(network.look(drawn.tokens)[1]), truth, rtol=1e-4, atol=1e-5)
    row = torch.arange(2)[:, None]
    assert torch.equal(network.reached(drawn)[..., 0], seen[row, 0, drawn.asked, drawn.place])


def test_gaps_are_counted_to_the_nearest_anchor_behind() -> None:
    """Of the query at 79: anchors at 79 + 1 - i^2, from i = 3 on; answers further back than its window of 8 keys."""
    back = torch.arange(80)
    judged = recipe.Judged(back % 2 == 0, torch.stack([back > 0, back < 0], 1), back)
    gaps = [min(a - (79 - n) for i in range(3, 9) if (a := 80 - i * i) >= 79 - n) for n in range(8, 80)]
    rows = recipe.by_gap(judged, SHAPE, 80)
    assert [(row["gap"], row["questions"]) for row in rows] == [
        (name, count) for name, low, high in (("0 to 7", 0, 8), ("8 to 15", 8, 16), ("16 to 31", 16, 32))
        if (count := sum(low <= gap < high for gap in gaps))
    ]  # fmt: skip
    assert rows[0]["reached"] == 1
    assert rows[0]["reached_by_head"] == 0.5
    assert 0.4 < rows[0]["accuracy"] < 0.6


def test_only_frozen_routing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    report = train_superlinear(options(tmp_path / "run"))
    rows = report.sections[0].rows()
    assert [(row["attention"], row["length"]) for row in rows] == [(r, n) for r in ROUTINGS for n in (64, 128, 256)]
    assert report.items[0].metrics["dense_4x"] == rows[-1]["accuracy"]
    assert rows[-1]["reached"] == 1
    torch.manual_seed(options(tmp_path).compute.seed)
    begun = LookupNetwork(LookupShape(64, 3, 3, 0.96)).state_dict()
    ended = {r: torch.load(tmp_path / "run" / ("" if r == "superlinear" else r) / "best.pt") for r in ROUTINGS}
    for routing, moves in {"superlinear": True, "frozen": False, "window": False, "dense": False}.items():
        assert torch.equal(begun["q_search.weight"], ended[routing]["q_search.weight"]) != moves
        assert not torch.equal(begun["q.weight"], ended[routing]["q.weight"])
    assert "| frozen | 256 |" in (tmp_path / "run" / "model.md").read_text()

    again = options(tmp_path / "more", weights=tmp_path / "run" / "model.safetensors", length=128, every=32)
    assert train_superlinear(again).items[0].status == "ok"
    with pytest.raises(OptionError, match=r"width\W* 64, not 192"):
        train_superlinear(replace(again, output=tmp_path / "wide", width=192))
    with pytest.raises(OptionError, match=r"memory\W* 0.96, not 0.5"):
        train_superlinear(replace(again, output=tmp_path / "other", memory=0.5))
    (tmp_path / "run" / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(UsageError, match="safetensors"):
        train_superlinear(replace(again, output=tmp_path / "bad"))


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    whole = train_superlinear(options(tmp_path / "whole")).items[0]
    draw, steps = recipe.training_lookups, iter(range(30))

    def until(*given: Any) -> Any:
        if next(steps) == 7:
            raise KeyboardInterrupt
        return draw(*given)

    monkeypatch.setattr(recipe, "training_lookups", until)
    assert train_superlinear(options(tmp_path / "stopped")).left
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    monkeypatch.setattr(recipe, "training_lookups", draw)
    went_on = train_superlinear(options(tmp_path / "stopped")).items[0]
    assert went_on.metrics == whole.metrics
    models = [read_lookup(tmp_path / name / "model.safetensors").state_dict() for name in ("whole", "stopped")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 65}, "must be even"),
        ({"every": 40}, "less than two definitions"),
        ({"length": 4096, "every": 16}, "there are 512. Give 32 or more"),
        ({"width": 96}, "multiple of 64"),
        ({"warmup": 4}, "leave nothing"),
    ],
)
def test_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options(tmp_path, **changes)
