"""The plain ViT: what every pruned one begins with, learns from and is compared to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...fit.chained import muon_and_adamw
from ...fit.frame import RecipeRun
from ...fit.loop import Outcome, Plan
from ...nets.vit import VisionTransformer
from ...progress import Training
from .data import ClassBatches, LabelledPictures, PictureSplits
from .options import PictureOptions, PlainOptions

EVALUATED = 64
"""Pictures at a time where nothing is learnt."""
FOLDER = "plain"
MATRIX_FACTOR = 10.0
"""Muon's rate over AdamW's, for the matrices inside the blocks."""


class PlainRecipe:
    """Classes of pictures.

    Parameters
    ----------
    model : Module
        A classifier; see ``logits_of``.
    batches : ClassBatches
    held_out : LabelledPictures
    classes : int
        How many there are.
    """

    score = "accuracy"

    def __init__(self, model: torch.nn.Module, batches: ClassBatches, held_out: LabelledPictures, classes: int) -> None:
        self.model: torch.nn.Module = model
        self.net, self.batches, self.held_out = model, batches, held_out
        self.stalled_below = ("accuracy", min(1.0, 1.5 / classes))

    def loss(self, step: int) -> Tensor:
        images, labels = self.batches(step)
        return F.cross_entropy(logits_of(self.net, images), labels)

    def evaluate(self, model: torch.nn.Module) -> Mapping[str, float]:
        """Share of the held-out pictures that are recognised."""
        return {"accuracy": accuracy(self.net, self.held_out, self.batches.device)}


def logits_of(net: torch.nn.Module, images: Tensor) -> Tensor:
    """Logits [B, classes] of a network that gives them, alone or beside its tokens."""
    output = net(images)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


@torch.inference_mode()
def accuracy(net: torch.nn.Module, pictures: LabelledPictures, device: torch.device) -> float:
    """Share of pictures whose class is the best one."""
    right = sum(int((logits_of(net, x).argmax(1) == y).sum()) for x, y in pictures.batches(EVALUATED, device))
    return right / len(pictures)


def train_plain(
    run: RecipeRun, options: PlainOptions, pictures: PictureSplits, plan: Plan, progress: Training
) -> tuple[VisionTransformer, Outcome]:
    """The plain ViT in the folder ``plain`` of a run; one that is finished is read.

    Parameters
    ----------
    run : RecipeRun
    options : PlainOptions
    pictures : PictureSplits
    plan : Plan
        Its ``steps`` are those of the options.
    progress : callable
    """
    torch.manual_seed(run.options.compute.seed)
    net = VisionTransformer(options.shape(len(pictures.classes))).to(run.device)
    batches = class_batches(run, options, pictures, 0)
    recipe = PlainRecipe(net, batches, pictures.parts["val"], len(pictures.classes))
    outcome = run.fit(
        recipe, plan, identity=identity_of(pictures), folder=run.output / FOLDER, progress=progress,
        optimizer=muon_and_adamw(
            net, lambda name: name.startswith("blocks."), factor=MATRIX_FACTOR, weight_decay=plan.weight_decay,
            matrix_decay=plan.weight_decay,
        ),
    )  # fmt: skip
    return net.eval(), outcome


def class_batches(run: RecipeRun, options: PictureOptions, pictures: PictureSplits, stage: int) -> ClassBatches:
    """Of the training pictures, in an order of each stage's own."""
    seed = run.options.compute.seed + stage
    return ClassBatches(pictures.parts["train"], options.batch, seed, options.augmentation, run.device)


def identity_of(pictures: PictureSplits) -> dict[str, object]:
    """What makes a run that run, of its pictures."""
    return {"classes": pictures.classes, **{split: part.names for split, part in pictures.parts.items()}}
