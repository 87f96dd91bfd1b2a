"""Which words of a caption are masked, from their scores: the two draws of GA-DMS.

Specification: methods/ga-dms.md, section 3.4. The informative draw hides words that the image supports, to be predicted
from it; the noise draw hides words that it does not support, before the contrastive loss.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LAMBDA, NOISE_SHARE, INFORMATIVE_SHARE = 20.0, 0.2, 0.3
FIRST_SCORE = 0.85
"""Score of every word before one was computed: informative."""
UNIFORM_SCORE = 0.1
"""Where both curves turn: with it 15 % of the words are predicted and 10 % hidden, whichever they are."""
Masking = Literal["attn", "released"]


@dataclass(frozen=True, slots=True)
class Masked:
    """A caption as the losses see it; each as long as the caption.

    Parameters
    ----------
    noise_ids : list of int
        For the contrastive loss.
    mlm_ids, mlm_labels : list of int
        For the prediction of words; label 0: nothing to predict.
    """

    noise_ids: list[int]
    mlm_ids: list[int]
    mlm_labels: list[int]


def noise_probability(score: float, share: float = NOISE_SHARE) -> float:
    """Probability that a word of this score is hidden from the contrastive loss; at most ``share``."""
    return share / (1 + math.exp(-LAMBDA * ((1 - _clamp(score)) - 0.9)))


def informative_probability(score: float, share: float = INFORMATIVE_SHARE) -> float:
    """Probability that a word of this score has to be predicted; at most ``share``."""
    return share / (1 + math.exp(-LAMBDA * (_clamp(score) - 0.1)))


def _clamp(score: float) -> float:
    return min(1.0, max(0.0, score))


def draw(
    ids: Sequence[int], probability: Sequence[float], generator: random.Random, *, mask_id: int
) -> tuple[list[int], list[int]]:
    """One pass over a caption: of the words drawn, 80 % become the mask, 10 % a random word, 10 % stay.

    Parameters
    ----------
    ids : sequence of int
        Only 0 < id < ``mask_id`` are words.
    probability : sequence of float
        Per position.
    generator : random.Random
        Gives one number per word, and one more per random word.

    Returns
    -------
    (ids, labels) : labels hold the original id where a word was drawn, else 0.
    """
    masked, labels = list(ids), [0] * len(ids)
    for i, token in enumerate(ids):
        if not 0 < token < mask_id:
            continue
        p, u = probability[i], generator.random()
        if u >= p:
            continue
        labels[i] = token
        if u / p < 0.8:
            masked[i] = mask_id
        elif u / p < 0.9:
            masked[i] = generator.choice(range(1, mask_id))
    return masked, labels


def mask_caption(
    ids: Sequence[int], scores: Sequence[float], generator: random.Random, *, mask_id: int, masking: Masking = "attn",
    noise_share: float = NOISE_SHARE, informative_share: float = INFORMATIVE_SHARE,
) -> Masked:  # fmt: skip
    """Both draws from the clean caption, the informative one first.

    Parameters
    ----------
    ids : sequence of int
        Start, words, end, padding.
    scores : sequence of float
        Per position; clamped to [0, 1].
    mask_id : int
    masking : {"attn", "released"}
        What happens where nothing was drawn. ``attn``: the informative draw hides the first word, the noise draw hides
        nothing. ``released``: position 1 is hidden in both, even where it is the end token.
    noise_share, informative_share : float
        Largest probabilities of the two draws: alpha of the paper's equations 5 and 10.

    Raises
    ------
    ValueError
        If ids and scores differ in length, or ``masking`` is not known.
    """
    if len(ids) != len(scores):
        raise ValueError(f"{len(ids)} tokens have {len(scores)} scores")
    if masking not in ("attn", "released"):
        raise ValueError(f"masking {masking!r} is neither attn nor released")
    informative = [informative_probability(score, informative_share) for score in scores]
    noise = [noise_probability(score, noise_share) for score in scores]
    mlm_ids, labels = draw(ids, informative, generator, mask_id=mask_id)
    noise_ids, noise_labels = draw(ids, noise, generator, mask_id=mask_id)
    first = 1 if masking == "released" else next((i for i, token in enumerate(ids) if 0 < token < mask_id), None)
    if first is not None and not any(labels):
        labels[first], mlm_ids[first] = ids[first], mask_id
    if masking == "released" and not any(noise_labels):
        noise_ids[1] = mask_id
    return Masked(noise_ids, mlm_ids, labels)
