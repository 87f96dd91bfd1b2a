"""Training of GA-DMS: `attn train ga-dms`.

Paper: arXiv 2509.09118 (2025). Specification: methods/ga-dms.md, sections 3.4, 3.5 and 5. The scores of a step decide
which words are masked when the caption comes again, an epoch later; they are part of what a checkpoint holds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...fit.loop import Plan
from ...fit.precision import whole, widened
from ...retrieve.gadms import losses
from ...retrieve.gadms.clip import GADMS, at, end_position
from ...retrieve.gadms.gass import GASSOptions, gass, shuffled_words, valid_words
from ...retrieve.gadms.masking import FIRST_SCORE, Masked
from ...retrieve.gadms.prepare import CaptionedImages, augment, normalise
from ...retrieve.score.metrics import evaluate_scores
from .options import LOSSES

METRICS = {"r1": "hit@1", "r5": "hit@5", "r10": "hit@10", "map": "map", "minp": "minp"}
"""Names in reports, and in ``retrieve.metrics``."""
_EVALUATION_BATCH = 256


def warmup_cosine(epoch: int, *, epochs: int, warmup: int, first: float = 0.1) -> float:
    """Factor of the learning rate in an epoch, from 0: linear from ``first`` to 1, then a cosine to 0."""
    if epoch < warmup:
        return first + (1 - first) * epoch / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))


@dataclass(frozen=True, slots=True)
class EpochPlan(Plan):
    """A plan whose rate changes from epoch to epoch; ``steps`` and ``warmup`` are whole epochs of ``epoch`` steps."""

    epoch: int = 1

    def rate(self, step: int) -> float:
        factor = warmup_cosine(step // self.epoch, epochs=self.steps // self.epoch, warmup=self.warmup // self.epoch)
        return self.learning_rate * factor


class Trainee(nn.Module):
    """The model, the classifier of ``id`` where it is wanted, and the newest score of every word.

    Parameters
    ----------
    net : GADMS
    captions : int
    first_score : float
        Of every word before it has one.
    classes : int
        Persons to classify; 0: no classifier.
    """

    scores: Tensor
    """[captions, text_length], float16."""

    def __init__(self, net: GADMS, captions: int, *, first_score: float = FIRST_SCORE, classes: int = 0) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("scores", torch.full((captions, net.shape.text_length), first_score, dtype=torch.float16))
        self.classifier = nn.Linear(net.shape.embed_dim, classes) if classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)
            nn.init.zeros_(self.classifier.bias)


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's share of the data.

    Parameters
    ----------
    captions : Tensor [B], int64
        Numbers of the captions.
    images : Tensor [B, 3, H, W]
        Augmented and normalised.
    ids, noise_ids, mlm_ids, mlm_labels : Tensor [B, N], int64
    pids : Tensor [B], int64
    """

    captions: Tensor
    images: Tensor
    ids: Tensor
    noise_ids: Tensor
    mlm_ids: Tensor
    mlm_labels: Tensor
    pids: Tensor


