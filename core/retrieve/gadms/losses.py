"""Losses of section 3.5 and of the papers GA-DMS builds on, on features that need not be normalised.

Specification: methods/ga-dms.md, section 3.5. ``sdm`` and ``cmpm`` match the distribution of similarities to that of
equal identities; ``itc`` knows one positive per row; ``identity`` classifies; ``masked_words`` predicts words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of KL(softmax(logits) || target), with the papers' epsilon. [B, B], [B, B] -> []."""
    log_prob = logits.log_softmax(1)
    return (log_prob.exp() * (log_prob - (target + EPS).log())).sum(1).mean()


def _same(pids: Tensor) -> Tensor:
    """1 where two samples show the same person: [B] -> [B, B] float."""
    return (pids[:, None] == pids).float()


def sdm(image: Tensor, text: Tensor, pids: Tensor, *, tau: float = 0.02) -> Tensor:
    """Similarity distribution matching, both directions.

    Parameters
    ----------
    image, text : Tensor, shape (B, E)
        Row i of both belongs together.
    pids : Tensor, shape (B,)
        Who is seen or described; equal numbers are positives.
    tau : float
        Temperature; smaller sharpens.
    """
    cosine = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    same = _same(pids)
    target = same / same.sum(1, keepdim=True)
    return _divergence(cosine / tau, target) + _divergence(cosine.T / tau, target)


def itc(image: Tensor, text: Tensor, *, tau: float = 0.02) -> Tensor:
    """Symmetric cross entropy in which pair i is the only positive of row i (CLIP's loss). [B, E] twice -> []."""
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / tau
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def identity(image_logits: Tensor, text_logits: Tensor, pids: Tensor) -> Tensor:
    """Cross entropy of one classifier on both features, averaged. [B, classes] twice, [B] -> []."""
    return (F.cross_entropy(image_logits, pids) + F.cross_entropy(text_logits, pids)) / 2


def cmpm(image: Tensor, text: Tensor, pids: Tensor) -> Tensor:
    """Cross-modal projection matching: features are projected onto the normalised other modality. -> []"""
    target = F.normalize(_same(pids), dim=1)  # by the Euclidean norm, as published: no distribution
    return _divergence(image @ F.normalize(text, dim=1).T, target) + _divergence(
        text @ F.normalize(image, dim=1).T, target
    )


def masked_words(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the labelled positions. [M, vocab], [M] -> []; 0 where no word was masked."""
    return F.cross_entropy(logits, labels) if len(labels) else logits.sum()
