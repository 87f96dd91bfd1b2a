"""Templates of captions: made of descriptions, clustered by their meaning, one central and some random ones a cluster.

Specification: methods/ga-dms.md, section 6, data pipeline. The paper has a text LLM rewrite captions and synthesise
more templates; here ``phrases`` takes captions apart, and nothing is synthesised. Its review by people is
OUT/templates.txt: a run goes on with the templates that are there, edited or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...io.atomic import write_text
from ...io.records import lines
from ...options import OptionError
from ..options.encoder import ModelOptions
from . import phrases

FILE = "templates.txt"
MOST, SHARE = 166, 6
"""Clusters: the paper's thousand templates are 166 with six each."""
HEADER = "# Templates of attn retrieve curate, one a line. Edit, remove, add: the next run uses what is here.\n"


@dataclass(frozen=True, slots=True)
class Template:
    """A template, and why it was chosen.

    Parameters
    ----------
    text : str
    cluster : int
        From 1; 0 of one that was given.
    role : {"central", "random", "given"}
    descriptions : int
        How many had it.
    """

    text: str
    cluster: int = 0
    role: str = "given"
    descriptions: int = 0


def read_templates(path: Path, field: str = "templates") -> list[Template]:
    """Templates of a file, one a line; lines that begin with # are not.

    Raises
    ------
    InputError
        If the file cannot be read.
    OptionError
        If a line has no slot, or one that is unknown, or there is no line.
    """
    found: dict[str, Template] = {}
    for number, line in lines(path):
        text = " ".join(line.split())
        if text.startswith("#"):
            continue
        unknown = phrases.unknown_slots(text)
        if unknown or not phrases.slots(text):
            what = f"{unknown[0]!r} in braces is no slot" if unknown else "no slot"
            known = ", ".join((*phrases.HEADS, *phrases.DERIVED))
            raise OptionError(f"{{{field}}} {path}: line {number}: {what}. Slots stand in braces and are {known}.")
        found.setdefault(text, Template(text))
    if not found:
        raise OptionError(f"{{{field}}} {path}: holds no template. Write one a line, or remove the file.")
    return list(found.values())


def write_templates(folder: Path, templates: Sequence[Template]) -> None:
    """Into the folder of results, where ``read_templates`` finds them."""
    write_text(folder / FILE, HEADER + "".join(f"{template.text}\n" for template in templates))


def template_of(description: str) -> str:
    """The template of a description; empty where it has no slot, or says of one person what slots do not hold.

    "a grey, somewhat worn coat" would leave "grey" in a template, and so in the captions of everybody.
    """
    parsed = phrases.parse(description)
    return parsed.template if parsed.values and not phrases.left_over(parsed.template) else ""


def make_templates(
    descriptions: Sequence[str], encoder: ModelOptions, *, clusters: int | None, random_each: int, seed: int
) -> list[Template]:
    """The templates of descriptions: of each cluster the central one and ``random_each`` others.

    Descriptions without a ``template_of`` give none. Equal seeds and descriptions give equal templates, in any order.

    Raises
    ------
    OptionError
        If the encoder cannot be had.
    """
    counts = Counter(filter(None, map(template_of, descriptions)))
    if not (texts := sorted(counts)):
        return []
    from ..encoders.kept import encoder_of

    vectors = encoder_of(encoder).encode_texts([phrases.shown(text) for text in texts]).vectors.astype(np.float64)
    rng = np.random.default_rng((seed, 1))
    members = clustered(vectors, min(clusters or max(1, min(MOST, len(texts) // SHARE)), len(texts)), rng)
    chosen: list[Template] = []
    for number, rows in enumerate(members, 1):
        centre = vectors[rows].mean(0)
        central = rows[int(np.argmax(vectors[rows] @ centre))]
        others = rng.permutation(rows[rows != central])[:random_each]
        chosen += [
            Template(texts[row], number, "central" if row == central else "random", counts[texts[row]])
            for row in (central, *np.sort(others))
        ]
    return chosen


def clustered(vectors: NDArray[np.float64], count: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of at most ``count`` clusters by k-means (k-means++, of scipy), the largest first; none is empty."""
    import warnings

    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty cluster, which is left out here
        _, label = kmeans2(vectors, count, iter=50, minit="++", seed=rng)
    rows = [np.flatnonzero(label == cluster) for cluster in range(count)]
    return sorted((some for some in rows if len(some)), key=lambda some: (-len(some), int(some[0])))


def drawn(templates: Sequence[str], key: str, wanted: int, seed: int, already: Mapping[str, str] = {}) -> list[str]:
    """Different templates for one crop, at random by its name, in the order of ``templates``.

    Those that it was captioned with already stay, so that they are not asked again.
    """
    stay = [template for template in templates if template in already][:wanted]
    rng = np.random.default_rng((seed, *key.encode()))
    rest = [templates[row] for row in rng.permutation(len(templates)) if templates[row] not in stay]
    return sorted((stay + rest)[:wanted], key=templates.index)