@dataclass(frozen=True, slots=True)
class CaptionBatches:
    """Every caption once per epoch, in an order of its own, with its image.

    Parameters
    ----------
    pairs : CaptionedImages
    ids : Tensor [captions, N], int64
        The captions as tokens.
    pids : Tensor [captions], int64
        Equal numbers are positives.
    batch, seed : int
    mask : callable (ids, scores, generator) -> Masked
        ``mask_caption`` with all that it is to be told.
    augment : bool
        Flip, shift and erase.
    device : device
    """

    pairs: CaptionedImages
    ids: Tensor
    pids: Tensor
    batch: int
    seed: int
    mask: Callable[[Sequence[int], Sequence[float], random.Random], Masked]
    augment: bool = True
    device: torch.device | str = "cpu"

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.ids) / self.batch)

    def __call__(self, step: int, scores: Tensor) -> Batch:
        """The batch of a step, its words masked by ``scores`` [captions, N]."""
        epoch, place = divmod(step, self.epoch)
        order = np.random.default_rng((self.seed, 1, epoch)).permutation(len(self.ids))
        # the last batch of an epoch is filled up from its beginning
        chosen = order.take(range(place * self.batch, (place + 1) * self.batch), mode="wrap")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        images = torch.stack([self.pairs.images[i] for i in self.pairs.caption_image[chosen].tolist()])
        images = augment(images, generator) if self.augment else normalise(images)
        index = torch.from_numpy(chosen)
        ids, known = self.ids[index], scores[index.to(scores.device)].float().cpu()
        words = random.Random(self.seed * 1_000_003 + step)
        masked = [self.mask(row, score, words) for row, score in zip(ids.tolist(), known.tolist(), strict=True)]
        rows = (torch.tensor([getattr(m, name) for m in masked]) for name in ("noise_ids", "mlm_ids", "mlm_labels"))
        noise_ids, mlm_ids, mlm_labels = (row.to(self.device) for row in rows)
        return Batch(
            index.to(self.device), images.to(self.device), ids.to(self.device),
            noise_ids, mlm_ids, mlm_labels, self.pids[index].to(self.device),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised.

    Parameters
    ----------
    losses : tuple of str
        Of ``LOSSES``.
    beta : float
        Weight of ``mlm``.
    tau : float
        Temperature of ``sdm`` and ``itc``.
    noise : bool
        Captions of the contrastive losses have their low-score words masked; else they are clean.
    gass : GASSOptions or None
        None: scores stay what they were at the start.
    shuffled : bool
        Scores are dealt out anew among the words of their caption.
    """

    losses: tuple[str, ...] = ("sdm", "mlm")
    beta: float = 0.4
    tau: float = 0.02
    noise: bool = True
    gass: GASSOptions | None = field(default_factory=GASSOptions)
    shuffled: bool = False


class GADMSRecipe:
    """Model, training pairs and a held-out gallery as ``loop.fit`` wants them.

    Parameters
    ----------
    model : Trainee
    batches : CaptionBatches
    held_out : CaptionedImages
    held_out_ids : Tensor [queries, N]
        Its captions as tokens.
    objective : Objective
    """

    score = "r1"

    def __init__(
        self,
        model: Trainee,
        batches: CaptionBatches,
        held_out: CaptionedImages,
        held_out_ids: Tensor,
        objective: Objective,
    ) -> None:
        self.trainee, self.batches, self.objective = model, batches, objective
        self.model: nn.Module = model
        self.held_out, self.held_out_ids = held_out, held_out_ids
        # three times as often right as a guess
        self.stalled_below = ("r1", min(0.5, 3 / len(np.unique(held_out.image_ids))))

    def loss(self, step: int) -> Tensor:
        """Section 3.5 on one batch; writes the batch's scores."""
        batch, objective, net = self.batches(step, self.trainee.scores), self.objective, self.trainee.net
        clip, words = net.base_model, "mlm" in objective.losses
        image_tokens = clip.image_tokens(batch.images)
        image = image_tokens[:, 0]
        if objective.gass is not None and (words or objective.noise):
            with whole(image.device):  # its gradients are not scaled
                scores = gass(clip, batch.ids, widened(image), objective.gass)
            if objective.shuffled:
                scores = shuffled_words(scores, valid_words(batch.ids))
            self.trainee.scores[batch.captions] = scores.half()
        matched = batch.noise_ids if objective.noise else batch.ids
        text_tokens = clip.text_tokens(torch.cat([matched, batch.mlm_ids]) if words else matched)
        text = at(text_tokens[: len(image)], end_position(batch.ids))  # the end is where the clean caption ends
        total = image.new_zeros(())
        for name in objective.losses:
            total = total + self._loss(name, batch, image_tokens, image, text, text_tokens[len(image) :])
        return total

    def _loss(
        self, name: str, batch: Batch, image_tokens: Tensor, image: Tensor, text: Tensor, mlm_tokens: Tensor
    ) -> Tensor:
        if name != "mlm":
            with whole(image.device):  # cosines are divided by a small temperature
                return self._matching(name, batch, widened(image), widened(text))
        where = batch.mlm_labels > 0
        logits = self.trainee.net.word_logits(mlm_tokens, image_tokens, where)
        return self.objective.beta * losses.masked_words(logits, batch.mlm_labels[where])

    def _matching(self, name: str, batch: Batch, image: Tensor, text: Tensor) -> Tensor:
        match name:
            case "sdm":
                return losses.sdm(image, text, batch.pids, tau=self.objective.tau)
            case "itc":
                return losses.itc(image, text, tau=self.objective.tau)
            case "cmpm":
                return losses.cmpm(image, text, batch.pids)
            case "id":
                assert self.trainee.classifier is not None
                return losses.identity(self.trainee.classifier(image), self.trainee.classifier(text), batch.pids)
        raise ValueError(f"no loss named {name!r}; known: {', '.join(LOSSES)}")

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Section 6: sentences find images of their person in the held-out gallery. Shares in [0, 1]."""
        assert isinstance(model, Trainee)
        device = self.batches.device
        similarity = similarities(model.net, self.held_out, self.held_out_ids, device)
        relevant = self.held_out.caption_ids[:, None] == self.held_out.image_ids
        values = evaluate_scores(similarity.numpy(), relevant, tuple(METRICS.values())).values
        return {name: values[theirs] for name, theirs in METRICS.items()}


@torch.no_grad()
def similarities(net: GADMS, pairs: CaptionedImages, ids: Tensor, device: torch.device | str) -> Tensor:
    """Cosines of captions with images: [captions, images]."""
    images = [
        net.image_feature(normalise(torch.stack([pairs.images[i] for i in block])).to(device)).cpu()
        for block in blocks(len(pairs.images))
    ]
    texts = [net.text_feature(ids[block.start : block.stop].to(device)).cpu() for block in blocks(len(ids))]
    return F.normalize(torch.cat(texts), dim=1) @ F.normalize(torch.cat(images), dim=1).T


def blocks(count: int) -> list[range]:
    """``range(count)`` in pieces that fit memory."""
    return [range(i, min(i + _EVALUATION_BATCH, count)) for i in range(0, count, _EVALUATION_BATCH)]


def score_captions(
    net: GADMS, pairs: CaptionedImages, ids: Tensor, options: GASSOptions, device: torch.device | str
) -> Tensor:
    """GASS of every word of every caption with its unchanged image: [captions, N] float32.

    Captions come in their own order, so that with ``scale="batch"`` the same set always gives the same scores.
    """
    scores = []
    for block in blocks(len(ids)):
        images = torch.stack([pairs.images[i] for i in pairs.caption_image[block.start : block.stop].tolist()])
        with torch.no_grad():
            feature = net.image_feature(normalise(images).to(device))
        scores.append(gass(net.base_model, ids[block.start : block.stop].to(device), feature, options).cpu())
    return torch.cat(scores)
