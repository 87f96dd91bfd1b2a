"""Patterns of attention, and an autoencoder that learns to keep them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...fit.epochs import epoch_rows
from ...io.walk import expand_inputs
from ...models.geometry import geometry_of
from ...models.images import PreparedImage
from ...models.loaded import Loaded
from ...models.pictures import PICTURE_SUFFIXES, read_picture
from ...nets.pattern_autoencoder import PatternAutoencoder
from ...probe.vit.maps import pattern_maps
from ...probe.vit.patterns import scaled
from ...probe.vit.restart import HeadSite
from ...prune.data.drawn import drawn_classes, is_drawn

HELD_OUT = 0.1


def pictures_of(data: str, seed: int) -> list[tuple[str, Callable[[], NDArray[np.float32]]]]:
    """Names of pictures, and what reads each as [3, H, W] in [0, 1].

    Raises ``UsageError`` where there is none.
    """
    if is_drawn(data):
        scenes = drawn_classes(data, seed)
        return [(f"{data} {number}", partial(_drawn, one)) for number, one in enumerate(scenes.pictures)]
    sources = expand_inputs((data,), suffixes=PICTURE_SUFFIXES, stdin=None, output=None)
    return [(source.name, partial(_read, source.path)) for source in sources]


def _drawn(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / np.float32(255)


def _read(path: Path) -> NDArray[np.float32]:
    return read_picture(path).pixels


@torch.inference_mode()
def patterns_of(loaded: Loaded, data: str, seed: int, most: int) -> tuple[Tensor, list[str]]:
    """Patterns [S, P * P] of every head on every picture, log-scaled, and the names of the pictures.

    Raises
    ------
    UsageError
        If the model has no heads that are known, or there are too few patterns.
    """
    site, images = HeadSite(loaded.model), loaded.processor.images
    assert images is not None
    weight = next(loaded.model.parameters())
    found: list[Tensor] = []
    names: list[str] = []
    for name, read in pictures_of(data, seed):
        prepared: PreparedImage = images.prepared(read())
        _, plain = site.plain(prepared.pixels[None].to(weight.device, weight.dtype))
        patterns, patches = pattern_maps(site, plain.layers, geometry_of(loaded.model, prepared))
        found.append(torch.from_numpy(scaled(patterns, patches)).flatten(0, 1))
        names.append(name)
        if sum(map(len, found)) >= most:
            break
    samples = torch.cat(found)[:most] if found else torch.empty(0)
    if len(samples) < 20:
        raise UsageError(f"{data}: gives {len(samples)} patterns, 20 at least are wanted. Name more pictures.")
    return samples, names


class PatternRecipe:
    """Patterns that are kept.

    Parameters
    ----------
    model : PatternAutoencoder
    samples : Tensor [S, inputs]
        A tenth of them is held out, the same from the same seed.
    batch, seed : int
    """

    score = "explained"
    stalled_below = ("explained", 0.1)

    def __init__(self, model: PatternAutoencoder, samples: Tensor, batch: int, seed: int) -> None:
        self.model: nn.Module = model
        self.net, self.batch, self.seed = model, batch, seed
        order = torch.from_numpy(np.random.default_rng((seed, 5)).permutation(len(samples)))
        count = max(2, round(HELD_OUT * len(samples)))
        self.held_out, self.train = samples[order[:count]], samples[order[count:]]

    def loss(self, step: int) -> Tensor:
        rows = epoch_rows(step, self.batch, len(self.train), self.seed)
        x = self.train[torch.tensor(rows)]
        return F.mse_loss(self.net(x), x)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Mean squared error on what was held out, and the share of its variance that is kept."""
        x = self.held_out
        error = float(F.mse_loss(self.net(x), x))
        spread = float((x - self.train.mean(0)).square().mean())
        return {"error": error, "explained": 1 - error / spread if spread > 0 else 0.0}


def steps_of(samples: int, batch: int, epochs: int) -> int:
    """Steps in which every sample is seen so many times."""
    return max(1, -(-samples * epochs // batch))


def listed(names: Sequence[str]) -> str:
    """A few of the names."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
