"""Attention that gives the same answer: what is reported is so, and where it can go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attn.core.io.texts import LabelledText
from attn.core.nets.attentive.network import AttentiveLSTM, AttentiveShape, probabilities
from attn.core.nets.attentive.texts import KnownWords, count_words, in_order
from attn.core.probe.text.adversarial import adversarial_attention, js_divergence, other_attention
from attn.core.probe.text.generated import drawn_texts
from attn.core.probe.text.measure import divergence_of_attention


def words_of(texts: list[LabelledText]) -> KnownWords:
    labels = in_order(text.label for text in texts)
    return KnownWords(tuple(sorted(count_words(texts, "whitespace"))), labels, "whitespace", 1, 99)


def test_divergence() -> None:
    a = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]).double()
    b = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.6, 0.1, 0.3]]).double()
    found = js_divergence(a, b).numpy()
    np.testing.assert_allclose(found[:2], [0.0, math.log(2)], atol=1e-12)
    np.testing.assert_allclose(found, divergence_of_attention(a.numpy(), b.numpy()), atol=1e-12)


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.2])
def test_other_attention_keeps_the_answer(tolerance: float) -> None:
    """What is reported is so of the attention that is returned; a looser bound finds no less."""
    texts = drawn_texts(30, pair=False)
    known = words_of(texts)
    torch.manual_seed(3)
    network = AttentiveLSTM(AttentiveShape(len(known.words), 8, 4)).double().eval()
    torch.nn.init.normal_(network.out.weight, 0.0, 20.0)  # answers that hang on attention
    with torch.no_grad():
        reading = network.read(known.encode(texts).batch(range(6)))
        found = adversarial_attention(network, reading, tolerance, torch.Generator().manual_seed(1))
        own = network.answer(reading)[1]
        other = torch.from_numpy(found.attention)
        moved = (probabilities(network.decide(reading, other)) - probabilities(network.decide(reading, own))).abs()
    np.testing.assert_allclose(other.sum(1), 1.0, atol=1e-9)
    assert float((other * (1 - reading.mask)).abs().max()) == 0.0
    np.testing.assert_allclose(moved.sum(1) / 2, found.moved, atol=1e-9)
    np.testing.assert_allclose(js_divergence(other, own), found.divergence, atol=1e-9)
    assert found.moved.max() <= tolerance
    assert found.divergence.max() < math.log(2)
    if tolerance == 0.2:
        with torch.no_grad():
            tight = adversarial_attention(network, reading, 0.001, torch.Generator().manual_seed(1))
        assert found.divergence.mean() > tight.divergence.mean()


def test_an_answer_that_ignores_attention_lets_it_go_anywhere() -> None:
    texts = drawn_texts(30, pair=False)
    known = words_of(texts)
    network = AttentiveLSTM(AttentiveShape(len(known.words), 8, 4)).eval()
    torch.nn.init.zeros_(network.out.weight)
    with torch.no_grad():
        reading = network.read(known.encode(texts).batch(range(4)))
    found = adversarial_attention(network, reading, 0.0, torch.Generator().manual_seed(1))
    assert found.divergence.min() > 0.4
    assert found.moved.max() == 0.0


def test_of_all_texts_in_their_order() -> None:
    texts = drawn_texts(30, pair=False)
    known = words_of(texts)
    encoded = known.encode(texts[:9])
    torch.manual_seed(3)
    network = AttentiveLSTM(AttentiveShape(len(known.words), 8, 4)).eval()
    found = other_attention(network, encoded, 0.05, 1, at_once=4)
    with torch.no_grad():
        for row in range(9):
            reading = network.read(encoded.batch([row]))
            own, length = network.answer(reading)[1], len(encoded.ids[row])
            other = torch.from_numpy(found.attention[row : row + 1, :length]).float()
            assert not found.attention[row, length:].any()
            np.testing.assert_allclose(js_divergence(other, own).numpy(), found.divergence[row], atol=1e-4)
