"""Photos with captions, as a small image transformer takes them, and the questions that captions answer by themselves.

Both kinds of question are mirrored: the photos that are asked side by side share their choices, each choice is right
for one of them, and so an answer that does not look at the photo is right in exactly one of K.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attn.core.models.pictures import read_picture

SIDE, PATCH = 112, 14
TOKENS = (SIDE // PATCH) ** 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
THINGS = (
    "man woman boy girl baby child player surfer crowd street road sidewalk traffic intersection building bridge "
    "city airport plane bus train truck car bike bicycle motorcycle boat horse dog cat bird bear cow sheep "
    "elephant zebra giraffe beach ocean water wave river snow slope mountain hill field grass tree park court "
    "tennis baseball ball bat kite umbrella bench table chair bed desk room kitchen bathroom toilet sink mirror "
    "counter floor wall window screen computer laptop keyboard phone camera food plate bowl pizza cake sandwich "
    "fruit glass bottle suit tie hat shirt jacket sign clock pole luggage"
).split()  # fmt: skip
"""Words that are asked for, where enough photos have them in a caption, in the singular or with an s."""
FEW = 8


@dataclass(frozen=True)
class CaptionedPhotos:
    """A folder of photos with captions.

    Parameters
    ----------
    files : tuple of Path
    captions : tuple of tuple of str
        Of each photo.
    """

    files: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, folder: Path) -> CaptionedPhotos:
        rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
        names = [row.get("file") or row["image"] for row in rows]
        captions = tuple(tuple(text.strip().rstrip(".").strip() for text in row["captions"]) for row in rows)
        return cls(tuple(folder / name for name in names), captions)

    def words(self) -> list[set[str]]:
        """All words of each photo's captions."""
        return [set(re.findall("[a-z]+", " ".join(captions).lower())) for captions in self.captions]


def things(words: Sequence[set[str]], known: Sequence[str] = THINGS) -> list[set[str]]:
    """Those of the known things that captions name."""
    return [{thing for thing in known if thing in some or thing + "s" in some} for some in words]


def common_things(words: Sequence[set[str]]) -> list[str]:
    """The things that at least ``FEW`` photos have."""
    named = things(words)
    return [thing for thing in THINGS if sum(thing in some for some in named) >= FEW]


def pixels_of(file: Path, side: int = SIDE) -> Tensor:
    """A photo [3, side, side] as the ViT takes it: the whole of it, its aspect ratio is lost."""
    picture = torch.from_numpy(read_picture(file).pixels)[None]
    small = F.interpolate(picture, (side, side), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
    return (small - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def word_questions(named: Sequence[set[str]], rounds: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """(photo, word that its captions name, word that they do not): each pair of words is asked of two photos."""
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        order = generator.permutation(len(named))
        for one, other in zip(order[::2].tolist(), order[1::2].tolist(), strict=False):
            mine, its = sorted(named[one] - named[other]), sorted(named[other] - named[one])
            if mine and its:
                here, there = str(generator.choice(mine)), str(generator.choice(its))
                yield one, here, there
                yield other, there, here


def caption_groups(count: int, choices: int, rounds: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """(number of the caption, photos that are asked which of theirs it is)."""
    generator = np.random.default_rng(seed)
    for number in range(rounds):
        order = generator.permutation(count)
        for start in range(0, count - choices + 1, choices):
            yield number, order[start : start + choices].tolist()
