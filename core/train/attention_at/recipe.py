"""Loss, optimiser and evaluation of the recipe: methods/attention-at.md, sections 3.2 to 3.5 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...nets.attentive.network import AttentiveLSTM, Reading, TextBatch, answer_loss, probabilities
from ...nets.attentive.perturbation import (
    attention_at,
    attention_iat,
    gradient,
    nearest_words,
    random_direction,
    strength,
    virtual,
    word_at,
    word_iat,
)
from ...nets.attentive.scores import Classified
from ...nets.attentive.texts import EncodedTexts, bucketed
from .options import AttentionAtOptions

AT_ONCE = 64
"""Texts of a batch where nothing is learnt."""
ON_WORDS = frozenset({"word-at", "word-iat"})


@dataclass(frozen=True, slots=True)
class Regime:
    """One of the networks of a run.

    Parameters
    ----------
    name : str
        ``"at"``, ``"epsilon-0.1"``.
    method : str
        Of ``options.TRAININGS``.
    epsilon : float
    """

    name: str
    method: str
    epsilon: float


def optimizer(network: AttentiveLSTM, weight_decay: float) -> torch.optim.Adam:
    """Adam, with AMSGrad and decay for encoder and output, AMSGrad for the attention, neither for word vectors."""
    groups: dict[str, list[nn.Parameter]] = {"embedding": [], "attention": [], "rest": []}
    for name, parameter in network.named_parameters():
        part = name.partition(".")[0]
        attention = part in {"of_word", "of_query", "score", "wanted"}
        groups["attention" if attention else part if part == "embedding" else "rest"].append(parameter)
    return torch.optim.Adam([
        {"params": groups["embedding"], "amsgrad": False, "weight_decay": 0.0},
        {"params": groups["attention"], "amsgrad": True, "weight_decay": 0.0},
        {"params": groups["rest"], "amsgrad": True, "weight_decay": weight_decay},
    ])  # fmt: skip


class AttentiveRecipe:
    """One network on the texts of a run.

    Parameters
    ----------
    network : AttentiveLSTM
    variant : Regime
    train, held_out : EncodedTexts
    options : AttentionAtOptions
    device : torch.device
    """

    def __init__(
        self, network: AttentiveLSTM, variant: Regime, train: EncodedTexts, held_out: EncodedTexts,
        options: AttentionAtOptions, device: torch.device,
    ) -> None:  # fmt: skip
        self.model: nn.Module = network
        self.network, self.variant, self.train, self.held_out = network, variant, train, held_out
        self.options, self.device = options, device
        self.score = "auc" if network.shape.outputs == 1 else "accuracy"
        share = np.bincount(held_out.labels).max() / len(held_out)
        self.stalled_below = ("accuracy", float(share))
        positive = int((train.labels == 1).sum())
        self.pos_weight = len(train) / positive - 1 if network.shape.outputs == 1 else 1.0
        self.lengths = train.lengths
        self.epoch, self.rows = -1, list[NDArray[np.int64]]()
        if variant.method == "word-iat":
            network.register_buffer("neighbours", torch.zeros((1 + network.shape.words, 0), dtype=torch.int64))
            self._find_neighbours()

    def loss(self, step: int) -> Tensor:
        """Clean loss, and the loss under the perturbation: one reading of the texts but where words are perturbed."""
        batch = self._batch(step)
        network, method = self.network, self.variant.method
        vectors = network.vectors()
        reading = network.read(batch, vectors)
        logits = network.answer(reading)[0]
        clean = self._loss(logits, batch)
        if method == "vanilla":
            return clean
        epsilon = strength(self.variant.epsilon, reading.mask, per_sqrt_len=self.options.epsilon_per_sqrt_len)
        if method == "vat":
            return (
                clean + self.options.adversarial_weight * virtual(network, reading, epsilon, self._generator(step))[1]
            )
        if method in ON_WORDS:
            r = self._words(clean, reading, batch, vectors, epsilon)
            moved = network.answer(network.read_embedded(reading.embedded + r, batch, reading.asked))[0]
        else:
            moved = network.answer(reading, self._scores(clean, reading, epsilon, step))[0]
        return clean + self.options.adversarial_weight * self._loss(moved, batch)

    def _loss(self, logits: Tensor, batch: TextBatch) -> Tensor:
        return answer_loss(logits, batch.labels, self.pos_weight)

    def _scores(self, clean: Tensor, reading: Reading, epsilon: float | Tensor, step: int) -> Tensor:
        if self.variant.method == "rp":
            return random_direction(reading.scores, reading.mask, epsilon, self._generator(step))
        g = gradient(clean, reading.scores)
        if self.variant.method == "at":
            return attention_at(g, epsilon)
        return attention_iat(g, reading.scores, reading.mask, epsilon, self.options.reading)

    def _words(
        self, clean: Tensor, reading: Reading, batch: TextBatch, vectors: Tensor, epsilon: float | Tensor
    ) -> Tensor:
        g = gradient(clean, reading.embedded)
        if self.variant.method == "word-at":
            return word_at(g, epsilon)
        near = self.network.neighbours
        assert isinstance(near, Tensor)
        return word_iat(g, batch.ids, reading.embedded, vectors, near, epsilon)

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.options.compute.seed * 1_000_003 + step)

    def _batch(self, step: int) -> TextBatch:
        """The batch of a step; each epoch has an order of its own, and neighbours of its own where they count."""
        epoch, place = divmod(step, batches_of(len(self.train), self.options.batch))
        if epoch != self.epoch:
            self.epoch = epoch
            self.rows = bucketed(self.lengths, self.options.batch, (self.options.compute.seed, epoch))
        if place == 0 and self.variant.method == "word-iat":
            self._find_neighbours()
        return self.train.batch(self.rows[place].tolist()).to(self.device)

    def _find_neighbours(self) -> None:
        self.network.neighbours = nearest_words(self.network.vectors())

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See ``Classified.metrics``, on what was held out."""
        p = np.zeros((len(self.held_out), max(2, self.network.shape.outputs)))
        for rows, batch in self.held_out.batches(AT_ONCE):
            p[rows] = probabilities(self.network(batch.to(self.device))[0]).double().cpu().numpy()
        return Classified(p, self.held_out.labels).metrics()


def batches_of(count: int, batch: int) -> int:
    """Batches of an epoch."""
    return -(-count // batch)
