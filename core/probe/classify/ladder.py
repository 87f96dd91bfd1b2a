"""The ladder: probes from k-NN to whole blocks on the same frozen features, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...options import OptionError
from .data import ClassSet
from .features import Features
from .head import NEIGHBOURS, TEMPERATURES, ProbeHead, neighbour_scores
from .measure import TIMED, Hits, hits, milliseconds, multiply_adds
from .reading import TokenReader, reads_of, token_shape
from .split import Rows, Split
from .training import HeadRecipe, TrainedHead, logits_of, train_head

TOP = 5
Said = Callable[[str, int, int], None]
"""``(what goes on, done, total)``."""


class Bench:
    """What all probes of a run share.

    Parameters
    ----------
    pictures : ClassSet
    features : Features
    split : Split
    recipe : HeadRecipe
    queries, d_out : int
        Of ``ep``.
    """

    def __init__(
        self, pictures: ClassSet, features: Features, split: Split, recipe: HeadRecipe, queries: int, d_out: int
    ) -> None:
        self.pictures, self.features, self.split, self.recipe = pictures, features, split, recipe
        self.queries, self.d_out = queries, d_out
        self._readers: dict[tuple[int, str], TokenReader] = {}

    @property
    def classes(self) -> int:
        return len(self.pictures.classes)

    def labels(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self.pictures.labels[rows])

    def reader(self, layer: int, tokens: str) -> TokenReader:
        """Tokens of one layer stay in memory, where they fit, until another is asked for."""
        if any(of != layer for of, _ in self._readers):
            self._readers.clear()
        if (layer, tokens) not in self._readers:
            self._readers[layer, tokens] = TokenReader(self.features, layer, tokens)
        return self._readers[layer, tokens]

    def check(self, probes: Sequence[str]) -> None:
        """Make every head once, without its numbers: what cannot be is told before the work. Raises ``OptionError``."""
        for probe in probes:
            pooling, tokens = reads_of(probe, self.features)
            if pooling == "knn":
                continue
            try:
                with torch.device("meta"):
                    ProbeHead(pooling, token_shape(self.features, tokens, self.queries, self.d_out), self.classes)
            except ValueError as error:
                field_name = "queries" if pooling == "ep" else "poolings"
                raise OptionError(f"{{{field_name}}}: {error}.") from None


@dataclass(frozen=True, slots=True)
class Rung:
    """What one probe came to on one layer.

    Parameters
    ----------
    probe : str
        As the user named it.
    layer : int
    reads : str
        See ``reads_of``.
    hits, top_hits : ndarray of bool, shape (seeds, n)
        Test pictures whose class is the best, or among the five best.
    trained : tuple of TrainedHead
        One of each seed; empty for k-NN.
    facts : mapping
        Parameters, multiply-adds, milliseconds, and how epoch or k were chosen.
    curves : ndarray, shape (seeds, epochs, 3), or None
        See ``TrainedHead``.
    """

    probe: str
    layer: int
    reads: str
    hits: Hits
    top_hits: Hits
    trained: tuple[TrainedHead, ...] = ()
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    curves: NDArray[np.float64] | None = None


def climb(
    bench: Bench, probe: str, layer: int, seeds: Sequence[int], said: Said, *, train: Mapping[int, Rows] | None = None
) -> Rung:
    """Train and test one probe on one layer.

    Parameters
    ----------
    bench : Bench
    probe : str
    layer : int
    seeds : sequence of int
    said : callable
    train : mapping of seed to rows, optional
        A few pictures to learn from; then nothing is validated: the last epoch counts.
    """
    pooling, tokens = reads_of(probe, bench.features)
    read, test = bench.reader(layer, tokens), bench.split.test
    if pooling == "knn":
        return _neighbours(bench, probe, layer, read, seeds, train)
    shape = token_shape(bench.features, tokens, bench.queries, bench.d_out)
    heads = []
    for number, seed in enumerate(seeds):

        def step(done: int, total: int, number: int = number) -> None:
            said(f"{probe}, layer {layer}", number * total + done, len(seeds) * total)

        rows, val = (bench.split.train, bench.split.val) if train is None else (train[seed], None)
        labels = bench.pictures.labels
        heads.append(train_head(pooling, shape, read, labels, bench.classes, rows, val, bench.recipe, seed, step))
    logits = [logits_of(one.head, read, test) for one in heads]
    labels_there = bench.labels(test)
    few = read(test[:TIMED])
    epochs = [one.epoch for one in heads]
    facts: dict[str, float | int | str] = {
        "parameters": heads[0].head.parameter_count,
        "mega_multiply_adds": multiply_adds(heads[0].head, few) / 1e6,
        "ms_per_image": milliseconds(heads[0].head, few),
        "width": heads[0].head.pooling.out_width,
        "heads": heads[0].head.pooling.heads,
        "paper_heads": heads[0].head.pooling.paper_heads,
        "chosen": ("epoch " if train is None else "last epoch ") + "/".join(map(str, epochs)),
    }
    return Rung(
        probe, layer, tokens, np.stack([hits(of, labels_there) for of in logits]),
        np.stack([hits(of, labels_there, TOP) for of in logits]), tuple(heads), facts,
        np.stack([one.curve for one in heads]),
    )  # fmt: skip


def _neighbours(
    bench: Bench, probe: str, layer: int, read: TokenReader, seeds: Sequence[int], few: Mapping[int, Rows] | None
) -> Rung:
    """k-NN: k and T by the validation part; of a few pictures k is their number in each class, T the first."""
    split, found, top, chosen = bench.split, [], [], []
    for seed in seeds if few is not None else seeds[:1]:  # without draws there is nothing random in it
        rows = split.train if few is None else few[seed]
        train, labels = read(rows)[:, 0], bench.labels(rows)
        pairs = [(k, t) for k, t in product(NEIGHBOURS, TEMPERATURES) if k <= max(len(rows), NEIGHBOURS[0])]
        pair = (max(1, len(rows) // bench.classes), TEMPERATURES[0])
        if few is None:
            scores = neighbour_scores(read(split.val)[:, 0], train, labels, bench.classes, pairs)
            rates = [hits(of, bench.labels(split.val)).mean() for of in scores]
            pair = pairs[int(np.argmax(rates))]
        (logits,) = neighbour_scores(read(split.test)[:, 0], train, labels, bench.classes, [pair])
        found.append(hits(logits, bench.labels(split.test)))
        top.append(hits(logits, bench.labels(split.test), TOP))
        chosen.append(f"k {pair[0]}, T {pair[1]:g}")
    width = bench.features.tokens[layer].shape[-1]
    facts = {
        "parameters": 0, "mega_multiply_adds": width * len(rows) / 1e6, "width": width, "heads": 0, "chosen": chosen[0],
    }  # fmt: skip
    return Rung(probe, layer, read.tokens, np.stack(found), np.stack(top), (), facts)
