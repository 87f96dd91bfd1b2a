"""How the scores of attention, or the words of a text, are perturbed so that the loss grows.

Specification: methods/attention-at.md, sections 3.3 (Attention AT), 3.4 (Attention iAT and what its readings come to)
and 3.5 (baselines). All perturbations are constants: no gradient flows through them. All have the norm epsilon per
sentence, but for iAT in its reading "word", which is a step of epsilon in each score.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .network import AttentiveLSTM, Reading, probabilities

IatMode = Literal["difference", "word", "row", "official"]
TINY = 1e-12
NEIGHBOURS = 15
"""Nearest word vectors towards which ``word_iat`` may move a word (Sato et al., arXiv 1805.02917)."""
STEP = 0.1
"""Length of the step along which ``virtual`` finds its direction (Miyato et al., arXiv 1605.07725)."""


def of_length(direction: Tensor, epsilon: float | Tensor) -> Tensor:
    """``direction`` [B, ...] scaled to the norm ``epsilon`` per sentence; where it is zero it stays zero."""
    norm = direction.flatten(1).norm(dim=1).clamp_min(TINY)
    scaled: Tensor = direction * (epsilon / norm).view(-1, *[1] * (direction.ndim - 1))
    return scaled


def strength(epsilon: float, mask: Tensor, *, per_sqrt_len: bool) -> float | Tensor:
    """Epsilon of each sentence [B, of ``mask`` B, T]: as it is, or times the square root of the number of words."""
    return epsilon * mask.sum(-1).sqrt() if per_sqrt_len else epsilon


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    """g = dL / d ``of``, a constant; the graph stays for the step itself."""
    return torch.autograd.grad(loss, of, retain_graph=True)[0].detach()


def attention_at(g: Tensor, epsilon: float | Tensor) -> Tensor:
    """r = epsilon g / |g| of the gradient of the scores [B, T]: section 3.3."""
    return of_length(g, epsilon)


def attention_iat(g: Tensor, scores: Tensor, mask: Tensor, epsilon: float | Tensor, mode: IatMode) -> Tensor:
    """Attention iAT in one of its readings: section 3.4.

    Parameters
    ----------
    g, scores, mask : Tensor [B, T]
        Gradient of the loss by the scores; the scores; 1.0 at words.
    epsilon : float or Tensor [B]
    mode : {"difference", "word", "row", "official"}
        "difference": words whose score stands apart from the others' move more. "word": epsilon sign(g). "row": the
        same as ``attention_at``. "official": the release, which is minus ``attention_at``.
    """
    if mode == "row":
        return attention_at(g, epsilon)
    if mode == "official":
        return -attention_at(g, epsilon)
    if mode == "word":
        steps = torch.sign(g) * mask
        return steps * (epsilon[:, None] if isinstance(epsilon, Tensor) else epsilon)
    # sum over k of (s_t - s_k)^2 over the words of a sentence, without the [T, T] differences
    count = mask.sum(-1, keepdim=True).clamp_min(1)
    scores = scores.detach() * mask
    apart = (scores - scores.sum(-1, keepdim=True) / count) * mask
    squares = apart**2
    spread = (count * squares + squares.sum(-1, keepdim=True)) * mask
    return of_length(g * spread / spread.sum(-1, keepdim=True).clamp_min(TINY), epsilon)


def random_direction(like: Tensor, mask: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
    """r = epsilon u / |u|, u drawn from a normal distribution at words alone: section 3.5."""
    u = torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)
    return of_length(u * mask, epsilon)


def virtual(
    network: AttentiveLSTM, reading: Reading, epsilon: float | Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The perturbation of scores that changes the prediction most, whatever the label, and the divergence it makes.

    One power iteration from a random direction (virtual adversarial training, arXiv 1704.03976, on scores).

    Returns
    -------
    r [B, T], and the mean over sentences of KL(p(s) || p(s + r)), with gradients.
    """
    still = reading.detached()
    with torch.no_grad():
        before = probabilities(network.answer(still)[0])
    with torch.enable_grad():
        d = random_direction(still.scores, still.mask, STEP, generator).requires_grad_()
        g = torch.autograd.grad(divergence(before, network.answer(still, d)[0]), d)[0]
    r = of_length(g.detach(), epsilon)
    return r, divergence(before, network.answer(reading, r)[0])


def divergence(before: Tensor, logits: Tensor) -> Tensor:
    """Mean of KL(before || p) over a batch, ``before`` [B, classes] being a constant."""
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    logs = F.log_softmax(logits, -1)
    own = torch.special.xlogy(before, before).sum(-1)
    kl: Tensor = own - torch.where(before > 0, before * logs, 0.0).sum(-1)  # 0 log 0 of answers that cannot be
    return kl.mean()


def word_at(g: Tensor, epsilon: float | Tensor) -> Tensor:
    """r = epsilon g / |g|_F over the normalised word vectors of a sentence [B, T, E] (Miyato)."""
    return of_length(g, epsilon)


def word_iat(
    g: Tensor, ids: Tensor, embedded: Tensor, vectors: Tensor, near: Tensor, epsilon: float | Tensor
) -> Tensor:
    """Words moved towards their nearest ones alone (Sato): r_t = sum_k alpha[t, k] d[t, k].

    Parameters
    ----------
    g, embedded : Tensor [B, T, E]
        Gradient of the loss by the word vectors, and these.
    ids : Tensor of int64 [B, T]
    vectors : Tensor [1 + words, E]
    near : Tensor of int64 [1 + words, K]
        Numbers of the nearest words, see ``nearest_words``.
    epsilon : float or Tensor [B]
        Norm of alpha over a sentence.
    """
    towards = F.normalize(F.embedding(near[ids], vectors.detach()) - embedded.detach()[..., None, :], dim=-1)
    alpha = (towards @ g[..., None]).squeeze(-1) * (ids > 0)[..., None]  # dL / d alpha
    return (of_length(alpha, epsilon)[..., None, :] @ towards).squeeze(-2)


@torch.no_grad()
def nearest_words(vectors: Tensor, count: int = NEIGHBOURS, *, at_once: int = 512) -> Tensor:
    """Numbers of the ``count`` words of the largest cosine to each word, itself left out: int64 [1 + words, count].

    Padding is nobody's neighbour; a vocabulary of fewer words gives fewer.
    """
    unit = F.normalize(vectors, dim=-1)
    count = min(count, len(unit) - 2)
    found = []
    for first in range(0, len(unit), at_once):
        cosine = unit[first : first + at_once] @ unit.T
        cosine[:, 0] = -torch.inf
        own = torch.arange(len(cosine), device=unit.device)
        cosine[own, first + own] = -torch.inf
        found.append(cosine.topk(count, -1).indices)
    return torch.cat(found)
