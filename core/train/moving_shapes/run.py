"""`attn train moving-shapes`: from nothing to a model of videos, its card, and a table of attentions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...attention.rectified.order import Video
from ...fit.frame import run_of
from ...fit.loop import Plan
from ...models.video import load_video_model, write_video_model
from ...progress import Watcher
from ...report.figure import picture_sheet
from ...report.model import Report
from ...report.sections import Picture, Row
from .compare import compared, kinds
from .options import MovingShapesOptions
from .recipe import LARGE, MEDIUM, SMALL, MovingShapesRecipe
from .sampling import Sparsity

SHOWN: Video = (8, 16, 16)
"""Grid of the videos that a run ends with, in tokens."""
SHOWN_STEPS, SHOWN_SEEDS, SHOWN_BLOCK = 20, 2, 32
FRAMES = 6
"""Of a video in a picture."""


def train_moving_shapes(
    options: MovingShapesOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a small video model on drawn shapes that move.

    Parameters
    ----------
    options : MovingShapesOptions
    watcher : Watcher, optional
        Told step and steps; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: how well noise is seen through, a table of attentions on videos of 2048 tokens, files,
    warnings.

    Raises
    ------
    UsageError
        If the folder cannot be used, or torch has no Muon.
    """
    with run_of("moving-shapes", options, watcher=watcher, arguments=arguments, names=("loss", "psnr")) as run:
        run.alone("its batches are drawn whole")
        torch.manual_seed(options.compute.seed)
        recipe = MovingShapesRecipe(options, run.device)
        plan = Plan(
            steps=options.total, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, average=0.98, stable=0.4, floor=0.02,
            evaluate_every=options.evaluate_every,
        )  # fmt: skip
        outcome = run.fit(recipe, plan, identity={"videos": "drawn"}, optimizer=recipe.optimizer())
        if not outcome.best or outcome.interrupted:
            return run.report(outcome, data="drawn videos")
        rows: list[Row] = []
        picture = run.output / "videos.png"

        def write(weights: Path) -> None:
            write_video_model(recipe.net, weights)
            written = load_video_model(weights.parent, device=run.device)  # as its file holds it
            attentions = kinds(SHOWN_STEPS, Sparsity(block_size=SHOWN_BLOCK))
            videos = {}
            for row, video in compared(written, SHOWN, SHOWN_STEPS, range(SHOWN_SEEDS), attentions, run.device):
                rows.append(row)
                videos[row["attention"]] = video
            draw(videos, picture)

        def described(size: int) -> str:
            parameters = sum(parameter.numel() for parameter in recipe.net.parameters())
            seconds = round(outcome.seconds)
            return card(run.facts(metrics=outcome.best, parameters=parameters, seconds=seconds), size)

        run.save(write, described)
        section = Picture("videos", str(picture), title="The same noise by each kind of attention")
        return run.report(
            outcome, data="drawn videos", comparison=rows, files={"videos": picture}, sections=(section,)
        )  # fmt: skip


def draw(videos: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Some frames of each video [1, frames, rows, columns, 3], by the name of its attention."""
    strips = {}
    for name, video in videos.items():
        frames = video[0, np.linspace(0, video.shape[1] - 1, min(FRAMES, video.shape[1])).astype(int)].cpu()
        pixels = ((frames + 1) * 127.5).round().to(torch.uint8)
        strips[name] = np.concatenate(list(np.pad(pixels.numpy(), ((0, 0), (0, 0), (1, 1), (0, 0)))), 1)
    picture_sheet(strips, path, title="The same noise by each kind of attention")


def card(facts: Mapping[str, Any], size: int) -> str:
    """The model card, Markdown."""
    options, metrics = facts["options"], facts["metrics"]
    return "\n".join([
        "# moving-shapes", "",
        "A small flow-matching transformer that makes videos of drawn shapes that move, from noise. It is made to",
        "measure what sparse attention does to videos (`tests/benchmarks/video_rectified.py`), and knows nothing of",
        "films.", "",
        f"- {facts['parameters']} parameters, {size} bytes, float16; a token is 1 frame x 4 x 4 pixels.",
        "- Data: videos that the recipe draws, new ones at every step; no data of others. MIT licence, as attn.",
        f"- The best weights, those of step {metrics['step']:.0f}: "
        f"{_trained(options, int(metrics['step']))}; never at more.",
        f"  No grid has more than {_most(0)} frames, {_most(1)} rows and {_most(2)} columns of tokens.",
        f"- PSNR of clean videos that it was not trained on, as seen through noise (t = 0.2, 0.4, 0.6, 0.8; mean): "
        f"{metrics['psnr']:.2f} dB at 4096 tokens, {metrics['psnr_small']:.2f} dB at 256.",
        f"- Command: `attn train moving-shapes -o DIR`; options: {options}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s.",
    ]) + "\n"  # fmt: skip


def _trained(options: Mapping[str, Any], step: int) -> str:
    """At which lengths the weights of a step were trained, and for how long."""
    done = []
    for grids, name in ((SMALL, "steps"), (MEDIUM, "medium_steps"), (LARGE, "large_steps")):
        here = min(step, options[name])
        step -= here
        if here:
            done.append(f"{here} steps at {_lengths(grids)} tokens")
    return ", then ".join(done)


def _lengths(grids: Sequence[Video]) -> str:
    lengths = sorted({int(np.prod(grid)) for grid in grids})
    return f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else str(lengths[0])


def _most(axis: int) -> int:
    return max(grid[axis] for grid in (*SMALL, *MEDIUM, *LARGE))
