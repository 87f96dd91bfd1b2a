"""A BiLSTM that reads a text, attention over its words, and an answer: alone, or about a second text.

Paper: "Attention Meets Perturbations: Robust and Interpretable Attention with Adversarial Training", arXiv 2009.12064.
Specification: methods/attention-at.md, sections 3.1 and 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LEAK = 1e-13
"""Keeps a row that is all padding at 0 (section 9)."""
START = 0.1
"""Standard deviation of the start values of word vectors."""
SMALLEST = 1e-12
"""Variance that counts as none."""


@dataclass(frozen=True, slots=True)
class AttentiveShape:
    """Sizes of the network.

    Parameters
    ----------
    words : int
        Of the vocabulary; their numbers begin at 1, 0 is padding.
    embedding, hidden : int
        Channels of a word vector, and of the LSTM in each direction.
    outputs : int
        1: one logit for the second of two classes; else a logit for each class.
    scoring : {"additive", "dot"}
    pair : bool
        A second text (question, hypothesis) says what to look for in the first.
    normalised : bool
        Word vectors are normalised by the words' frequencies, as perturbations of words need it (section 3.5).
    """

    words: int
    embedding: int = 300
    hidden: int = 128
    outputs: int = 1
    scoring: Literal["additive", "dot"] = "additive"
    pair: bool = False
    normalised: bool = False


class TextBatch(NamedTuple):
    """B texts, padded with 0 behind their words.

    Parameters
    ----------
    ids, lengths : Tensor of int64 [B, T] and [B]
    labels : Tensor of int64 [B]
        Numbers of classes.
    query, query_lengths : Tensor of int64 [B, Q] and [B], or None
        The second text of pairs.
    allowed : Tensor of bool [B, outputs] or None
        Classes that can be the answer; None: all.
    """

    ids: Tensor
    lengths: Tensor
    labels: Tensor
    query: Tensor | None = None
    query_lengths: Tensor | None = None
    allowed: Tensor | None = None

    def to(self, device: torch.device) -> TextBatch:
        """The same on a device; lengths stay on the CPU, where packing wants them."""
        ids, lengths, labels, query, query_lengths, allowed = self
        moved = (None if x is None else x.to(device) for x in (ids, labels, query, allowed))
        ids_there, labels_there, query_there, allowed_there = moved
        assert ids_there is not None
        assert labels_there is not None
        return TextBatch(ids_there, lengths, labels_there, query_there, query_lengths, allowed_there)


class Reading(NamedTuple):
    """What the encoder made of a batch, before any attention.

    Parameters
    ----------
    embedded : Tensor [B, T, embedding]
    states : Tensor [B, T, 2 hidden]
    scores, mask : Tensor [B, T]
        Scores before the softmax; 1.0 at words, 0.0 at padding.
    asked : Tensor [B, 2 hidden] or None
        The second text, in one vector.
    allowed : Tensor of bool [B, outputs] or None
    """

    embedded: Tensor
    states: Tensor
    scores: Tensor
    mask: Tensor
    asked: Tensor | None
    allowed: Tensor | None

    def detached(self) -> Reading:
        """Without gradients to what came before; the scores ask for theirs."""
        asked = None if self.asked is None else self.asked.detach()
        return self._replace(
            embedded=self.embedded.detach(), states=self.states.detach(),
            scores=self.scores.detach().requires_grad_(), asked=asked,
        )  # fmt: skip


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Attention [..., T] of scores and a mask of 0.0 and 1.0, as the release computes it: section 3.1."""
    attention = torch.softmax(scores * mask, -1) * mask
    return attention / (attention.sum(-1, keepdim=True) + LEAK)


class PerturbedAttention(nn.Module):
    """Masked softmax of scores that may be perturbed: a layer for any model that shows its scores before the softmax.

    ``forward(scores, mask, r)``: scores, mask and r [..., T]; r None leaves them as they are. Gradients flow through
    the scores; whoever makes r decides whether they flow through it, too.
    """

    def forward(self, scores: Tensor, mask: Tensor, r: Tensor | None = None) -> Tensor:
        return masked_softmax(scores if r is None else scores + r, mask)


