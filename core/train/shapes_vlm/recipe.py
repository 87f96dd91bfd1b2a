"""The two stages of the recipe: the image tower alone, then the whole model.

What made it learn (measured on prototypes): a first stage of the image tower with labels for every patch, the place of
the object among them (without places, questions of where are never answered); many questions about every encoded
picture; Muon for the matrices; answers of one word.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...fit.chained import ChainedOptimizer, muon_and_adamw
from ...prune.shapes.sets import DEVELOPMENT, EvaluationSet, evaluation_set
from ...prune.shapes.words import ANSWERS, TASKS, numbers
from .data import FORMS, PatchLabels, draw_batch, layout, prepared
from .network import LABELS, PackedLayout, ShapesNetwork

EASY_STEPS, EASY_OBJECTS = 300, 3
"""The image tower begins with scenes of few objects."""
LABEL_SHARE = 0.5
"""Weight of the labels of patches beside the questions."""
END_SHARE = 0.05
"""The same of <eos> behind an answer."""
BACKGROUND, CENTRE, PRESENT = 0.3, 4.0, 0.15
"""Weights inside the loss of the labels."""
WEIGHTS = {"exists": 3.0, "where": 3.0}
"""Of questions that are answered by shape and colour together. With 1 the model went on looking for either alone, and
neither a longer run nor other rates helped (exists 0.75, where 0.74 after 2000 steps)."""
AT_ONCE = 100
TOLD = ("colour", "exists", "where", "relation", "digit")
"""Tasks whose mean accuracy chooses the weights; counting is left as it comes."""


def label_loss(network: ShapesNetwork, seen: Tensor, labels: PatchLabels) -> Tensor:
    """Cross entropy of what every patch shows, objects and background each on their own; places; and what is there."""
    loss = torch.zeros((), device=seen.device)
    for name in LABELS:
        wanted = labels.names[name]
        logits = network.heads.labels[name](seen[:, 1:])
        entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="none")
        entropy = entropy.view_as(wanted)
        objects, background = wanted > 0, wanted == 0
        loss = loss + entropy[objects].sum() / (objects.sum() + 1)
        loss = loss + BACKGROUND * entropy[background].sum() / (background.sum() + 1)
    objects = labels.names["cell"] > 0
    missed = F.smooth_l1_loss(network.heads.centre(seen[:, 1:]), labels.centre, reduction="none", beta=0.1).sum(-1)
    loss = loss + CENTRE * missed[objects].sum() / (objects.sum() + 1)
    present = F.binary_cross_entropy_with_logits(network.present(seen), labels.present, reduction="none")
    return loss + PRESENT * present.sum(1).mean()


def optimizer(network: ShapesNetwork, factor: float) -> ChainedOptimizer:
    """Muon for the matrices of layers and projector, AdamW for the rest."""
    return muon_and_adamw(
        network, lambda name: ".layers." in name or ".linear_" in name, factor=factor, weight_decay=0.01,
        matrix_decay=0.05,
    )  # fmt: skip


class VisionRecipe:
    """Stage 1: the image tower and the heads of its patches."""

    score = "patches"
    stalled_below = ("patches", 0.2)

    def __init__(self, network: ShapesNetwork, seed: int, batch: int, device: torch.device) -> None:
        self.model: nn.Module = network
        self.network, self.seed, self.batch, self.device = network, seed, batch, device

    def loss(self, step: int) -> Tensor:
        drawn = draw_batch(self.seed, 1, step, self.batch, EASY_OBJECTS if step <= EASY_STEPS else 6)
        return label_loss(
            self.network, self.network.see(drawn.pixels.to(self.device)), _moved(drawn.labels, self.device)
        )

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Share of the objects' patches that are labelled right, by label; ``patches`` is the mean."""
        assert isinstance(model, ShapesNetwork)
        drawn = draw_batch(self.seed, 0, 0, 4 * AT_ONCE)
        seen = torch.cat([model.see(part.to(self.device)) for part in torch.split(drawn.pixels, AT_ONCE)])
        metrics = {}
        for name in LABELS:
            wanted = drawn.labels.names[name].to(self.device)
            right = model.heads.labels[name](seen[:, 1:]).argmax(-1) == wanted
            metrics[f"patch_{name}"] = float(right[wanted > 0].float().mean())
        return {"patches": sum(metrics.values()) / len(metrics), **metrics}


class AnswerRecipe:
    """Stage 2: the whole model, with 17 questions about every picture."""

    score = "accuracy"
    stalled_below = ("accuracy", 0.3)

    def __init__(self, network: ShapesNetwork, seed: int, batch: int, judged: int, device: torch.device) -> None:
        self.model: nn.Module = network
        self.network, self.seed, self.batch, self.judged, self.device = network, seed, batch, judged, device

    def loss(self, step: int) -> Tensor:
        drawn = draw_batch(self.seed, 2, step, self.batch)
        seen = self.network.see(drawn.pixels.to(self.device))
        logits = self.network.answer(seen, drawn.tokens.to(self.device), layout())
        entropy = F.cross_entropy(logits.flatten(0, 1), drawn.answers.to(self.device).flatten(), reduction="none")
        entropy = entropy.view(drawn.answers.shape)
        asked, valid = len(FORMS), drawn.valid.to(self.device)
        weight = valid[:, :asked] * torch.tensor([WEIGHTS.get(form, 1.0) for form in FORMS], device=self.device)
        questions = (entropy[:, :asked] * weight).sum() / weight.sum()
        labels = label_loss(self.network, seen, _moved(drawn.labels, self.device))
        return questions + END_SHARE * entropy[:, asked:].mean() + LABEL_SHARE * labels

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, ShapesNetwork)
        return accuracies(model, self.judged, DEVELOPMENT)


def accuracies(model: ShapesNetwork, count: int, seed: int) -> dict[str, float]:
    """Share of right answers by task, every answer as frequent; ``accuracy`` is the mean over ``TOLD``."""
    by_task = {task: accuracy(model, evaluation_set(task, count, seed=seed)) for task in TASKS}
    return {"accuracy": sum(by_task[task] for task in TOLD) / len(TOLD), **by_task}


@torch.no_grad()
def accuracy(model: ShapesNetwork, judged: EvaluationSet) -> float:
    """Share of the questions of a set that are answered right, whatever word of the vocabulary comes first."""
    device = next(model.parameters()).device
    words = torch.tensor(numbers(ANSWERS[judged.task]))[torch.from_numpy(judged.answer)]
    lengths = torch.tensor([len(tokens) for tokens in judged.tokens])
    right = 0
    for length in sorted(set(lengths.tolist())):
        chosen = (lengths == length).nonzero().flatten()
        for part in torch.split(chosen, AT_ONCE):
            tokens = torch.stack([torch.from_numpy(judged.tokens[number]) for number in part.tolist()])
            seen = model.see(prepared(judged.pictures[part.numpy()]).to(device))
            logits = model.answer(seen, tokens.to(device), PackedLayout((length,), (length - 1,)))
            right += int((logits[:, 0].argmax(-1).cpu() == words[part]).sum())
    return right / len(judged)


def _moved(labels: PatchLabels, device: torch.device) -> PatchLabels:
    names = {name: value.to(device) for name, value in labels.names.items()}
    return PatchLabels(names, labels.centre.to(device), labels.present.to(device))
