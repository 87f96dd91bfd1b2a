"""The same noise made into videos by several kinds of attention, and how far each is from the dense video."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...attention.rectified.order import Video
from ...nets.video_flow import VideoFlow
from .sampling import SparseAttention, Sparsity, ground_alone, noise_of, psnr, sample
from .tokens import TokenGrid

DENSE = "dense"
DENSE_LAYERS, DENSE_STEPS = 2, 0.1
"""Section 3.6: the first layers, and the share of the first steps (Wan: 5 of 50)."""


def kinds(steps: int, sparsity: Sparsity) -> dict[str, Sparsity | None]:
    """The kinds of attention of a table, by name, for a sampler of so many steps; None is dense."""
    first: dict[str, Any] = {"dense_layers": DENSE_LAYERS, "dense_steps": round(DENSE_STEPS * steps)}
    given: dict[str, dict[str, Any]] = {
        "plain block-sparse": {"gapr": "all"},
        "rectified": {"gapr": "on"},
        "rectified, no gain test": {"gapr": "off"},
        "plain, dense first": {"gapr": "all", **first},
        "rectified, dense first": {"gapr": "on", **first},
    }
    return {DENSE: None} | {name: replace(sparsity, **changed) for name, changed in given.items()}


def compared(
    net: VideoFlow, video: Video, steps: int, seeds: Sequence[int], attentions: Mapping[str, Sparsity | None],
    device: torch.device,
) -> Iterator[tuple[dict[str, Any], Tensor]]:  # fmt: skip
    """Kind by kind, a row of a table and the video [1, frames, rows, columns, C] of the first seed.

    Parameters
    ----------
    net : VideoFlow
    video : (int, int, int)
        Frames, rows and columns of tokens.
    steps : int
        Of Euler's method.
    seeds : sequence of int
        Of the noise.
    attentions : mapping of str to Sparsity or None
        None is dense attention, and comes first.
    device : torch.device

    Yields
    ------
    row
        ``psnr`` in dB against the dense video, its mean, least and most over the seeds (missing for dense);
        ``seconds`` of this process's CPU time for a video, the mean; ``speedup`` over dense; ``density``: share of the
        pairs of tokens that are attended to, in all layers and steps. The dense row has ``psnr_ground`` instead: of the
        dense videos' ground alone, without shapes, which says what a PSNR is worth.
    video
    """
    grid = TokenGrid.of(video, net.shape.patch)
    every = steps * net.shape.layers * net.shape.heads * math.prod(video) ** 2
    references: list[Tensor] = []
    unhurried = math.nan
    for name, sparsity in attentions.items():
        seconds, pairs = 0.0, 0
        made = []
        for seed in seeds:
            noise = noise_of(seed, grid, net.shape.channels).to(device)
            attend = None if sparsity is None else SparseAttention(sparsity, video)
            start = time.process_time()
            made.append(sample(net, noise, grid, steps, attend))
            seconds += (time.process_time() - start) / len(seeds)
            pairs += every if attend is None else attend.pairs
        row: dict[str, Any] = {"attention": name, "density": pairs / (every * len(seeds)), "seconds": seconds}
        if sparsity is None:
            references, unhurried = made, seconds
            row["psnr_ground"] = sum(psnr(ground_alone(one), one) for one in made) / len(made)
        else:
            found = [psnr(one, reference) for one, reference in zip(made, references, strict=True)]
            row |= {"psnr": sum(found) / len(found), "psnr_least": min(found), "psnr_most": max(found)}
        yield row | {"speedup": unhurried / seconds}, made[0]
