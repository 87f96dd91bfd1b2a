"""What the packaged ViT, a trained projector and SmolLM2 answer about photos, with all visual tokens and with fewer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.sites import site_of
from attn.core.prune.methods.base import Keep, Pruner

from .photos import TOKENS, CaptionedPhotos, caption_groups, word_questions
from .reader import CAPTION, PLACE, QUESTION, START, caption_ids, first_tokens, hidden_states, packed

ROUNDS, CHOICES, BATCH = 20, 4, 20


@torch.inference_mode()
def word_scores(
    model: Any, tokeniser: Any, pixels: Tensor, words: Sequence[str], method: tuple[Pruner, Keep] | None = None
) -> tuple[NDArray[np.float64], float]:  # fmt: skip
    """Log probability of each word as the answer about each photo [n, words], and the share of tokens."""
    prompt = torch.tensor([START, *[PLACE] * TOKENS, *tokeniser(QUESTION).input_ids])
    wanted, found, shares = first_tokens(tokeniser, words), [], []
    for start in range(0, len(pixels), BATCH):
        some = pixels[start : start + BATCH]
        with ExitStack() as stack:
            if method is not None:
                site, (pruner, keep) = site_of(model), method
                ids = [str(start + row) for row in range(len(some))]
                trace = stack.enter_context(pruned(model, pruner.stages(site, keep), site=site, ids=ids))
            out = model(
                input_ids=prompt.repeat(len(some), 1), attention_mask=torch.ones(len(some), len(prompt)).long(),
                pixel_values=some.to(model.dtype), use_cache=False, logits_to_keep=1,
            )  # fmt: skip
        found.append(out.logits[:, -1].float().log_softmax(-1)[:, wanted])
        if method is not None:
            shares += [trace.last.retention(row) for row in range(len(some))]
    return torch.cat(found).double().numpy(), float(np.mean(shares)) if shares else 1.0


@torch.inference_mode()
def words_behind(model: Any, tokeniser: Any, visual: Tensor, words: Sequence[str]) -> NDArray[np.float64]:
    """Log probability of each word as the answer behind visual tokens [n, tokens, D], [n, words]."""
    layout = packed([[(tokeniser(QUESTION).input_ids, [START])]] * len(visual), 1 + visual.shape[1])
    hidden = hidden_states(model, visual, layout)
    likely = model.lm_head(torch.stack([hidden[row, reads[0][0][0]] for row, reads in enumerate(layout.reads)]))
    return likely.float().log_softmax(-1)[:, first_tokens(tokeniser, words)].double().numpy()


def word_answers(
    scores: NDArray[np.float64], words: Sequence[str], named: Sequence[set[str]], seed: int
) -> NDArray[np.float64]:  # fmt: skip
    """Share of the questions about each photo that ``scores`` get right, [n]; NaN where a photo is asked nothing."""
    column = {word: number for number, word in enumerate(words)}
    right: list[list[float]] = [[] for _ in named]
    for photo, here, there in word_questions(named, ROUNDS, seed):
        gap = scores[photo, column[here]] - scores[photo, column[there]]
        right[photo].append(float(gap > 0) + 0.5 * float(gap == 0))
    return np.array([np.mean(some) if some else np.nan for some in right])


@torch.inference_mode()
def caption_scores(
    model: Any, tokeniser: Any, visual: Tensor, photos: CaptionedPhotos, rounds: int, seed: int
) -> list[tuple[int, int, NDArray[np.float64]]]:  # fmt: skip
    """(photo, place of its own caption among the choices, log probability of each choice) of every question.

    Parameters
    ----------
    visual : Tensor [n, tokens, D]
        Visual tokens of each photo; those of another one are a control.
    """
    prompt, found = tokeniser(CAPTION).input_ids, []
    for number, group in caption_groups(len(photos.files), CHOICES, rounds, seed):
        choices = [(prompt, caption_ids(tokeniser, photos.captions[photo][number])) for photo in group]
        layout = packed([choices] * len(group), 1 + visual.shape[1])
        hidden = hidden_states(model, visual[group], layout)
        for row, photo in enumerate(group):
            sums = []
            for places, ids in layout.reads[row]:
                likely = model.lm_head(hidden[row, places]).float().log_softmax(-1)
                sums.append(float(likely.gather(1, ids[:, None]).sum()))
            found.append((photo, row, np.array(sums)))
    return found


def caption_answers(found: Sequence[tuple[int, int, NDArray[np.float64]]], count: int) -> NDArray[np.float64]:
    """Share of the questions about each photo that are answered with its own caption, [n]."""
    right: list[list[float]] = [[] for _ in range(count)]
    for photo, own, sums in found:
        right[photo].append(float(sums.argmax() == own))
    return np.array([np.mean(some) if some else np.nan for some in right])
