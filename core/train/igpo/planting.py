"""Pieces of a known reasoning trace, planted among masks as tokens that stay: methods/igpo.md, section 3.2."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""First position, and the one behind the last."""
STRETCH = 1.5
"""How far apart hints are moved, at most, where a completion is longer than the trace."""
MAX_SPACING = 100
"""Positions between two hints, at most."""


@dataclass(frozen=True, slots=True)
class Planting:
    """How hints are cut out of a trace, and where they go.

    Parameters
    ----------
    least, most : int
        Tokens of a chunk.
    free_tail : int
        Last positions of a completion, which are never hinted.
    stretch : float
        See ``STRETCH``; 1 leaves hints where the trace has them.
    max_spacing : int
    reveal_last : bool
        The last chunk is always planted.
    """

    least: int
    most: int
    free_tail: int = 30
    stretch: float = STRETCH
    max_spacing: int = MAX_SPACING
    reveal_last: bool = True


def chunks_of(length: int, least: int, most: int, rng: random.Random) -> list[Span]:
    """Step b: a trace cut into chunks of ``least`` to ``most`` tokens; a shorter tail belongs to none."""
    chunks: list[Span] = []
    at = 0
    while at < length:
        size = min(rng.randint(least, most), length - at)
        if size < least:
            break
        chunks.append((at, at + size))
        at += size
    return chunks


def revealed(chunks: Sequence[Span], ratio: float, rng: random.Random, *, last: bool) -> list[Span]:
    """Step c: the share ``ratio`` of the chunks, rounded up; the others stay hidden."""
    hidden = set(rng.sample(range(len(chunks)), math.floor(len(chunks) * (1 - ratio))))
    if last:
        hidden.discard(len(chunks) - 1)
    return [chunk for number, chunk in enumerate(chunks) if number not in hidden]


def spread(chunks: Sequence[Span], factor: float, room: int, max_spacing: int) -> list[Span]:
    """Step d: where the chunks go, ``factor`` times as far apart; what does not fit into ``room`` is cut off."""
    placed: list[Span] = []
    for number, (start, end) in enumerate(chunks):
        if number == 0:
            at = int(start * factor)
        else:
            at = placed[-1][1] + min(int((start - chunks[number - 1][1]) * factor), max_spacing)
        if at >= room:
            break
        placed.append((at, min(at + end - start, room)))
    return placed


def plant(length: int, completion: int, ratio: float, planting: Planting, rng: random.Random) -> list[tuple[int, Span]]:
    """Where pieces of a trace stand in a completion.

    Parameters
    ----------
    length, completion : int
        Tokens of trace and completion.
    ratio : float
        Share of the chunks that are planted.
    planting : Planting
    rng : Random
        One ``randint`` a chunk, then one ``sample``.

    Returns
    -------
    list of (int, (int, int))
        First token of the trace, and the positions in the completion that it and those behind it take.
    """
    room = completion - planting.free_tail
    if length == 0 or room <= 0:
        return []
    chunks = chunks_of(min(length, room), planting.least, planting.most, rng)
    shown = revealed(chunks, ratio, rng, last=planting.reveal_last)
    factor = min(max(room / length, 1.0), planting.stretch)
    placed = spread(shown, factor, room, planting.max_spacing)
    return [(source[0], place) for source, place in zip(shown, placed, strict=False)]
