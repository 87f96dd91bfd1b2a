"""Attention AT and iAT against the recorded run: methods/attention-at.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attn.core.nets.attentive.network import AttentiveLSTM, AttentiveShape, Reading, TextBatch, answer_loss
from attn.core.nets.attentive.perturbation import attention_at, attention_iat, gradient
from attn.core.probe.text.measure import correlations, importance

TOLERANCE, CORRELATION = 1e-5, 1e-4


@pytest.fixture(scope="module")
def v() -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "vectors" / "attention-at" / "attention_at.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def close(x: Tensor, y: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(x.double(), y.double(), atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def network(v: dict[str, Tensor]) -> AttentiveLSTM:
    net = AttentiveLSTM(AttentiveShape(len(v["embed"]) - 1, v["embed"].shape[1], v["hidden"].shape[2] // 2)).double()
    state = {f"encoder.{name[5:]}": value for name, value in v.items() if name.startswith("lstm.")}
    state |= {
        "embedding.weight": v["embed"], "of_word.weight": v["attn.attn.0.weight"],
        "of_word.bias": v["attn.attn.0.bias"], "score.weight": v["attn.attn.2.weight"],
        "out.weight": v["out.weight"], "out.bias": v["out.bias"],
    }  # fmt: skip
    net.load_state_dict(state)
    return net


@pytest.fixture(scope="module")
def batch(v: dict[str, Tensor]) -> TextBatch:
    return TextBatch(v["ids"], v["lengths"], v["labels"].long())


@pytest.fixture(scope="module")
def read(network: AttentiveLSTM, batch: TextBatch) -> tuple[Reading, Tensor]:
    reading = network.read(batch)
    return reading, gradient(answer_loss(network.answer(reading)[0], batch.labels), reading.scores)


def test_network(v: dict[str, Tensor], network: AttentiveLSTM, batch: TextBatch, read: tuple[Reading, Tensor]) -> None:
    reading, g = read
    logits, attention = network.answer(reading)
    close(reading.states, v["hidden"])
    close(reading.scores * reading.mask, v["scores"] * reading.mask)
    close(attention, v["attention"])
    close(logits[:, 0], v["logit"])
    close(answer_loss(logits, batch.labels), v["loss"])
    close(g, v["g"])


@pytest.mark.parametrize("name", ["at", "iat_official", "iat_row", "iat_difference", "iat_word"])
def test_perturbations(
    name: str, v: dict[str, Tensor], network: AttentiveLSTM, batch: TextBatch, read: tuple[Reading, Tensor]
) -> None:
    reading, g = read
    epsilon = float(v["epsilon"])
    mode = name.removeprefix("iat_")
    r = (
        attention_at(g, epsilon) if name == "at"
        else attention_iat(g, reading.scores, reading.mask, epsilon, mode)  # type: ignore[arg-type]
    )  # fmt: skip
    logits, attention = network.answer(reading, r)
    close(r, v[f"r_{name}"])
    close(attention, v[f"attention_{name}"])
    close(answer_loss(logits, batch.labels), v[f"loss_{name}"])


def test_interpretability(v: dict[str, Tensor], network: AttentiveLSTM, batch: TextBatch) -> None:
    found, attention = importance(network, batch)
    close(found, v["importance"])
    pearson, kendall = correlations(attention.numpy(), found.numpy(), v["lengths"].tolist())
    close(torch.from_numpy(pearson), v["pearson"], CORRELATION)
    close(torch.from_numpy(kendall), v["kendall"], CORRELATION)
