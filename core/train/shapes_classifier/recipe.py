"""Networks, batches and losses of the recipe.

The ViT needs help to look for the large object: with the classes alone it stays at chance for hundreds of steps. While
it trains, every patch also says whether it shows the large object, and which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...fit.chained import muon_and_adamw
from ...models import hf
from ...models.images import ImagePreparation
from ...nets.convolutional import ConvolutionalClassifier, vgg
from ...prune.shapes.labelled import CLASSES, DISTRACTED, WINDOW, LabelledScenes, labelled_scenes, labelled_set
from ...prune.shapes.sets import DEVELOPMENT
from .options import ShapesClassifierOptions

PREPARATION = ImagePreparation((WINDOW, WINDOW), (0.5,) * 3, (0.25,) * 3)
PATCH, HEADS = 8, 4
"""Of the ViT."""
MATRIX_FACTOR = 8.0
"""Muon's rate over AdamW's."""
HIDDEN = 128
"""Of the CNN: width of its linear layers."""
LEAST_COVERED = 16
"""Pixels of a patch that the object must cover to be what the patch shows; with fewer the patch is not asked."""
BACKGROUND = 0.3
"""Weight of the patches without the object."""
AT_ONCE = 100
_SALT = 88001
"""First number of the seeds of training; those of ``prune.shapes.labelled`` have another form."""


class GuidedViT(nn.Module):
    """A ViT, and what its patches are asked while it trains."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        transformers = hf.transformers()
        config = transformers.ViTConfig(
            image_size=WINDOW, patch_size=PATCH, hidden_size=width, num_hidden_layers=layers, num_attention_heads=HEADS,
            intermediate_size=4 * width, id2label=dict(enumerate(CLASSES)),
            label2id={name: number for number, name in enumerate(CLASSES)},
        )  # fmt: skip
        self.vit = transformers.ViTForImageClassification(config)
        self.patches = nn.Linear(width, len(CLASSES) + 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes], and of every patch [B, P, classes + 1]: 0 is no large object."""
        seen = self.vit.vit(image).last_hidden_state
        return self.vit.classifier(seen[:, 0]), self.patches(seen[:, 1:])


def shown_by_patches(scenes: LabelledScenes) -> Tensor:
    """What every patch shows, int64 [B, P]: class + 1 of the large object, 0 without it, -1 where it hardly reaches
    in."""
    edge = np.arange(0, WINDOW, PATCH)
    x0, y0, x1, y1 = scenes.box.T[:, :, None]
    across = np.clip(np.minimum(x1, edge + PATCH) - np.maximum(x0, edge), 0, None)
    down = np.clip(np.minimum(y1, edge + PATCH) - np.maximum(y0, edge), 0, None)
    covered = (down[:, :, None] * across[:, None]).reshape(len(scenes), -1)
    shown = np.where(covered >= LEAST_COVERED, scenes.label[:, None] + 1, np.where(covered, -1, 0))
    return torch.from_numpy(shown.astype(np.int64))


def prepared(scenes: LabelledScenes, device: torch.device) -> Tensor:
    """Pictures [B, 3, 64, 64] as the models take them."""
    pixels = torch.from_numpy(scenes.pictures).permute(0, 3, 1, 2).to(device).float() / 255
    return ((pixels - PREPARATION.mean[0]) / PREPARATION.std[0]).contiguous()


class ClassifierRecipe:
    """Classes of drawn pictures.

    Parameters
    ----------
    options : ShapesClassifierOptions
    device : torch.device
    """

    score = "accuracy"
    stalled_below = ("accuracy", 0.1)

    def __init__(self, options: ShapesClassifierOptions, device: torch.device) -> None:
        self.options, self.device = options, device
        self.optimizer: torch.optim.Optimizer | None = None
        net: nn.Module
        if options.net == "vit":
            net = GuidedViT(options.width, options.layers)
            self.optimizer = muon_and_adamw(
                net, lambda name: ".layer" in name, factor=MATRIX_FACTOR, weight_decay=options.weight_decay,
                matrix_decay=options.weight_decay,
            )  # fmt: skip
        else:
            channels = [min(options.width, options.width // 4 << number) for number in range(options.layers)]
            net = vgg(channels, HIDDEN, len(CLASSES), grid=WINDOW >> options.layers)
        self.model = net.to(device)

    def loss(self, step: int) -> Tensor:
        rng = np.random.default_rng([_SALT, self.options.compute.seed, step])
        scenes = labelled_scenes(rng, self.options.batch, **DISTRACTED)
        wanted = torch.from_numpy(scenes.label).to(self.device)
        if isinstance(self.model, ConvolutionalClassifier):
            return F.cross_entropy(self.model(prepared(scenes, self.device)), wanted)
        logits, patches = self.model(prepared(scenes, self.device))
        return F.cross_entropy(logits, wanted) + patch_loss(patches, shown_by_patches(scenes).to(self.device))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        net: Any = model.vit if isinstance(model, GuidedViT) else model
        return {"accuracy": accuracy(net, labelled_set(self.options.judged, seed=DEVELOPMENT), self.device)}


def patch_loss(logits: Tensor, shown: Tensor) -> Tensor:
    """Cross entropy of what patches show, [B, P, classes + 1] and [B, P]; object and background each on their own."""
    entropy = F.cross_entropy(logits.flatten(0, 1), shown.flatten(), ignore_index=-1, reduction="none").view_as(shown)
    return entropy[shown > 0].mean() + BACKGROUND * entropy[shown == 0].mean()


@torch.no_grad()
def accuracy(net: Any, judged: LabelledScenes, device: torch.device) -> float:
    """Share of pictures whose class is the best one."""
    right = 0
    pixels, label = prepared(judged, device), torch.from_numpy(judged.label)
    for part, wanted in zip(pixels.split(AT_ONCE), label.split(AT_ONCE), strict=True):  # type: ignore[no-untyped-call]
        output = net(part)
        logits = output if isinstance(output, Tensor) else output.logits
        right += int((logits.argmax(1).cpu() == wanted).sum())
    return right / len(judged)
