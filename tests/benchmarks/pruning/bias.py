"""Trends over positions, and padding: methods by attention with and without debiasing (methods/attention-debias.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from attn.core.prune.debias.trend import bias_strength, fit_trend
from attn.core.prune.methods.base import Keep
from attn.core.prune.named import pruner_of

from .budget import LAYER, counted
from .look import Eye, Wanted
from .questions import TOKENS, asked
from .tally import Kept, Tally

TASKS = ("colour", "exists", "digit")
SETS: Mapping[str, Mapping[str, object]] = {
    "square": {}, "letterboxed": {"letterbox": 1.0}, "top third": {"band": "top"}, "bottom third": {"band": "bottom"},
}  # fmt: skip
METHODS: Mapping[str, tuple[str, Mapping[str, object], int]] = {
    "class token": ("visionzip", {"contextual": 0.0}, 0), "fastv": ("fastv", {"layer": LAYER}, LAYER),
}  # fmt: skip
"""Name -> method, settings and the layer in front of which it chooses."""
PARTS = ("", "+debias:pd", "+debias:pas", "+debias")


def strengths(eye: Eye, count: int, seed: int) -> dict[str, float]:
    """Sigma of the mean score over positions of each method, fitted on square pictures of a seed of its own."""
    scores: dict[str, NDArray[np.float64]] = {name: np.zeros(TOKENS) for name in METHODS}
    for task in TASKS:
        for batch in asked(task, count, seed).batches():
            seen = eye.look(batch, {name: (pruner_of(method, settings), Keep(share=1.0))
                                    for name, (method, settings, _) in METHODS.items()})  # fmt: skip
            for name, (_, choices) in seen.choices.items():
                for choice in choices:
                    assert choice.score is not None
                    scores[name] += choice.score.double().numpy()
    return {name: fit_trend(values).sigma for name, values in scores.items()}


def debiased(eye: Eye, kept: Kept, which: str, task: str, count: int, seed: int, share: float,
             sigmas: Mapping[str, float]) -> Tally:  # fmt: skip
    """Every method with every part of debiasing, on one set."""
    wanted: dict[str, Wanted] = {}
    for name, (method, settings, _) in METHODS.items():
        for part in PARTS:
            more = {"sigma": sigmas[name]} if part in ("+debias", "+debias:pd") else {}
            wanted[name + part] = (pruner_of(method + part, {**settings, **more}), Keep(share=share))

    def make() -> Tally:
        questions, tally = asked(task, count, seed, **SETS[which]), Tally(count)
        for batch in questions.batches():
            seen = eye.look(batch, wanted)
            tally.add("full", questions, batch.index, seen.logits, None, 1.0, seen.logits)
            for name, (layer, chosen) in seen.choices.items():
                logits = eye.again(seen, chosen, layer)
                tally.choose(name, questions, batch.index, logits, chosen, counted(eye, chosen, layer), seen.logits)
        return tally

    about = {"count": count, "seed": seed, "share": share, "sigmas": dict(sigmas)}
    return kept.tally(f"bias-{which.replace(' ', '-')}-{task}-{seed}-{count}", about, make)


def kept_frequency(eye: Eye, count: int, seed: int, share: float, sigmas: Mapping[str, float]) -> dict[str, float]:
    """Strength of the trend over positions of how often each position is kept, on square pictures."""
    frequency: dict[str, NDArray[np.float64]] = {}
    wanted: dict[str, Wanted] = {}
    for name, (method, settings, _) in METHODS.items():
        wanted[name] = pruner_of(method, settings), Keep(share=share)
        wanted[f"{name}+debias:pd"] = (
            pruner_of(f"{method}+debias:pd", {**settings, "sigma": sigmas[name]}), Keep(share=share)
        )  # fmt: skip
    for task in TASKS:
        for batch in asked(task, count, seed).batches():
            for name, (_, choices) in eye.look(batch, wanted).choices.items():
                of = frequency.setdefault(name, np.zeros(TOKENS))
                for choice in choices:
                    of += torch.zeros(TOKENS, dtype=torch.float64).index_fill(0, choice.keep, 1.0).numpy()
    return {name: bias_strength(values) for name, values in frequency.items()}
