"""The linear maps that join two towers, in closed form, and how well they find what was held out.

- ``ridge``, published (data/MODELS.md, "Towers joined by a linear head"): from a photo's standardised features to the
  mean of its caption vectors less the mean of all.
- ``cca``, ours: canonical correlation, with a penalty on either side. Both sides are whitened, the singular vectors of
  what they have in common are the axes of a space of their own, and each axis counts by its correlation. Texts are
  whitened by the covariance of single captions, which is what queries are, not of their means.

There are fewer photos than features, so all is done in the space of the photos, whose axes are found once for all
penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...retrieve.score.metrics import image_text_recall

Head = dict[str, Tensor]
"""See ``ViTMiniLM.head``; here in float64."""
NEGLIGIBLE = 1e-9
"""Axes with less than this share of the largest variance are rounding."""
SCALE = 0.05
"""Root mean square of the maps of ``cca``, whose scale is free: the middle of what float16 holds."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Photos with captions as both towers see them.

    Parameters
    ----------
    features : Tensor, shape (n, F), float32
    captions : Tensor, shape (m, 384), float32
    owner : ndarray, shape (m,), int64
        Photo of each caption.
    """

    features: Tensor
    captions: Tensor
    owner: NDArray[np.int64]

    def of(self, photos: NDArray[np.int64]) -> Pairs:
        """Some of the photos with their captions."""
        place = np.full(len(self.features), -1)
        place[photos] = np.arange(len(photos))
        chosen = np.flatnonzero(place[self.owner] >= 0)
        return Pairs(self.features[photos], self.captions[chosen], place[self.owner[chosen]])


@dataclass(frozen=True, slots=True)
class Fitting:
    """How a head is fitted.

    Parameters
    ----------
    penalty : float
        Added to the squared lengths of the photos' axes.
    text_penalty : float or None
        Added to the variances of the texts' axes, as a share of their mean; None: ``ridge``, which has none.
    dim : int
        Of the space of ``cca``.
    """

    penalty: float
    text_penalty: float | None = None
    dim: int = 0


class Spectrum:
    """Photos and texts to fit a head to, each side by its principal axes.

    Parameters
    ----------
    pairs : Pairs
    """

    def __init__(self, pairs: Pairs) -> None:
        features, captions = pairs.features.double(), pairs.captions.double()
        owner = torch.from_numpy(pairs.owner)
        self.mean, self.deviation = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        self.x = (features - self.mean) / self.deviation  # [n, F]
        counts = torch.bincount(owner, minlength=len(features)).double()
        sums = torch.zeros(len(features), captions.shape[1], dtype=torch.float64).index_add_(0, owner, captions)
        target = sums / counts[:, None]
        self.text_mean = target.mean(0)
        self.y = target - self.text_mean  # [n, 384]
        squares, axes = torch.linalg.eigh(self.x @ self.x.T)
        kept = squares > NEGLIGIBLE * squares[-1]
        self.squares, self.axes = squares[kept], axes[:, kept]  # x = axes · sqrt(squares) · directionsᵀ
        single = captions - self.text_mean
        self.text_variances, self.text_axes = torch.linalg.eigh(single.T @ single / len(single))

    def head(self, candidate: Fitting) -> Head:
        """The maps of a candidate."""
        maps = self._ridge(candidate.penalty) if candidate.text_penalty is None else self._cca(candidate)
        return {"feature_mean": self.mean, "feature_std": self.deviation, "text_mean": self.text_mean} | maps

    def _ridge(self, penalty: float) -> Head:
        """W = Xᵀ (X Xᵀ + penalty)⁻¹ Y, which is (Xᵀ X + penalty)⁻¹ Xᵀ Y."""
        return {"weight": self.x.T @ (self.axes / (self.squares + penalty) @ (self.axes.T @ self.y))}

    def _cca(self, candidate: Fitting) -> Head:
        assert candidate.text_penalty is not None
        lengths = (self.squares + candidate.penalty).sqrt()
        least = candidate.text_penalty * self.text_variances.mean()
        text_whitening = self.text_axes / (self.text_variances.clamp(min=0) + least).sqrt()  # [384, 384]
        photos = self.axes * (self.squares.sqrt() / lengths)  # [n, r], whitened
        common = photos.T @ (self.y @ text_whitening)  # [r, 384] = U S Vᵀ
        strengths, v = torch.linalg.eigh(common.T @ common)  # S² and V, ascending
        strengths, v = strengths[-candidate.dim :].clamp(min=0).sqrt(), v[:, -candidate.dim :]
        weight = self.x.T @ (self.axes / (self.squares.sqrt() * lengths) @ (common @ v))  # U S = common V
        text_weight = text_whitening @ v * strengths
        return {"weight": _scaled(weight), "text_weight": _scaled(text_weight)}


def _scaled(weight: Tensor) -> Tensor:
    return weight * (SCALE / weight.square().mean().sqrt())


def recall(head: Head, pairs: Pairs) -> dict[str, float]:
    """R@1/5/10 in both directions and their mean, in percent, among these photos alone."""
    images = (pairs.features.double() - head["feature_mean"]) / head["feature_std"] @ head["weight"]
    texts = pairs.captions.double() - head["text_mean"]
    texts = texts @ head["text_weight"] if "text_weight" in head else texts
    scores = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    return {name: 100 * value for name, value in image_text_recall(scores.numpy(), pairs.owner).items()}


def cross_validate(
    pairs: Pairs, candidates: Sequence[Fitting], folds: int, seed: int
) -> dict[Fitting, list[dict[str, float]]]:
    """``recall`` of each candidate among the photos of each fold that was left out.

    Scores of different heads do not compare: a head that was fitted without a photo has nothing along its captions, so
    among all photos at once the right one would come last.
    """
    order = np.random.default_rng(seed).permutation(len(pairs.features))
    rows: dict[Fitting, list[dict[str, float]]] = {candidate: [] for candidate in candidates}
    for fold in np.array_split(order, folds):
        spectrum, held_out = Spectrum(pairs.of(np.setdiff1d(order, fold))), pairs.of(np.sort(fold))
        for candidate in candidates:
            rows[candidate].append(recall(spectrum.head(candidate), held_out))
    return rows
