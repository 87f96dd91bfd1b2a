"""What is measured of a text classifier with attention: its answers, its attention beside gradients, and under attack.

Specification: methods/attention-at.md, section 3.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...nets.attentive.network import AttentiveLSTM, Reading, TextBatch, answer_loss, probabilities
from ...nets.attentive.perturbation import attention_at, gradient, random_direction
from ...nets.attentive.scores import Classified

ATTACKS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Norms of the perturbation of scores that is tried on trained networks."""
DIRECTIONS = ("adversarial", "random")
PERMUTATIONS = 100
LEAST = 2
"""Words below which a sentence has no correlation."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a network does with N texts, in their order; T is the most words of one.

    Parameters
    ----------
    answers : Classified
    attention, importance : ndarray [N, T]
        Attention, and the norm of the gradient of the prediction by the word vector; NaN behind the last word.
    pearson, kendall : ndarray [N]
        Between the two; NaN where one of them is constant, or there is one word.
    permuted : ndarray [N]
        How far the prediction moves when attention is permuted: median total variation.
    attacked : mapping of str to list of Classified
        Direction (``DIRECTIONS``) -> answers at each norm of ``ATTACKS``.
    """

    answers: Classified
    attention: NDArray[np.float64]
    importance: NDArray[np.float64]
    pearson: NDArray[np.float64]
    kendall: NDArray[np.float64]
    permuted: NDArray[np.float64]
    attacked: Mapping[str, list[Classified]]

    def metrics(self) -> dict[str, float]:
        """Of the whole: answers, means and spreads over texts, and how many texts have no correlation."""
        defined = int(np.isfinite(self.pearson).sum())
        known = {"pearson": self.pearson, "kendall": self.kendall}
        means = {name: _mean(values) for name, values in known.items()}
        spreads = {f"{name}_std": _std(values) for name, values in known.items()}
        return {
            **self.answers.metrics(), **means, **spreads, "without_correlation": float(len(self.pearson) - defined),
            "permuted": _mean(self.permuted), "peak": _mean(np.nanmax(self.attention, 1)),
        }  # fmt: skip

    def curve(self, direction: str, name: str) -> list[float]:
        """A metric at each norm of ``ATTACKS``."""
        return [answers.metrics()[name] for answers in self.attacked[direction]]


