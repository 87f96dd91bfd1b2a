"""Training of PriorCLIP and PIR on pictures with captions: `attn train priorclip`.

Specification: methods/priorclip.md, sections 3C, 3D and 5. Three stages, each a ``loop.fit`` of its own: the
instruction network learns the scene label (0) and is frozen; both towers learn coarse pairs, captions that name the
scene only (1); then the fine captions, with the affiliation loss (2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...fit.epochs import epoch_rows
from ...fit.precision import whole, widened
from ...retrieve.priorclip.data import Pictures
from ...retrieve.priorclip.losses import Form, Targets, affiliation, contrastive
from ...retrieve.priorclip.model import SceneGuided, embed_images, embed_texts
from ...retrieve.priorclip.scenes import coarse_captions
from ...retrieve.priorclip.text import Vocabulary
from ...retrieve.score.metrics import image_text_recall

CUTS = (1, 5, 10)
Together = Literal["picture", "scene", "caption"]
CROP_SCALE, CROP_RATIO = (0.5, 1.0), (3 / 4, 4 / 3)
OBJECT_SHARE = 1 / 16
"""A patch shows an object where objects cover this share of it, and is background where they cover nothing."""


@dataclass(frozen=True, slots=True)
class PictureBatches:
    """Random pictures, each with one of its captions.

    Parameters
    ----------
    pictures : Pictures
    tokens : sequence of n ndarrays [captions, L], int64
        Captions of each picture as ids.
    labels : Tensor, shape (n,), int64
    batch, seed : int
    crop : bool
        Random crops of half to all of the picture and mirror images; off where captions name left and right.
    """

    pictures: Pictures
    tokens: Sequence[NDArray[np.int64]]
    labels: Tensor
    batch: int
    seed: int
    crop: bool = False
    device: torch.device | str = "cpu"

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, S, S] in [0, 1], ids [B, L], row of each picture [B]; the same for the same step."""
        rows = epoch_rows(step, self.batch, len(self.pictures), self.seed)
        generator = np.random.default_rng((self.seed, 2, step))
        chosen = [self.tokens[i][int(generator.integers(len(self.tokens[i])))] for i in rows]
        images = self.pictures.images[rows].float() / 255
        if self.crop:
            images = random_crop(images, generator)
        return images.to(self.device), torch.from_numpy(np.stack(chosen)).to(self.device), torch.tensor(rows)


