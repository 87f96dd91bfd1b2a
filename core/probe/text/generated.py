"""Texts that are drawn, and in which it is known what decides: reviews with cues, and stories with questions.

Reviews: the sum of one or three cues, each turned round where a negation stands before it, decides; all other words say
nothing. Cues are as frequent as words of a language are (rank to the power of -1), so that some are hardly ever learnt.
Stories: who moved where, in the order of time; a question asks for somebody's last place (after task 1 of bAbI, arXiv
1502.05698).
"""

from __future__ import annotations

import numpy as np

from ...io.texts import LabelledText

GOOD = tuple(
    "good great fine lovely superb bright witty warm clever charming fresh moving honest tender graceful rich "
    "brilliant funny sharp gentle inspired splendid delightful radiant".split()
)
BAD = tuple(
    "bad poor dull awful weak flat silly cold stupid boring stale clumsy false harsh tedious empty dreadful lame "
    "shallow crude lifeless dismal annoying hollow".split()
)
NEGATIONS = ("not", "never", "hardly")
FILLERS = tuple(
    "the a film story actor scene plot and of in with that this it was is as for on at by from director camera script "
    "music ending opening part moment people city house river train letter winter summer morning night family friend "
    "doctor teacher soldier child mother father brother sister dog horse garden market road bridge hill forest island "
    "ship table window door lamp book song picture colour sound voice hand face word year week hour minute second "
    "begins ends shows tells turns finds keeps leaves takes gives makes plays follows returns walks waits opens".split()
)
SHORTEST, LONGEST = 8, 32
"""Words of a review."""
NEGATED = 0.25
"""Share of cues with a negation before them."""
NOISE = 0.05
"""Share of reviews whose label is wrong, in training and in tests."""
NAMES = ("mary", "john", "sandra", "daniel")
ROOMS = ("kitchen", "garden", "office", "bathroom", "hallway", "bedroom")
MOVES = ("moved to", "went to", "travelled to", "journeyed to")
PARTS = ("train", "val", "test")
_SALT = 19950815


def drawn_texts(count: int, *, pair: bool, seed: int = 0) -> list[LabelledText]:
    """``count`` texts to train on, a third as many for validation, and as many as to train on for the test.

    Parameters
    ----------
    count : int
    pair : bool
        Stories with questions instead of reviews.
    seed : int
        Another seed draws other texts.
    """
    drawn = []
    for number, (part, many) in enumerate(zip(PARTS, (count, -(-count // 3), count), strict=True)):
        rng = np.random.default_rng((_SALT, seed, pair, number))
        for row in range(many):
            drawn.append((_story if pair else _review)(rng, f"{part} {row + 1}", part))
    return drawn


def _review(rng: np.random.Generator, place: str, part: str) -> LabelledText:
    length = int(rng.integers(SHORTEST, LONGEST + 1))
    words = [FILLERS[int(rng.integers(len(FILLERS)))] for _ in range(length)]
    cues = int(rng.choice((1, 3)))
    total = 0
    for at in rng.choice(length // 2, cues, replace=False).tolist():  # every other place: none stands before another
        good, negated = bool(rng.integers(2)), bool(rng.random() < NEGATED)
        words[2 * at + 1] = _by_rank(rng, GOOD if good else BAD)
        words[2 * at] = NEGATIONS[int(rng.integers(len(NEGATIONS)))] if negated else words[2 * at]
        total += 1 if good != negated else -1
    label = (total > 0) != (rng.random() < NOISE)
    return LabelledText(" ".join(words), "good" if label else "bad", place, part)


def _by_rank(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    weight = 1 / np.arange(1, len(words) + 1)
    return words[int(rng.choice(len(words), p=weight / weight.sum()))]


def _story(rng: np.random.Generator, place: str, part: str) -> LabelledText:
    last: dict[str, str] = {}
    told = []
    for _ in range(int(rng.integers(2, 8))):
        name, room = NAMES[int(rng.integers(len(NAMES)))], ROOMS[int(rng.integers(len(ROOMS)))]
        told.append(f"{name} {MOVES[int(rng.integers(len(MOVES)))]} the {room} .")
        last[name] = room
    asked = sorted(last)[int(rng.integers(len(last)))]
    return LabelledText(" ".join(told), last[asked], place, part, f"where is {asked} ?")
