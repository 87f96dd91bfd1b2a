"""One network trained from one kind of start values, seed by seed.

Specification: methods/filter-design.md, sections 3.1 and 5: plain networks, the same seeds, one schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from ...filters import NEEDS_IMAGES
from ...filters.initialise import initialise
from ...prune.shapes.labelled import labelled_scenes
from ...prune.shapes.words import COLOURS

SIDE = 32
"""Of the pictures, in pixels."""
POOL = 1024
"""Pictures to train on."""
HELD_OUT = 256
"""Pictures that accuracy is measured on."""
LOOKS = 20
"""Times that accuracy is measured in a run."""
SAMPLE = 128
"""Pictures that start values learn from, where they do."""
MOMENTUM = 0.9
_SALT = 25410
"""Of the pictures; those that models are judged by elsewhere have other seeds."""


def plain_network(layers: int, width: int) -> nn.Sequential:
    """3 x 3 convolutions with ReLU, the first 5 x 5; every third halves the picture, down to 4 pixels; one linear
    layer on the mean."""
    parts: list[nn.Module] = []
    channels, side = 3, SIDE
    for number in range(layers):
        stride = 2 if number % 3 == 0 and side > 4 else 1
        kernel = 5 if number == 0 else 3
        parts += [nn.Conv2d(channels, width, kernel, stride, kernel // 2), nn.ReLU()]
        channels, side = width, side // stride
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(COLOURS)))


@dataclass(frozen=True, slots=True)
class DrawnColours:
    """Pictures with the colour of their shape.

    Parameters
    ----------
    images : Tensor, shape (n, 3, SIDE, SIDE)
        In units of their standard deviation.
    labels : Tensor of int64, shape (n,)
    """

    images: Tensor
    labels: Tensor


@lru_cache(maxsize=8)
def drawn_colours(count: int, seed: int, part: int) -> DrawnColours:
    """Pictures at random; ``part`` 0 is trained on, 1 is held out."""
    scenes = labelled_scenes(np.random.default_rng([seed, part, _SALT]), count, SIDE, most=1, digits=0.0)
    images = torch.from_numpy(scenes.pictures).permute(0, 3, 1, 2).float() / 255
    return DrawnColours((images - 0.5) / 0.25, torch.from_numpy(scenes.label % len(COLOURS)))


@dataclass(frozen=True, slots=True)
class Race:
    """One run.

    Parameters
    ----------
    loss : ndarray, shape (steps,)
        Of each step's pictures, before the step; NaN from where it is no number.
    looked : ndarray of int, shape (L,)
        Steps done when accuracy was measured.
    accuracy : ndarray, shape (L,)
    """

    loss: NDArray[np.float32]
    looked: NDArray[np.int64]
    accuracy: NDArray[np.float32]

    @property
    def failed(self) -> bool:
        """Its loss is no number, or no hundredth below that of guessing at the end."""
        last = self.loss[-max(1, len(self.loss) // 10) :]
        return not bool(np.isfinite(last).all()) or float(last.mean()) > 0.99 * math.log(len(COLOURS))

    def steps_to(self, goal: float) -> float:
        """Steps after which accuracy was first as high; infinite where it never was."""
        reached = np.flatnonzero(self.accuracy >= goal)
        return float(self.looked[reached[0]]) if len(reached) else math.inf


def run_race(
    name: str, seed: int, *, steps: int, batch: int, layers: int, width: int, rate: float,
    step: Callable[[int], None] = lambda done: None,
) -> Race:  # fmt: skip
    """Train once.

    Parameters
    ----------
    name : str
        Of ``core.filters.INITIALISERS``.
    seed : int
        Of pictures, their order, and start values.
    steps, batch, layers, width, rate
        See ``InitialisersOptions``.
    step : callable
        Told how many steps are done.

    Raises
    ------
    InputError
        If the start values do not suit the network.
    """
    train, held = drawn_colours(POOL, seed, 0), drawn_colours(HELD_OUT, seed, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = plain_network(layers, width)
    generator = torch.Generator().manual_seed(seed)
    try:
        images = train.images[:SAMPLE] if name in NEEDS_IMAGES else None
        initialise(net, name, generator=generator, images=images)
    except ValueError as error:
        raise InputError(name, f"does not suit the network: {error}".rstrip("."), "Leave it out") from None
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=MOMENTUM)
    order = np.random.default_rng([seed, 2, _SALT])
    looks = sorted({max(1, round((number + 1) * steps / LOOKS)) for number in range(LOOKS)})
    losses = np.full(steps, np.nan, np.float32)
    accuracy: list[float] = []
    for done in range(1, steps + 1):
        rows = torch.from_numpy(order.integers(0, POOL, batch))
        loss = F.cross_entropy(net(train.images[rows]), train.labels[rows])
        losses[done - 1] = value = loss.item()
        if not math.isfinite(value):
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if done in looks:
            with torch.inference_mode():
                accuracy.append(float((net(held.images).argmax(1) == held.labels).float().mean()))
        step(done)
    accuracy += [math.nan] * (len(looks) - len(accuracy))
    return Race(losses, np.array(looks), np.array(accuracy, np.float32))
