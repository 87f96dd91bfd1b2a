"""Other attention that gives the same answer: how far from its own a network's attention can be put.

After S. Jain and B. C. Wallace, "Attention is not Explanation", arXiv 1902.10186, section 4.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...nets.attentive.network import AttentiveLSTM, Reading, masked_softmax, probabilities
from ...nets.attentive.texts import EncodedTexts

STARTS = 4
"""Random starts of the search."""
STEPS = 60
RATE = 0.5
PENALTY = 500.0
"""Weight of what the answer moves beyond what it may."""


@dataclass(frozen=True, slots=True)
class OtherAttention:
    """What was found for B texts (or all, in their order) of at most T words.

    Parameters
    ----------
    attention : ndarray [B, T]
        Zero behind the last word.
    divergence : ndarray [B]
        Jensen-Shannon divergence from the network's own attention, in nats: at most log 2. It is what was found, so
        that the largest there is may be larger.
    moved : ndarray [B]
        Total variation of the answer, at most what was allowed.
    """

    attention: NDArray[np.float64]
    divergence: NDArray[np.float64]
    moved: NDArray[np.float64]


def other_attention(
    network: AttentiveLSTM, texts: EncodedTexts, tolerance: float, seed: int, *, at_once: int = 64
) -> OtherAttention:
    """``adversarial_attention`` of all texts, in their order, on the network's device."""
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    attention = np.zeros((len(texts), int(texts.lengths.max())))
    divergence, moved = np.zeros(len(texts)), np.zeros(len(texts))
    for rows, batch in texts.batches(at_once):
        with torch.no_grad():
            reading = network.read(batch.to(device))
        found = adversarial_attention(network, reading, tolerance, generator)
        attention[rows, : found.attention.shape[1]] = found.attention
        divergence[rows], moved[rows] = found.divergence, found.moved
    return OtherAttention(attention, divergence, moved)


def adversarial_attention(
    network: AttentiveLSTM, reading: Reading, tolerance: float, generator: torch.Generator
) -> OtherAttention:
    """Search for attention as far from the own as may be, at which the answer moves by no more than ``tolerance``.

    Adam on scores, from random starts; the furthest attention met on the way that keeps the answer is taken. The own
    attention is one of them, so that there always is one.

    Parameters
    ----------
    network : AttentiveLSTM
    reading : Reading
        Of B texts, without gradients.
    tolerance : float
        Total variation.
    generator : torch.Generator
        Of the starts, on the CPU.
    """
    with torch.no_grad():
        logits, own = network.answer(reading)
        clean = probabilities(logits)
    best, furthest, moved_there = own.clone(), torch.zeros_like(own[:, 0]), torch.zeros_like(own[:, 0])
    drawn = torch.randn((STARTS, *own.shape), generator=generator).to(own)
    with torch.enable_grad():
        scores = (
            reading.scores.detach() + drawn * reading.scores.detach().std(correction=0).clamp_min(1.0)
        ).requires_grad_()
        search = torch.optim.Adam([scores], lr=RATE)
        for step in range(STEPS + 1):
            other = masked_softmax(scores, reading.mask)
            moved = (probabilities(network.decide(reading, other)) - clean).abs().sum(-1) / 2
            apart = js_divergence(other, own)
            with torch.no_grad():
                for start in range(STARTS):
                    better = (moved[start] <= tolerance) & (apart[start] > furthest)
                    best = torch.where(better[:, None], other[start], best)
                    furthest = torch.where(better, apart[start], furthest)
                    moved_there = torch.where(better, moved[start], moved_there)
            if step < STEPS:
                wanted = (PENALTY * (moved - tolerance).clamp_min(0) - apart).sum()
                (scores.grad,) = torch.autograd.grad(wanted, scores)
                search.step()
    attention, divergence, shift = (tensor.double().cpu().numpy() for tensor in (best, furthest, moved_there))
    return OtherAttention(attention, divergence, shift)


def js_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of attention [..., T]: [...], with gradients, and 0 where both are 0."""
    tiny = torch.finfo(a.dtype).tiny
    middle = ((a + b) / 2).clamp_min(tiny)
    of = [(x * (x.clamp_min(tiny) / middle).log()).sum(-1) for x in (a, b)]
    return (of[0] + of[1]) / 2
