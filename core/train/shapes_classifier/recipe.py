"""Networks, batches and losses of the recipe.

Both networks need help to look for the large object: with the classes alone a CNN was right on 0.56 of the pictures
after 900 steps, and a ViT on 0.71. While they train, every patch also says whether it shows the large object, and
which: of the ViT its tokens, of the CNN the cells in front of the last pooling.
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
from ...nets.convolutional import vgg
from ...prune.shapes.labelled import CLASSES, DISTRACTED, WINDOW, LabelledScenes, labelled_scenes, labelled_set
from ...prune.shapes.sets import DEVELOPMENT
from .options import ShapesClassifierOptions

PREPARATION = ImagePreparation((WINDOW, WINDOW), (0.5,) * 3, (0.25,) * 3)
PATCH, HEADS = 8, 4
"""Of the ViT."""
MATRIX_FACTOR = 10.0
"""Muon's rate over AdamW's."""
HIDDEN = 128
"""Of the CNN: width of its linear layers."""
LEAST_COVERED = 0.25
"""Share of a patch that the object must cover to be what the patch shows; with less the patch is not asked."""
BACKGROUND = 0.3
"""Weight of the patches without the object."""
AT_ONCE = 100
_SALT = 88001
"""First number of the seeds of training; those of ``prune.shapes.labelled`` have another form."""


class GuidedViT(nn.Module):
    """A ViT, and what its patches are asked while it trains."""

    patch = PATCH

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        transformers = hf.transformers()
        config = transformers.ViTConfig(
            image_size=WINDOW, patch_size=PATCH, hidden_size=width, num_hidden_layers=layers, num_attention_heads=HEADS,
            intermediate_size=4 * width, id2label=dict(enumerate(CLASSES)),
            label2id={name: number for number, name in enumerate(CLASSES)},
        )  # fmt: skip
        self.net = transformers.ViTForImageClassification(config)
        self.patches = nn.Linear(width, len(CLASSES) + 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes], and of every patch [B, P, classes + 1]: 0 is no large object."""
        seen = self.net.vit(image).last_hidden_state
        return self.net.classifier(seen[:, 0]), self.patches(seen[:, 1:])


class GuidedCNN(nn.Module):
    """A CNN, and what the cells in front of its last pooling are asked while it trains."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        channels = [min(width, width // 4 << number) for number in range(layers)]
        self.patch = 1 << (layers - 1)
        self.net = vgg(channels, HIDDEN, len(CLASSES), grid=WINDOW >> layers)
        self.patches = nn.Linear(channels[-1], len(CLASSES) + 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As ``GuidedViT.forward``."""
        seen = self.net.features[:-1](image)
        logits = self.net.classifier(self.net.features[-1](seen).flatten(1))
        return logits, self.patches(seen.flatten(2).mT)


def shown_by_patches(scenes: LabelledScenes, patch: int) -> Tensor:
    """What every patch shows, int64 [B, P]: class + 1 of the large object, 0 without it, -1 where it hardly reaches
    in."""
    edge = np.arange(0, WINDOW, patch)
    x0, y0, x1, y1 = scenes.box.T[:, :, None]
    across = np.clip(np.minimum(x1, edge + patch) - np.maximum(x0, edge), 0, None)
    down = np.clip(np.minimum(y1, edge + patch) - np.maximum(y0, edge), 0, None)
    share = (down[:, :, None] * across[:, None]).reshape(len(scenes), -1) / patch**2
    shown = np.where(share >= LEAST_COVERED, scenes.label[:, None] + 1, np.where(share > 0, -1, 0))
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
        kind = GuidedViT if options.net == "vit" else GuidedCNN
        self.guided = kind(options.width, options.depth).to(device)
        self.model: nn.Module = self.guided
        if options.net == "vit":
            self.optimizer = muon_and_adamw(
                self.guided, lambda name: ".layer" in name, factor=MATRIX_FACTOR, weight_decay=options.weight_decay,
                matrix_decay=options.weight_decay,
            )  # fmt: skip

    def loss(self, step: int) -> Tensor:
        rng = np.random.default_rng([_SALT, self.options.compute.seed, step])
        scenes = labelled_scenes(rng, self.options.batch, **DISTRACTED)
        wanted = torch.from_numpy(scenes.label).to(self.device)
        logits, patches = self.guided(prepared(scenes, self.device))
        shown = shown_by_patches(scenes, self.guided.patch).to(self.device)
        return F.cross_entropy(logits, wanted) + patch_loss(patches, shown)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {"accuracy": accuracy(self.guided.net, labelled_set(self.options.judged, seed=DEVELOPMENT), self.device)}


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