def random_crop(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Crop, resize back and mirror each of [B, 3, S, S] at random (section 5, without its colour changes)."""
    n = len(images)
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    area, ratio = generator.uniform(*CROP_SCALE, n), np.exp(generator.uniform(low, high, n))
    tall, wide = np.minimum(np.sqrt(area / ratio), 1), np.minimum(np.sqrt(area * ratio), 1)
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = wide * generator.choice([-1, 1], n), tall
    theta[:, 0, 2], theta[:, 1, 2] = (1 - wide) * generator.uniform(-1, 1, n), (1 - tall) * generator.uniform(-1, 1, n)
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bicubic", "reflection", align_corners=False).clamp(0, 1)


def tokens_of(captions: Sequence[Sequence[str]], vocabulary: Vocabulary, max_words: int) -> list[NDArray[np.int64]]:
    """Ids of the captions of each picture, all padded to one length."""
    ids, _, _ = vocabulary.encode([caption for row in captions for caption in row], max_words)
    return np.split(ids, np.cumsum([len(row) for row in captions])[:-1])


def scene_captions(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Coarse captions of each picture: they name its scene only."""
    return [coarse_captions(label) for label in labels]


class InstructionRecipe:
    """Stage 0: the scene label of each picture.

    Parameters
    ----------
    net : SceneGuided
        With an instruction network, which is what is trained.
    batches : PictureBatches
    held_out : Pictures
    scenes : sequence of str
        Labels in the order of their numbers; pictures of other labels do not count.
    """

    score = "accuracy"

    def __init__(self, net: SceneGuided, batches: PictureBatches, held_out: Pictures, scenes: Sequence[str]) -> None:
        if net.instruction is None:
            raise ValueError("the model has no instruction network")
        self.model: torch.nn.Module = net.instruction
        self.net, self.normalise, self.batches = net.instruction, net.normalise, batches
        known = [i for i, label in enumerate(held_out.labels) if label in scenes]
        self.held_out = held_out.take(known)
        self.truth = torch.tensor([scenes.index(held_out.labels[i]) for i in known])
        self.stalled_below = ("accuracy", min(1.0, 1.5 / max(1, len(scenes))))

    def loss(self, step: int) -> Tensor:
        images, _, rows = self.batches(step)
        logits = self.net.classify(self.normalise(images))
        return F.cross_entropy(logits, self.batches.labels[rows].to(logits.device))

    def evaluate(self, model: torch.nn.Module) -> Mapping[str, float]:
        """Share of the held-out pictures whose scene is recognised."""
        images = (self.held_out.images.float() / 255).to(self.batches.device)
        parts = images.split(256)  # type: ignore[no-untyped-call]
        scenes = [self.net.classify(self.normalise(part)).argmax(1).cpu() for part in parts]
        return {"accuracy": float((torch.cat(scenes) == self.truth).float().mean()) if scenes else float("nan")}


class PairRecipe:
    """Stages 1 and 2: pictures and captions.

    Parameters
    ----------
    model : SceneGuided
    batches : PictureBatches
        Of coarse captions in stage 1, of the pictures' own in stage 2.
    held_out : Pictures
    vocabulary : Vocabulary
    together : {"picture", "scene", "caption"}
        Which pairs of a batch belong to each other's pictures and captions: none but a picture's own; in stage 1 those
        of one scene where captions say no more, or those with the same caption.
    center_factor : float
        Weight of the affiliation loss, of stage 2 alone; 0: none.
    targets : {"diagonal", "class"}
    form : {"priorclip", "pir"}
        See ``losses.affiliation``.
    """

    score = "mr"

    def __init__(
        self, model: SceneGuided, batches: PictureBatches, held_out: Pictures, vocabulary: Vocabulary, *,
        together: Together = "picture", center_factor: float = 1.0, targets: Targets = "diagonal",
        form: Form = "priorclip",
    ) -> None:  # fmt: skip
        self.model: torch.nn.Module = model
        self.net, self.batches, self.held_out, self.vocabulary = model, batches, held_out, vocabulary
        self.together, self.targets, self.form = together, targets, form
        self.center_factor = center_factor if together == "picture" else 0.0
        chance = float(np.mean([min(1.0, k / len(held_out)) for k in CUTS]))
        self.stalled_below = ("mr", min(1.0, 1.5 * chance if together == "picture" else chance))

    def loss(self, step: int) -> Tensor:
        images, ids, rows = self.batches(step)
        labels = self.batches.labels[rows].to(images.device)
        image, text = self.net.encode_image(images).embedding, self.net.encode_text(ids)
        with whole(images.device):  # cosines are divided by a small temperature
            image, text = widened(image), widened(text)
            total = contrastive(image, text, self.net.temperature(), self._same(ids, rows).to(images.device))
            if self.center_factor:
                tau = self.net.center_temperature()
                centred = affiliation(image, text, labels, tau, targets=self.targets, form=self.form)
                total = total + self.center_factor * centred
        return total

    def _same(self, ids: Tensor, rows: Tensor) -> Tensor:
        """A number for each pair of the batch, equal where pairs belong together."""
        match self.together:
            case "picture":
                return rows
            case "scene":
                return self.batches.labels[rows]
            case "caption":
                same: Tensor = torch.unique(ids, dim=0, return_inverse=True)[1]
                return same

    def evaluate(self, model: torch.nn.Module) -> Mapping[str, float]:
        """R@1, 5, 10 both ways and mR on the held-out pictures with their own captions, in both stages."""
        return recalls(self.net, self.held_out, self.vocabulary)


def recalls(model: SceneGuided, pictures: Pictures, vocabulary: Vocabulary) -> dict[str, float]:
    """Section 6: ``i2t_r@k`` and ``t2i_r@k`` for k = 1, 5, 10, and ``mr``."""
    ids, _, _ = vocabulary.encode([c for row in pictures.captions for c in row], model.architecture.max_words)
    images = embed_images(model, pictures.images.float() / 255)
    return image_text_recall((images @ embed_texts(model, ids).T).numpy(), pictures.caption_image, CUTS)


@torch.inference_mode()
def object_belief(model: SceneGuided, pictures: Pictures) -> dict[str, float]:
    """Mean belief of the patches that show objects and of those that show none; empty where either is unknown."""
    if model.instruction is None or pictures.objects is None:
        return {}
    size = model.architecture.patch_size
    covered = F.avg_pool2d(pictures.objects[:, None].float(), size).flatten(1)  # [n, P]
    device = model.device
    parts = pictures.images.split(256)  # type: ignore[no-untyped-call]
    beliefs = [model.encode_image((part.float() / 255).to(device)).belief for part in parts]
    belief = torch.cat([part[:, 1:].float().cpu() for part in beliefs if part is not None])  # [n, P]
    shown, empty = belief[covered >= OBJECT_SHARE], belief[covered == 0]
    if not len(shown) or not len(empty):
        return {}
    return {"belief_object": float(shown.mean()), "belief_background": float(empty.mean())}
