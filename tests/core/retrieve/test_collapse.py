"""Length collapse: each quantity against its definition, and the whole on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.retrieve.collapse import (
    cross_similarity,
    hf_ratio,
    length_collapse,
    pair_similarity,
    sigma_hc,
    slope,
    split,
)


def units(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)) + 0.5
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_pair_similarity_is_the_mean_over_pairs() -> None:
    vectors = units(7)
    cosines = [vectors[i] @ vectors[j] for i in range(7) for j in range(7) if i != j]
    assert pair_similarity(vectors) == pytest.approx(np.mean(cosines))
    assert np.isnan(pair_similarity(vectors[:1]))


def test_cross_similarity() -> None:
    vectors, rows = units(9), [np.arange(4), np.arange(4, 9)]
    found = cross_similarity(vectors, rows)
    assert (
        found[0][1]
        == found[1][0]
        == pytest.approx(np.mean([vectors[i] @ vectors[j] for i in rows[0] for j in rows[1]]))
    )
    assert found[1][1] == pytest.approx(pair_similarity(vectors[4:]))


def test_slope_has_the_sign_of_the_effect() -> None:
    centre = np.zeros(8)
    centre[0] = 1
    lengths = np.arange(10, 60)
    crowded = centre + units(50) * np.linspace(2, 0.1, 50)[:, None]  # longer texts nearer to the centre
    crowded /= np.linalg.norm(crowded, axis=1, keepdims=True)
    assert slope(lengths, crowded) > 0.7
    assert slope(lengths[::-1].copy(), crowded) < -0.7
    assert np.isnan(slope(np.full(50, 7), crowded))


def test_split_by_count_and_by_edges() -> None:
    lengths = np.array([3, 9, 4, 5, 8, 6, 7, 10])
    parts = split(lengths, 4)
    assert [sorted(lengths[rows].tolist()) for *_, rows in parts] == [[3, 4], [5, 6], [7, 8], [9, 10]]
    assert [name for name, *_ in parts] == ["3-4 tokens", "5-6 tokens", "7-8 tokens", "9-10 tokens"]
    assert [sorted(lengths[rows].tolist()) for *_, rows in split(lengths, (0, 4, 5, 6, 200))] == [
        [3, 4],
        [5],
        [6],
        [7, 8, 9, 10],
    ]
    assert len(split(np.full(9, 5), 5)) == 1  # texts of one length are one bucket


@pytest.mark.parametrize(
    ("buckets", "message"), [(0, "at least 1"), ((5,), "rising"), ((0, 9, 9), "rising"), ((500, 900), "no text")]
)
def test_bad_buckets(buckets: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(np.array([3, 4]), buckets)


def test_hf_ratio_at_its_ends() -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    assert hf_ratio(x[:1].expand(6, -1)) == pytest.approx(0, abs=1e-12)
    assert hf_ratio(x - x.mean(0)) == pytest.approx(1)
    low, high = x.mean(0).expand(6, -1), x - x.mean(0)
    assert hf_ratio(x) == pytest.approx(float((high.norm() ** 2 / (high.norm() ** 2 + low.norm() ** 2)).sqrt()))


@pytest.mark.parametrize("n", [1, 2, 17, 64])
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_power_iteration_equals_svd(n: int, spread: float) -> None:
    prob = (torch.randn(5, n, n, dtype=torch.float64) * spread).softmax(-1)
    high = prob - prob.mean(1, keepdim=True)
    expected = torch.linalg.svdvals(high)[:, 0].numpy()
    assert np.allclose(sigma_hc(prob, exact=True), expected, atol=1e-12)
    assert np.allclose(sigma_hc(prob), expected, rtol=1e-4, atol=1e-9)


def test_sink_is_rank_one_and_uniform_is_nothing() -> None:
    """All rows alike: nothing of high frequency passes. Identity: everything does."""
    assert sigma_hc(torch.full((1, 8, 8), 1 / 8)) == pytest.approx(0, abs=1e-12)
    assert sigma_hc(torch.eye(8)[None]) == pytest.approx(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from encoder_folders import text_folder

    return text_folder(tmp_path)


@pytest.fixture
def encoder(folder: Path) -> Any:
    from attn.core.retrieve.encoders.load import load

    return load(str(folder))


def texts() -> list[str]:
    generator = np.random.default_rng(0)
    words = "cat dog river town old new red blue near far".split()
    return [" ".join(generator.choice(words, n)) for n in [2, 3, 4, 5, 8, 9, 10, 12, 20, 22, 25, 28, 60]]


def test_tables(encoder: Any) -> None:
    found = length_collapse(encoder, texts(), buckets=3, measured=2, cuts=(4, 8, 16, 300))
    assert [row["texts"] for row in found.buckets] == [5, 4, 4]
    assert [row["truncated"] for row in found.buckets] == [0, 0, 1]
    names = [row["bucket"] for row in found.buckets]
    assert [[row["bucket"], *list(row)[1:]] for row in found.cross] == [[name, *names] for name in names]
    for row, line in zip(found.buckets, found.cross, strict=True):
        assert line[row["bucket"]] == row["pair_similarity"]
    assert [(row["layer"], row["bucket"]) for row in found.layers] == [(i, name) for name in names for i in range(3)]
    assert all(0 < row["hf_ratio"] <= 1 and ("sigma" in row) == (row["layer"] > 0) for row in found.layers)
    assert [(row["tokens"], row["texts"]) for row in found.same_text] == [(4, 5), (8, 5), (16, 5)]
    gap = found.buckets[-1]["pair_similarity"] - found.buckets[0]["pair_similarity"]  # type: ignore[operator]
    assert found.summary["gap"] == gap
    assert found.summary["truncated_share"] == pytest.approx(1 / 13)
    assert -1 <= found.summary["slope"] <= 1  # type: ignore[operator]


def test_sigma_rises_as_the_temperature_falls(encoder: Any) -> None:
    """Section 9: that much holds on any model; that sigma falls with length does not."""
    plain, sharp = (length_collapse(encoder.at(tau), texts(), buckets=2, measured=3, cuts=()) for tau in (1.0, 0.3))
    for one, other in zip(plain.layers, sharp.layers, strict=True):
        assert one["layer"] == 0 or other["sigma"] > one["sigma"]  # type: ignore[operator]
    assert sharp.summary["temperature"] == 0.3


def test_unpadded_measures_equal_direct_ones(encoder: Any, folder: Path) -> None:
    """One text measured on its own, with eager attention of transformers."""
    from transformers import AutoModel

    text = texts()[8]
    found = length_collapse(encoder, [text] * 4, buckets=1, measured=1, cuts=())
    theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch = encoder.batch(encoder.tokens([text]).ids)
    with torch.no_grad():
        out = theirs(**batch, output_attentions=True, output_hidden_states=True)
    for layer, (prob, row) in enumerate(zip(out.attentions, found.layers[1:], strict=True)):
        assert row["sigma"] == pytest.approx(sigma_hc(prob[0].double(), exact=True).mean(), rel=1e-4)
        assert row["hf_ratio"] == pytest.approx(hf_ratio(out.hidden_states[layer + 1][0].double()), rel=1e-4)


def test_too_few_texts(encoder: Any) -> None:
    with pytest.raises(UsageError, match="needs 4 texts or more, got 3"):
        length_collapse(encoder, ["a", "b", "c"])
