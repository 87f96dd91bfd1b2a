"""Drawn people that differ in one garment, described as a captioner that mixes things up would do it.

People come in families whose members share all attributes but one, so that every word counts. What is wrong in a
training caption is not drawn at random but repeats what is seen elsewhere in the image: a garment gets the colour of
another one, hair that of its look-alike, and things that nobody carries are named in the colour of something worn. Such
errors do not average out. Words are few and in any order, so that a model of two cores' size has to read them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .people import COLOURS, FILLERS, KINDS, SIZE, People, draw_person

NOUNS = {"hair": "hair", "top": "shirt", "bottom": "trousers", "shoes": "shoes", "bag": "bag"}
ALIKE = {"dark": "ginger", "ginger": "dark", "blond": "silver", "silver": "blond"}
INVENTED = ("hat", "scarf", "umbrella", "gloves")
"""Things that no image shows."""
MEMBERS = 4
"""Of a family."""
MOST_WORDS = 2 * len(KINDS) + 3
"""Of a caption: five attributes with their nouns, an invented thing with its colour, a filler."""


def make_families(
    families: int, seed: int, *, images_each: int = 2, captions_each: int = 2, errors: float = 0.3,
    invented: float = 0.5, skip: int = 0, size: tuple[int, int] = SIZE,
) -> People:  # fmt: skip
    """Draw families of ``MEMBERS`` people and describe everyone.

    Parameters
    ----------
    families : int
    seed : int
        The same seed gives the same set.
    images_each, captions_each : int
        Images of a person, and captions of an image.
    errors : float
        Share of attributes that are described wrongly.
    invented : float
        Share of captions that name a thing which nobody carries; both of its words count as wrong.
    skip : int
        Families of this seed that are passed over, so that parts of one seed share nobody.

    Raises
    ------
    ValueError
        If there are not so many families.
    """
    people = [person for family in _families(skip + families, seed)[skip:] for person in family]
    rng = np.random.default_rng((seed, 1, skip))
    images, captions, right, wrong = [], list[str](), list[frozenset[int]](), list[frozenset[int]]()
    for person in people:
        attributes = dict(zip(KINDS, person, strict=True))
        for _ in range(images_each):
            images.append(draw_person(attributes, rng, size))
            for _ in range(captions_each):
                caption, good, bad = describe_mixed_up(attributes, rng, errors, invented)
                captions.append(caption)
                right.append(good)
                wrong.append(bad)
    return People(
        np.stack(images), np.arange(len(people)).repeat(images_each), tuple(captions),
        np.arange(len(images)).repeat(captions_each), tuple(right), tuple(wrong),
    )  # fmt: skip


def _families(count: int, seed: int) -> list[list[tuple[str, ...]]]:
    """The first families of a seed; nobody is in two of them."""
    rng = np.random.default_rng((seed, 0))
    everyone = list(itertools.product(*KINDS.values()))
    taken, families = set[tuple[str, ...]](), list[list[tuple[str, ...]]]()
    for number in rng.permutation(len(everyone)):
        if len(families) == count:
            return families
        first, place = everyone[number], int(rng.integers(len(KINDS)))
        values = list(KINDS.values())[place]
        others = [(*first[:place], values[i], *first[place + 1 :]) for i in rng.permutation(len(values))]
        family = [first, *(other for other in others if other != first and other not in taken)][:MEMBERS]
        if first not in taken and len(family) == MEMBERS:
            taken.update(family)
            families.append(family)
    if len(families) < count:
        raise ValueError(f"there are {len(families)} families, {count} were asked for")
    return families


def describe_mixed_up(
    attributes: dict[str, str], rng: np.random.Generator, errors: float, invented: float
) -> tuple[str, frozenset[int], frozenset[int]]:
    """A caption of at most ``MOST_WORDS`` words, and the places of its right and of its wrong words."""
    phrases = [
        [(wrong_value(kind, attributes, rng), False) if rng.random() < errors else (value, True), (NOUNS[kind], None)]
        for kind, value in attributes.items()
    ]
    worn = [value for value in attributes.values() if value in COLOURS]
    if rng.random() < invented:
        phrases.append([(str(rng.choice(worn)), False), (str(rng.choice(INVENTED)), False)])
    phrases.append([(str(rng.choice(FILLERS)), None)])
    words = [word for i in rng.permutation(len(phrases)) for word in phrases[i]]
    right, wrong = (frozenset(i for i, (_, kind) in enumerate(words) if kind is truth) for truth in (True, False))
    return " ".join(word for word, _ in words), right, wrong


def wrong_value(kind: str, attributes: dict[str, str], rng: np.random.Generator) -> str:
    """What an attribute is taken for: the colour of something else that is worn, any other if all is of one colour."""
    if kind == "hair":
        return ALIKE[attributes["hair"]]
    seen: Sequence[str] = [v for other, v in attributes.items() if other != kind and v in COLOURS]
    choices = [value for value in seen if value != attributes[kind]]
    return str(rng.choice(choices or [value for value in COLOURS if value != attributes[kind]]))