class AttentiveLSTM(nn.Module):
    """Words to the logits of classes.

    Parameters
    ----------
    shape : AttentiveShape
    """

    counts: Tensor

    def __init__(self, shape: AttentiveShape) -> None:
        super().__init__()
        self.shape = shape
        width = 2 * shape.hidden
        self.embedding = nn.Embedding(1 + shape.words, shape.embedding, padding_idx=0)
        nn.init.normal_(self.embedding.weight, 0.0, START)
        nn.init.zeros_(self.embedding.weight[0])
        self.encoder = nn.LSTM(shape.embedding, shape.hidden, batch_first=True, bidirectional=True)
        if shape.pair:
            self.query_encoder = nn.LSTM(shape.embedding, shape.hidden, batch_first=True, bidirectional=True)
        if shape.scoring == "additive":
            self.of_word = nn.Linear(width, width // 2)
            if shape.pair:
                self.of_query = nn.Linear(width, width // 2, bias=False)
            self.score = nn.Linear(width // 2, 1, bias=False)
        elif not shape.pair:
            self.wanted = nn.Parameter(torch.randn(width) * 0.1)  # the dot layer has no query: a learned vector
        self.attention = PerturbedAttention()
        self.out = nn.Linear(2 * width if shape.pair else width, shape.outputs)
        if shape.normalised:
            self.register_buffer("counts", torch.ones(1 + shape.words, dtype=torch.int64))

    def vectors(self) -> Tensor:
        """All word vectors [1 + words, embedding]; normalised by mean and variance over the words' frequencies."""
        weight = self.embedding.weight
        if not self.shape.normalised:
            return weight
        share = (self.counts.to(weight.dtype) / self.counts.sum())[:, None]
        mean = (share * weight).sum(0)
        variance = (share * (weight - mean) ** 2).sum(0)
        normalised = (weight - mean) / (variance + SMALLEST).sqrt()
        return normalised * (torch.arange(len(weight), device=weight.device) > 0)[:, None]

    def read(self, batch: TextBatch, vectors: Tensor | None = None) -> Reading:
        """What is known of texts before attention.

        Parameters
        ----------
        batch : TextBatch
        vectors : Tensor [1 + words, embedding], optional
            ``self.vectors()``, where the caller has them already.
        """
        vectors = self.vectors() if vectors is None else vectors
        asked = None
        if self.shape.pair:
            assert batch.query is not None
            assert batch.query_lengths is not None
            asked = self._last(F.embedding(batch.query, vectors), batch.query_lengths)
        return self.read_embedded(F.embedding(batch.ids, vectors), batch, asked)

    def read_embedded(self, embedded: Tensor, batch: TextBatch, asked: Tensor | None) -> Reading:
        """``read`` of word vectors [B, T, embedding] that are looked up already, and perhaps perturbed."""
        states = self._states(self.encoder, embedded, batch.lengths)
        mask = (batch.ids > 0).to(states.dtype)
        return Reading(embedded, states, self._scores(states, asked), mask, asked, batch.allowed)

    def answer(self, reading: Reading, r: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, outputs] and attention [B, T]; ``r`` [B, T] joins the scores before the softmax."""
        attention = self.attention(reading.scores, reading.mask, r)
        return self.decide(reading, attention), attention

    def decide(self, reading: Reading, attention: Tensor) -> Tensor:
        """Logits [..., B, outputs] of attention [..., B, T]: the weighted sum of the states, and the output layer."""
        context = (attention.unsqueeze(-2) @ reading.states).squeeze(-2)
        if reading.asked is not None:
            context = torch.cat([context, reading.asked.expand(*context.shape[:-1], -1)], -1)
        logits: Tensor = self.out(context)
        return logits if reading.allowed is None else logits.masked_fill(~reading.allowed, -torch.inf)

    def forward(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        return self.answer(self.read(batch))

    def _states(self, encoder: nn.LSTM, embedded: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states: Tensor = pad_packed_sequence(encoder(packed)[0], batch_first=True, total_length=embedded.shape[1])[0]
        return states

    def _last(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """Last state of each direction, in one vector [B, 2 hidden]."""
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.query_encoder(packed)
        both: Tensor = last.transpose(0, 1).flatten(1)
        return both

    def _scores(self, states: Tensor, asked: Tensor | None) -> Tensor:
        """[B, T]: additive s_t = w2 . tanh(W1 h_t + b1 (+ W1q hq)); dot s_t = h_t . (w or hq) / sqrt(D)."""
        if self.shape.scoring == "additive":
            hidden = self.of_word(states)
            if asked is not None:
                hidden = hidden + self.of_query(asked)[:, None]
            scores: Tensor = self.score(torch.tanh(hidden)).squeeze(-1)
        else:
            wanted = self.wanted.expand(len(states), -1) if asked is None else asked
            scores = (states @ wanted[..., None]).squeeze(-1) / states.shape[-1] ** 0.5
        return scores


def answer_loss(logits: Tensor, labels: Tensor, pos_weight: float = 1.0) -> Tensor:
    """Mean loss of a batch: section 3.2.

    Parameters
    ----------
    logits : Tensor [B, outputs]
        One output: weighted binary cross-entropy, weight y * pos_weight + (1 - y); else cross-entropy.
    labels : Tensor of int64 [B]
    pos_weight : float
    """
    if logits.shape[-1] > 1:
        return F.cross_entropy(logits, labels)
    y = labels.to(logits.dtype)
    weight = y * pos_weight + (1 - y)
    return F.binary_cross_entropy_with_logits(logits.squeeze(-1), y, weight)


def probabilities(logits: Tensor) -> Tensor:
    """[..., classes] of logits [..., outputs]; one output is of the second of two classes."""
    if logits.shape[-1] > 1:
        return logits.softmax(-1)
    p = logits.sigmoid()
    return torch.cat([1 - p, p], -1)
