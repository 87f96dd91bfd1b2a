"""What became of every question under every method, kept in files: a part that is done is not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn.core.prune.engine.moment import TokenChoice
from attn.core.prune.measure.statistics import Estimate, mean_interval, wilson

from .questions import TOKENS, Asked

FIELDS = ("right", "recall", "padding", "below", "same")


@dataclass
class Tally:
    """Outcomes by method: arrays [n], NaN where nothing was measured.

    ``right``: the answer. ``recall``: evidence kept. ``padding``: share of padding among what was kept. ``below``:
    share of kept tokens in the lower half. ``same``: the whole model says so, too.
    """

    count: int
    values: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def add(
        self, name: str, asked: Asked, index: NDArray[np.int64], logits: Tensor, kept: Sequence[Tensor] | None,
        share: float, whole: Tensor,
    ) -> None:  # fmt: skip
        """Note a batch: answers [B, V], the numbers of the tokens that were kept, and those of the whole model."""
        own = self.values.setdefault(name, {field: np.full(self.count, np.nan, np.float32) for field in FIELDS})
        said = logits.argmax(-1).numpy()
        own["right"][index] = said == asked.right[index]
        own["same"][index] = said == whole.argmax(-1).numpy()
        self.shares[name] = share
        if kept is None:
            return
        mask = np.zeros((len(index), TOKENS), bool)
        for row, tokens in enumerate(kept):
            mask[row, tokens.numpy()] = True
        wanted = asked.evidence[index]
        with np.errstate(invalid="ignore"):
            own["recall"][index] = np.where(wanted.any(1), (mask & wanted).sum(1) / wanted.sum(1), np.nan)
        own["padding"][index] = (mask * asked.outside[index]).sum(1) / mask.sum(1)
        own["below"][index] = mask[:, TOKENS // 2 :].sum(1) / mask.sum(1)

    def choose(self, name: str, asked: Asked, index: NDArray[np.int64], logits: Tensor, choices: Sequence[TokenChoice],
               share: float, whole: Tensor) -> None:  # fmt: skip
        self.add(name, asked, index, logits, [choice.keep for choice in choices], share, whole)

    def group(self, names: Sequence[str], what: str) -> NDArray[np.float32]:
        """A field, mean over methods (the seeds of one), [n]."""
        means: NDArray[np.float32] = np.mean([self.values[name][what] for name in names], 0)
        return means

    def accuracy(self, *names: str) -> Estimate:
        right = self.group(names, "right")
        known = right[np.isfinite(right)]
        return wilson(float(known.sum()), len(known))

    def mean(self, what: str, *names: str) -> Estimate:
        return mean_interval(self.group(names, what))


@dataclass(frozen=True)
class Kept:
    """A folder of parts."""

    folder: Path

    def tally(self, name: str, about: Mapping[str, object], make: Callable[[], Tally]) -> Tally:
        """The part of a name, made where it is not there yet or was made otherwise (``about``)."""
        path = self.folder / f"{name}.npz"
        stamp = json.dumps(about, sort_keys=True)
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                if str(file["about"]) == stamp:
                    return _read(file)
        made = make()
        arrays = {f"{method}/{field}": values for method, own in made.values.items() for field, values in own.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".tmp.npz")
        np.savez_compressed(
            part, about=np.array(stamp), shares=np.array(json.dumps(made.shares)), count=np.array(made.count), **arrays
        )
        os.replace(part, path)
        return made


def _read(file: Mapping[str, NDArray[np.float32]]) -> Tally:
    values: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key in file:
        method, slash, field = key.rpartition("/")
        if slash:
            values.setdefault(method, {})[field] = file[key]
    return Tally(int(file["count"]), values, json.loads(str(file["shares"])))


def of_scores(scores: Tensor, count: int) -> list[TokenChoice]:
    """The ``count`` tokens of each row with the largest scores [B, n]."""
    return [TokenChoice(row) for row in torch.topk(scores, count, 1).indices.sort(1).values]