def judge(
    network: AttentiveLSTM, batches: Sequence[tuple[NDArray[np.int64], TextBatch]], *, seed: int,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Judgement:  # fmt: skip
    """Measure a network on texts.

    Parameters
    ----------
    network : AttentiveLSTM
        In eval mode.
    batches : sequence of (ndarray of int64 [B], TextBatch)
        Which texts they are, by number, and the texts.
    seed : int
        Of permutations and random directions.
    step : callable
        Told how many batches are done.
    """
    count = sum(len(rows) for rows, _ in batches)
    longest = max(int(batch.lengths.max()) for _, batch in batches)
    classes = max(2, network.shape.outputs)
    attention, grads = (np.full((count, longest), np.nan) for _ in range(2))
    labels, pearson, kendall, permuted = np.zeros(count, np.int64), *(np.full(count, np.nan) for _ in range(3))
    clean = np.zeros((count, classes))
    attacked = {name: np.zeros((len(ATTACKS), count, classes)) for name in DIRECTIONS}
    generator = torch.Generator().manual_seed(seed)
    for number, (rows, batch) in enumerate(batches):
        found, attended = importance(network, batch)
        lengths = batch.lengths.tolist()
        labels[rows] = batch.labels.cpu().numpy()
        for row, length, weights, gradients in zip(rows, lengths, attended, found, strict=True):
            attention[row, :length], grads[row, :length] = weights[:length].cpu(), gradients[:length].cpu()
        pearson[rows], kendall[rows] = correlations(attended.cpu().numpy(), found.cpu().numpy(), lengths)
        with torch.no_grad():
            reading = network.read(batch)
        clean[rows] = _probabilities(network, reading)
        permuted[rows] = permutation_shift(network, reading, generator)
        for name, directions in attack_directions(network, reading, batch.labels, generator).items():
            for place, epsilon in enumerate(ATTACKS):
                attacked[name][place, rows] = _probabilities(network, reading, attention_at(directions, epsilon))
        step(number + 1, len(batches))
    return Judgement(
        Classified(clean, labels), attention, grads, pearson, kendall, permuted,
        {name: [Classified(p, labels) for p in values] for name, values in attacked.items()},
    )  # fmt: skip


def importance(network: AttentiveLSTM, batch: TextBatch) -> tuple[Tensor, Tensor]:
    """|d p / d e_t| of the predicted class (of one logit: of the second class), and attention: [B, T] each."""
    with torch.enable_grad():
        read = network.read(batch)
        embedded = read.embedded.detach().requires_grad_()
        logits, attention = network.answer(network.read_embedded(embedded, batch, read.asked))
        p = probabilities(logits)
        chosen = p[:, 1] if logits.shape[-1] == 1 else p.amax(-1)
        (g,) = torch.autograd.grad(chosen.sum(), embedded)
    return g.norm(dim=-1) * read.mask, attention.detach()


def correlations(
    attention: NDArray[np.floating], importance: NDArray[np.floating], lengths: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pearson's and Kendall's (tau-b) correlation over the words of each sentence [B]; NaN where there is none."""
    from scipy.stats import kendalltau

    pearson, kendall = np.full(len(lengths), np.nan), np.full(len(lengths), np.nan)
    for row, length in enumerate(lengths):
        a, b = attention[row, :length].astype(np.float64), importance[row, :length].astype(np.float64)
        if length < LEAST or a.std() == 0 or b.std() == 0:
            continue
        pearson[row] = np.corrcoef(a, b)[0, 1]
        kendall[row] = kendalltau(a, b).statistic
    return pearson, kendall


@torch.no_grad()
def permutation_shift(network: AttentiveLSTM, reading: Reading, generator: torch.Generator) -> NDArray[np.float64]:
    """Median over permutations of attention among a sentence's words of the total variation of the prediction [B]."""
    logits, attention = network.answer(reading)
    clean = probabilities(logits)
    order = torch.rand((PERMUTATIONS, *attention.shape), generator=generator).to(attention.device)
    order = order.masked_fill(reading.mask == 0, torch.inf).argsort(-1)  # words in any order, padding behind them
    permuted = attention.expand(PERMUTATIONS, -1, -1).gather(-1, order)
    moved = probabilities(network.decide(reading, permuted))
    shift: NDArray[np.float64] = (moved - clean).abs().sum(-1).div(2).quantile(0.5, dim=0).double().cpu().numpy()
    return shift


def attack_directions(
    network: AttentiveLSTM, reading: Reading, labels: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Directions in which scores are moved [B, T]: up the loss of the true class, and at random."""
    still = reading.detached()
    with torch.enable_grad():
        g = gradient(answer_loss(network.answer(still)[0], labels), still.scores)
    chance = random_direction(reading.scores, reading.mask, 1.0, generator)
    return dict(zip(DIRECTIONS, (g, chance), strict=True))


@torch.no_grad()
def _probabilities(network: AttentiveLSTM, reading: Reading, r: Tensor | None = None) -> NDArray[np.float64]:
    p: NDArray[np.float64] = probabilities(network.answer(reading, r)[0]).double().cpu().numpy()
    return p


def divergence_of_attention(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence in nats between two networks' attention to each text: [N] of [N, T], NaN: no word."""
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    middle = (a + b) / 2

    def kl(p: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = np.where(p > 0, p * np.log(p / middle), 0.0)
        total: NDArray[np.float64] = parts.sum(1)
        return total

    return (kl(a) + kl(b)) / 2


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _std(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.std()) if len(known) else float("nan")
