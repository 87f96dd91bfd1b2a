"""Losses and evaluation of the small model and its routers. Specification: methods/flux-attention.md, section 3.6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...attention.flux.router import sparsity_penalty, temperature
from ...fit.chained import ChainedOptimizer
from .options import RouterOptions
from .routing import LayerRouters, RouterShape, routed
from .tasks import KINDS, DrawnPrompts, Kind, draw_prompts

_SALT = 99001
"""First number of the seeds of training."""
DEVELOPMENT, TEST = (99002,), (99003,)
"""First numbers of the seeds of what is judged while routers learn, and in the end."""
_AT_ONCE = 32
_AGAIN = 12
"""Questions of the small model's prompts: looking up is learnt the earlier, the more often it is asked."""


def answers(model: Any, prompts: DrawnPrompts) -> tuple[Tensor, Tensor]:
    """Logits [N, words] of the tokens that are to be named, and those tokens [N]."""
    tokens, named = prompts.tokens.to(model.device), prompts.answer[:, 1:].to(model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return logits[named], tokens[:, 1:][named]


@torch.no_grad()
def judge(
    model: Any, routers: LayerRouters | None, shape: RouterShape, options: RouterOptions, seed: tuple[int, ...],
    count: int, *, fixed: Sequence[bool] | None = None,
) -> dict[Kind, tuple[float, Tensor]]:  # fmt: skip
    """Of each kind: share of answers that are right, and of each layer the share of prompts that were sparse [layers].

    Routes are hard. ``fixed`` are routes that no router decides: for each layer whether it is full.
    """
    found: dict[Kind, tuple[float, Tensor]] = {}
    for kind in KINDS:
        drawn = draw_prompts(seed, kind, count, pairs=options.pairs, gap=options.gap, questions=options.questions)
        right, sparse = [], []
        for first in range(0, count, _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            with routed(model, routers, shape, fixed=fixed) as routes:
                logits, truth = answers(model, DrawnPrompts(drawn.tokens[rows], drawn.answer[rows], kind))
            right.append(logits.argmax(-1) == truth)
            sparse.append(1 - torch.stack(routes.full))
        found[kind] = (float(torch.cat(right).double().mean()), torch.cat(sparse, 1).double().mean(1))
    return found


class DenseRecipe:
    """The small model, with dense attention, on prompts of all sizes up to the test's."""

    score = "needle"
    stalled_below = ("needle", 0.5)

    def __init__(self, model: Any, options: RouterOptions) -> None:
        self.model, self.options = model, options

    def loss(self, step: int) -> Tensor:
        """Mean over the kinds of the cross-entropy of answers."""
        options, seed = self.options, (_SALT, self.options.compute.seed, 0, step)
        rng = np.random.default_rng(seed)
        pairs, gap = int(rng.integers(2, options.pairs + 1)), int(rng.integers(options.gap + 1))
        losses = [
            F.cross_entropy(*answers(self.model, draw_prompts(
                seed, kind, options.batch, pairs=pairs, gap=gap, questions=max(_AGAIN, options.questions)
            )))
            for kind in KINDS
        ]  # fmt: skip
        return torch.stack(losses).mean()

    def evaluate(self, model: Any) -> Mapping[str, float]:
        """Accuracy on either kind."""
        options = self.options
        found: dict[str, float] = {}
        for kind in KINDS:
            drawn = draw_prompts(
                DEVELOPMENT, kind, max(1, options.judged // 4), pairs=options.pairs, gap=options.gap,
                questions=options.questions,
            )  # fmt: skip
            logits, truth = answers(model, drawn)
            found[kind] = float((logits.argmax(-1) == truth).double().mean())
        return found


class RouterRecipe:
    """Routers that learn beside a frozen model.

    Parameters
    ----------
    language : PreTrainedModel
        Frozen, in eval mode.
    routers : LayerRouters
    options : RouterOptions
    target : float
        Share of sparse layers on needle prompts; on continuations 1.
    """

    score = "kept"
    stalled_below = ("kept", 0.0)

    def __init__(self, language: Any, routers: LayerRouters, options: RouterOptions, target: float) -> None:
        self.language, self.model, self.options, self.target = language, routers, options, target

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of the answers and the penalty of section 3.6, both means over the kinds."""
        options = self.options
        losses, full, targets, task = [], [], [], []
        tau = temperature(step, options.steps * options.training.accumulate)
        for number, kind in enumerate(KINDS):
            drawn = draw_prompts(
                (_SALT, options.compute.seed, 1, step), kind, options.batch, pairs=options.pairs, gap=options.gap,
                questions=options.questions,
            )  # fmt: skip
            with routed(self.language, self.model, self.model.shape) as routes:
                routes.tau = tau
                losses.append(F.cross_entropy(*answers(self.language, drawn)))
            full.append(torch.stack(routes.full))
            targets += [self.target if kind == "needle" else 1.0] * options.batch
            task += [number] * options.batch
        routes_of_all = torch.cat(full, 1)
        device = routes_of_all.device
        penalty = sparsity_penalty(
            routes_of_all, torch.tensor(targets, device=device), self.model.multipliers,
            torch.tensor(task, device=device),
        )  # fmt: skip
        return torch.stack(losses).mean() + penalty

    def evaluate(self, model: LayerRouters) -> Mapping[str, float]:
        """Accuracies and shares of sparse layers, by hard routes; ``kept``: mean accuracy less what is missing of the
        targets, in the mean over the kinds."""
        found = judge(
            self.language, model, model.shape, self.options, DEVELOPMENT, max(1, self.options.judged // 4)
        )  # fmt: skip
        told: dict[str, float] = {}
        kept = 0.0
        for kind, (accuracy, sparse) in found.items():
            share = float(sparse.mean())
            told |= {kind: accuracy, f"sparse_{kind}": share}
            kept += (accuracy - max(0.0, (self.target if kind == "needle" else 1.0) - share)) / len(found)
        return {"kept": kept, **told}


def optimizer(routers: LayerRouters, options: RouterOptions) -> torch.optim.Optimizer:
    """AdamW down for the routers, and up, without decay, for the multipliers (sections 3.6 and 9.7)."""
    factor = options.multiplier_rate / options.learning_rate
    down = torch.optim.AdamW(routers.layers.parameters(), betas=(0.9, 0.95), weight_decay=options.weight_decay)
    up = torch.optim.AdamW(
        [{"params": [routers.multipliers], "factor": factor}], betas=(0.9, 0.95), weight_decay=0.0, maximize=True
    )
    return ChainedOptimizer([down, up])
