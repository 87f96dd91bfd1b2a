"""Which pictures teach, which choose the epoch, and which are counted: three parts, alike in classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .data import ClassSet

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of the three parts, and how they came about.

    Parameters
    ----------
    train, val, test : ndarray of int64
        Disjoint, ascending.
    said : str
        For the report.
    """

    train: Rows
    val: Rows
    test: Rows
    said: str


def split_of(pictures: ClassSet, rows: Rows, *, test_share: float, val_share: float, seed: int) -> Split:
    """The parts of ``rows`` (the pictures that could be read).

    Parameters
    ----------
    pictures : ClassSet
        Its own splits are kept; parts that it lacks are drawn, class by class.
    rows : ndarray of int64
    test_share, val_share : float
        Of all pictures, and of those that are left; one of each class at least.
    seed : int

    Raises
    ------
    InputError
        If a class is too small to be in every part, or a split of the source lacks a class.
    """
    owns = {name: rows[[pictures.splits[row] == name for row in rows]] for name in ("train", "val", "test")}
    rng = np.random.default_rng((seed, 23))
    if not any(len(part) for part in owns.values()):
        rest, test = _taken(pictures, rows, test_share, 2, rng)
        train, val = _taken(pictures, rest, val_share, 1, rng)
        said = (
            f"stratified, seed {seed}: {len(train)} to learn from, {len(val)} to choose the epoch, {len(test)} to test"
        )
        return Split(train, val, test, said)
    train, val, test = owns["train"], owns["val"], owns["test"]
    drawn = []
    if not len(test):
        if len(val):  # a set with two parts calls the second val, and people report on it
            val, test = test, val
            drawn.append("its val part is the test")
        else:
            train, test = _taken(pictures, train, test_share, 2, rng)
            drawn.append(f"{len(test)} drawn from train to test")
    if not len(val):
        train, val = _taken(pictures, train, val_share, 1, rng)
        drawn.append(f"{len(val)} drawn from train to choose the epoch")
    _check_classes(pictures, train, "train")
    how = f" ({', '.join(drawn)}; stratified, seed {seed})" if drawn else ""
    return Split(
        train, val, test, f"that of the source{how}: {len(train)} to learn from, {len(val)} val, {len(test)} test"
    )


def few(pictures: ClassSet, train: Rows, shots: int, seed: int) -> tuple[Rows, Sequence[str]]:
    """``shots`` pictures of each class of ``train``, and the classes that have fewer."""
    rng = np.random.default_rng((seed, 29, shots))
    chosen, short = [], []
    for number, name in enumerate(pictures.classes):
        of = train[pictures.labels[train] == number]
        chosen.append(rng.permutation(of)[:shots])
        if len(of) < shots:
            short.append(f"{name} ({len(of)})")
    return np.sort(np.concatenate(chosen)), short


def _taken(pictures: ClassSet, rows: Rows, share: float, stays: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """What is left and what is taken: ``share`` of each class, one at least; ``stays`` at least are left."""
    left, taken = [], []
    for number, name in enumerate(pictures.classes):
        of = rng.permutation(rows[pictures.labels[rows] == number])
        if len(of) < stays + 1:
            what = f"class {name!r} has {len(of)} picture{'s' * (len(of) != 1)} that can be read"
            parts = "a part to learn from, one to choose the epoch and one to test"
            raise InputError(pictures.source, f"{what}, too few for {parts}", "Add pictures, or leave the class out")
        count = min(max(1, round(share * len(of))), len(of) - stays)
        taken.append(of[:count])
        left.append(of[count:])
    return np.sort(np.concatenate(left)), np.sort(np.concatenate(taken))


def _check_classes(pictures: ClassSet, rows: Rows, part: str) -> None:
    missing = sorted(set(range(len(pictures.classes))) - set(pictures.labels[rows].tolist()))
    if missing:
        named = ", ".join(repr(pictures.classes[number]) for number in missing[:3])
        raise InputError(pictures.source, f"has no picture of {named} in {part}", "Add some, or leave the class out")
