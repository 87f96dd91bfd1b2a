"""Contrastive, affiliation and triplet losses of PIR and PriorCLIP: methods/priorclip.md, section 3C.

All take unit rows: image and text vectors [B, D] where row i of one belongs to row i of the other.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAU = 0.07
TAU_RANGE = (0.01, 0.5)
Form = Literal["priorclip", "pir"]
Targets = Literal["diagonal", "class"]


class Temperature(nn.Module):
    """A learned temperature that stays inside ``TAU_RANGE``: the official one can fall to 0 and below."""

    def __init__(self, start: float = TAU) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(start))

    def forward(self) -> Tensor:
        with torch.no_grad():  # the parameter itself, not a clamped copy: outside, that would have no gradient
            self.value.clamp_(*TAU_RANGE)
        return self.value


def _check(image: Tensor, text: Tensor, *more: Tensor) -> None:
    if image.ndim != 2 or image.shape != text.shape or not len(image):
        raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must be equal and [B >= 1, D]")
    for labels in more:
        if labels.shape != image.shape[:1]:
            raise ValueError(f"labels {tuple(labels.shape)} must be [{len(image)}]")


def contrastive(image: Tensor, text: Tensor, tau: Tensor | float = TAU, ids: Tensor | None = None) -> Tensor:
    """InfoNCE, mean of both directions.

    Parameters
    ----------
    image, text : Tensor, shape (B, D)
    tau : Tensor or float
    ids : Tensor, shape (B,), int, optional
        Rows with the same id belong together (several captions of one image): the target is spread over them (PIR).
        Without it the target is the diagonal (PriorCLIP).
    """
    _check(image, text, *(() if ids is None else (ids,)))
    logits = image @ text.T / tau  # [B, B]
    if ids is None:
        target = torch.eye(len(image), dtype=logits.dtype, device=logits.device)
    else:
        target = (ids[:, None] == ids[None, :]).to(logits.dtype)
        target = target / target.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def class_means(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean vector of each class, not re-normalised, and the row of each item's class: [C, D], [B] int64."""
    classes, row = torch.unique(labels, return_inverse=True)
    sums = vectors.new_zeros(len(classes), vectors.shape[1]).index_add(0, row, vectors)
    return sums / row.bincount(minlength=len(classes))[:, None].to(vectors.dtype), row


def affiliation(
    image: Tensor, text: Tensor, labels: Tensor, tau: Tensor | float = TAU, *, form: Form = "priorclip",
    targets: Targets = "diagonal",
) -> Tensor:  # fmt: skip
    """Draw each vector to the centre of its scene in the other modality.

    Parameters
    ----------
    image, text : Tensor, shape (B, D)
    labels : Tensor, shape (B,), int
        Scene of each pair.
    tau : Tensor or float
    form : {"priorclip", "pir"}
        PIR's code takes the second term's rows along the centres, PriorCLIP's along the items.
    targets : {"diagonal", "class"}
        ``diagonal``: item against the centre of item, one column per item (official). Items of a class have the same
        centre, so the loss cannot fall below the mean of log(items of the class); spreading the target over these
        equal columns would give the same number. ``class`` (ours): one column per distinct class; the floor is 0.
        It has the PriorCLIP form only.

    Returns
    -------
    Tensor, scalar.
    """
    _check(image, text, labels)
    if form not in ("priorclip", "pir") or targets not in ("diagonal", "class"):
        raise ValueError(f"no form {form!r} with targets {targets!r}")
    (text_centers, row), (image_centers, _) = class_means(text, labels), class_means(image, labels)
    if targets == "class":
        if form == "pir":
            raise ValueError("class targets have one column per class: the pir form, transposed, is not defined")
        a, b, target = image @ text_centers.T / tau, text @ image_centers.T / tau, row  # [B, C]
    else:
        a, b = image @ text_centers[row].T / tau, text @ image_centers[row].T / tau  # [B, B]
        target = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(a, target) + F.cross_entropy(b.T if form == "pir" else b, target)) / 2


def triplet(image: Tensor, text: Tensor, *, margin: float = 0.2, hardest: bool = False) -> Tensor:
    """Sum hinge of all wrong pairs over the right one, both directions; ``hardest``: only the worst of each row."""
    _check(image, text)
    scores = image @ text.T  # [B, B]
    right = scores.diagonal()
    wrong = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    to_text = (margin + scores - right[:, None]).clamp(min=0) * wrong
    to_image = (margin + scores - right[None, :]).clamp(min=0) * wrong
    if hardest:
        return to_text.amax(1).sum() + to_image.amax(0).sum()
    return to_text.sum() + to_image.sum()
