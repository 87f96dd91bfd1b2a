"""Training of one head on frozen tokens. Specification: methods/efficient-probing.md, section 5, steps 2 to 5.

Features are cached, so there is no augmentation: the protocol is not the paper's, and reports say so. The best epoch is
chosen on the validation part, never on the test part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...fit.lars import Lars
from ...fit.schedule import cosine_cycles
from ...nets.poolings.contract import TokenShape
from .head import ProbeHead
from .reading import TokenReader
from .split import Rows

EVALUATED = 256
"""Pictures at a time where nothing is learnt."""
REFERENCE_BATCH = 256
"""Rates of LARS and SGD are for so many pictures, and grow with the batch."""


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """How heads are trained.

    Parameters
    ----------
    optimizer : {"lars", "adamw", "sgd"}
    learning_rate : float
        Of LARS and SGD for 256 pictures, of AdamW as it is.
    weight_decay : float
    batch : int
    epochs, warmup : int
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    batch: int
    epochs: int
    warmup: int

    def rate(self, batch: int) -> float:
        """The highest rate, for batches of so many."""
        return self.learning_rate * (1.0 if self.optimizer == "adamw" else batch / REFERENCE_BATCH)

    def optimizer_of(self, head: ProbeHead, rate: float) -> torch.optim.Optimizer:
        if self.optimizer == "lars":
            return Lars(head.parameters(), rate, self.weight_decay)
        if self.optimizer == "sgd":
            return torch.optim.SGD(head.parameters(), rate, momentum=0.9, weight_decay=self.weight_decay)
        return torch.optim.AdamW(head.parameters(), rate, weight_decay=self.weight_decay)


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """A head with the weights of its chosen epoch.

    Parameters
    ----------
    head : ProbeHead
        In eval mode.
    epoch : int
        That was chosen, from 1.
    curve : ndarray, shape (epochs, 3)
        Training loss, validation accuracy and validation loss of every epoch; NaN where nothing was validated.
    """

    head: ProbeHead
    epoch: int
    curve: NDArray[np.float64]


def train_head(
    pooling: str, shape: TokenShape, read: TokenReader, labels: NDArray[np.int64], classes: int, train: Rows,
    val: Rows | None, recipe: HeadRecipe, seed: int, step: Callable[[int, int], None] = lambda done, total: None,
) -> TrainedHead:  # fmt: skip
    """Train a head.

    Parameters
    ----------
    pooling : str
    shape : TokenShape
    read : TokenReader
    labels : ndarray of int64
        Of all pictures.
    classes : int
    train, val : ndarray of int64
        Rows. Without ``val`` the last epoch is the chosen one.
    recipe : HeadRecipe
    seed : int
        Of the start and of the order of pictures.
    step : callable (done, total)

    Raises
    ------
    ValueError
        If the pooling cannot be of that shape.
    FloatingPointError
        If the loss is no longer a number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ProbeHead(pooling, shape, classes)
    rng = np.random.default_rng((seed, 31))
    steps = max(1, round(len(train) / recipe.batch))  # of nearly equal size, since batch norm needs two pictures
    rate = recipe.rate(math.ceil(len(train) / steps))
    optimizer = recipe.optimizer_of(head, rate)
    targets = torch.from_numpy(labels)
    curve = np.full((recipe.epochs, 3), math.nan)
    best, chosen, weights = (-math.inf, -math.inf), recipe.epochs, {}
    for epoch in range(recipe.epochs):
        head.train()
        losses = []
        for number, rows in enumerate(np.array_split(rng.permutation(train), steps)):
            at = epoch + number / steps
            for group in optimizer.param_groups:
                group["lr"] = rate * cosine_cycles(at, steps=recipe.epochs, warmup=recipe.warmup)
            loss = F.cross_entropy(head(read(rows)), targets[rows])
            if not loss.isfinite():
                raise FloatingPointError(f"the loss of {pooling} is {float(loss)} in epoch {epoch + 1}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        curve[epoch, 0] = float(np.mean(losses))
        if val is not None:
            logits = logits_of(head, read, val)
            accuracy = float((logits.argmax(1) == targets[val]).double().mean())
            curve[epoch, 1:] = accuracy, float(F.cross_entropy(logits, targets[val]))
            if (score := (accuracy, -curve[epoch, 2])) > best:
                best, chosen, weights = score, epoch + 1, _copied(head)
        step(epoch + 1, recipe.epochs)
    if weights:
        head.load_state_dict(weights)
    return TrainedHead(head.eval(), chosen, curve)


@torch.inference_mode()
def logits_of(head: ProbeHead, read: TokenReader, rows: Rows) -> Tensor:
    """[n, K], in eval mode."""
    head.eval()
    return torch.cat([head(read(rows[first : first + EVALUATED])) for first in range(0, len(rows), EVALUATED)])


def _copied(head: ProbeHead) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in head.state_dict().items()}
