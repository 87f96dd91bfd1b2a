"""A smaller model as guide (methods/sgl.md): how far it agrees, what its choice is worth, when its answer suffices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from attn.core.prune.methods.base import Keep
from attn.core.prune.sgl.guide import consistency, run_guide
from attn.core.prune.sgl.pruner import SGL

from .budget import LAYER, counted, inside
from .look import Eye
from .questions import TOKENS, asked
from .tally import Kept, Tally, of_scores

CONSISTENCY = Keep(share=0.05)
LONGEST = 3
"""Tokens of an answer: a word, and the end."""


def guided(eye: Eye, guide: Eye, kept: Kept, task: str, count: int, seed: int, share: float) -> Tally:
    """The guide's choice in front of the language model and of layer 2, beside FastV, random, and single layers."""
    keep = Keep(share=share)
    wanted = {
        **inside(share),
        "sgl": (SGL(guide=guide.model, layer=0, guide_tokens=LONGEST), keep),
        f"sgl, layer {LAYER}": (SGL(guide=guide.model, layer=LAYER, guide_tokens=LONGEST), keep),
    }

    def make() -> Tally:
        questions, tally = asked(task, count, seed), Tally(count)
        for batch in questions.batches():
            seen, own = eye.look(batch, wanted), guide.look(batch, {})
            tally.add("full", questions, batch.index, seen.logits, None, 1.0, seen.logits)
            tally.add("guide", questions, batch.index, own.logits, None, 1.0, seen.logits)
            choices = dict(seen.choices)
            for layer, scores in enumerate(seen.text):
                choices[f"layer {layer} of the model"] = 0, of_scores(scores, keep.of(TOKENS))
            for layer, scores in enumerate(own.text):
                choices[f"layer {layer} of the guide"] = 0, of_scores(scores, keep.of(TOKENS))
            choices["all layers of the model"] = 0, of_scores(total(seen.text), keep.of(TOKENS))
            for name, (layer, chosen) in choices.items():
                logits = eye.again(seen, chosen, layer)
                tally.choose(name, questions, batch.index, logits, chosen, counted(eye, chosen, layer), seen.logits)
        return tally

    return kept.tally(f"guide-{task}-{seed}-{count}", {"count": count, "seed": seed, "share": share}, make)


def total(layers: list[Tensor]) -> Tensor:
    """Sum over layers."""
    return torch.stack(layers).sum(0)


def agreement(eye: Eye, guide: Eye, task: str, count: int, seed: int, share: float) -> tuple[list[float], list[float]]:
    """Of each question, Spearman's rank correlation of the guide's attention with the model's, all layers of both, and
    the share of the model's best tokens that the guide names."""
    ranks, overlaps = [], []
    number = Keep(share=share).of(TOKENS)
    for batch in asked(task, count, seed).batches():
        large, small = total(eye.look(batch, {}).text), total(guide.look(batch, {}).text)
        for one, other in zip(large, small, strict=True):
            ranks.append(float(spearmanr(one.numpy(), other.numpy()).statistic))
            best, theirs = one.topk(number).indices, other.topk(number).indices
            overlaps.append(float(torch.isin(best, theirs).double().mean()))
    return ranks, overlaps


@dataclass(frozen=True)
class Exits:
    """Of each question [n]: the guide's decision score, whether it is right, and whether the large model is, pruned by
    the guide's choice."""

    score: NDArray[np.float64]
    guide: NDArray[np.bool_]
    large: NDArray[np.bool_]

    def at(self, threshold: float) -> tuple[float, float]:
        """Share of questions that the large model is asked, and accuracy."""
        asks = self.score < threshold
        return float(asks.mean()), float(np.where(asks, self.large, self.guide).mean())


@torch.no_grad()
def exits(eye: Eye, guide: Eye, task: str, count: int, seed: int, share: float) -> Exits:
    """The early exit on one task (section 3.3)."""
    questions = asked(task, count, seed)
    score, small, large = (np.zeros(count) for _ in range(3))
    wanted = {"sgl": (SGL(guide=guide.model, layer=LAYER, guide_tokens=LONGEST), Keep(share=share))}
    for batch in questions.batches():
        seen = eye.look(batch, wanted)
        layer, chosen = seen.choices["sgl"]
        large[batch.index] = eye.again(seen, chosen, layer).argmax(-1).numpy() == questions.right[batch.index]
        run = run_guide(guide.site, batch.inputs, max_new_tokens=LONGEST)
        for row, (number, importance) in enumerate(zip(batch.index, run.received.importance(), strict=True)):
            one = {name: value[row : row + 1] for name, value in batch.inputs.items()}
            sure = consistency(guide.site, one, run.ids[row], importance, keep=CONSISTENCY)
            score[number] = (run.confidence(row) + sure) / 2
            small[number] = int(run.ids[row][0]) == questions.right[number]
    return Exits(score, small > 0, large > 0)


def joined(parts: list[Exits]) -> Exits:
    """Several tasks as one."""
    return Exits(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("score", "guide", "large")))
