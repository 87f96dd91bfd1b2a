"""Choosing a temperature on one half of the queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attn.core.errors import UsageError
from attn.core.retrieve.data.formats import EvalSet
from attn.core.retrieve.verbs.tune import choose, halves, tune_temperature

QRELS = {f"q{i}": {"good": 1} for i in range(8)}
WELL, ILL = {"good": 2.0, "bad": 1.0}, {"good": 1.0, "bad": 2.0}


def run(well: set[str]) -> dict[str, dict[str, float]]:
    return {query: WELL if query in well else ILL for query in QRELS}


def test_halves_share_nothing_and_follow_the_seed() -> None:
    qrels = QRELS | {"none": {"good": 0}}
    first, second = halves(qrels, 1)
    assert len(first) == len(second) == 4
    assert set(first) | set(second) == set(QRELS)
    assert halves(qrels, 1)[0] == first
    assert any(halves(qrels, seed)[0] != first for seed in range(2, 6))


def test_few_queries() -> None:
    with pytest.raises(UsageError, match="3 have relevant documents"):
        halves({q: QRELS[q] for q in ("q0", "q1", "q2")}, 0)


def test_choice_is_made_on_the_first_half_only() -> None:
    """0.5 is best on the first half and worst on the other: it is chosen, and the loss is shown."""
    first, second = halves(QRELS, 0)
    runs = {1.0: run(set(second)), 0.5: run(set(first)), 0.8: run({min(first)})}
    found = choose(runs, first, second, "hit@1", 0)
    assert found.temperature == 0.5
    assert found.queries == (4, 4)
    table = {row["temperature"]: (row["chosen_on"], row["held_out"]) for row in found.table}
    assert table == {1.0: (0.0, 1.0), 0.5: (1.0, 0.0), 0.8: (0.25, 0.0)}
    assert (found.held_out.difference, found.held_out.low, found.held_out.high) == (-1, -1, -1)


def test_of_equal_ones_the_nearest_to_one() -> None:
    first, second = halves(QRELS, 0)
    same = run(set(QRELS))
    assert choose({0.5: same, 0.9: same, 1.0: same}, first, second, "ndcg@10", 0).temperature == 1.0
    assert choose({0.5: same, 0.9: same, 1.0: run(set())}, first, second, "ndcg@10", 0).temperature == 0.9


def test_whole(tmp_path: Path) -> None:
    from encoder_folders import TEXTS, text_folder

    documents = {str(i): text for i, text in enumerate(TEXTS)}
    data = EvalSet("toy", "beir", "test", documents, dict(documents), {key: {key: 1} for key in documents})
    found: Any = tune_temperature(str(text_folder(tmp_path)), data, (0.5,), seed=3, metric="hit@1")
    assert [row["temperature"] for row in found.table] == [1.0, 0.5]
    assert all(row["chosen_on"] == row["held_out"] == 1 for row in found.table)  # every text finds itself
    assert (found.temperature, found.queries, found.seed) == (1.0, (3, 3), 3)
    assert found.held_out.low == found.held_out.high == 0
