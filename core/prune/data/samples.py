"""One question about a picture, and a set of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.tables import StoredImage
from ...models.pictures import ColourPicture, read_picture

VQA_ANSWERS = 10
"""People who answered each question of VQA and of the sets that follow it."""


@dataclass(frozen=True, slots=True, eq=False)
class QuestionSample:
    """A question about a picture.

    Parameters
    ----------
    id : str
        Unique in its set.
    picture : Path, StoredImage or ndarray of uint8 [H, W, 3]
        Read when it is asked for.
    question : str
    answers : tuple of str
        Accepted ones, or those of ten people; empty where none is known.
    task : str or None
    boxes : ndarray of float64 [n, 4], or None
        What the answer is seen in: left, top, right, bottom, in pixels of the picture's file.
    """

    id: str
    picture: Path | StoredImage | NDArray[np.uint8]
    question: str
    answers: tuple[str, ...] = ()
    task: str | None = None
    boxes: NDArray[np.float64] | None = None

    @property
    def answer(self) -> str | None:
        """The answer that most gave, the first of equal ones; None where none is known."""
        return max(self.answers, key=self.answers.count) if self.answers else None

    @property
    def name(self) -> str:
        """What reports call the picture."""
        return self.id if isinstance(self.picture, np.ndarray) else str(self.picture)

    def read(self) -> ColourPicture:
        """The picture. Raises ``InputError`` if it cannot be read."""
        if isinstance(self.picture, np.ndarray):
            pixels = np.ascontiguousarray(self.picture.transpose(2, 0, 1), np.float32) / np.float32(255)
            return ColourPicture(pixels, (pixels.shape[1], pixels.shape[2]))
        if isinstance(self.picture, Path):
            return read_picture(self.picture)
        stored = self.picture
        with stored.as_file() as file:
            return read_picture(file)


@dataclass(frozen=True, slots=True)
class QuestionSet(Sequence[QuestionSample]):
    """Samples of one source.

    Parameters
    ----------
    name : str
        The source, as the user named it.
    samples : tuple of QuestionSample
    warnings : tuple of str
        What of the source is not among them, and what was chosen.
    """

    name: str
    samples: tuple[QuestionSample, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[QuestionSample]:
        return iter(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    @property
    def answered(self) -> int:
        """Samples with an answer."""
        return sum(bool(sample.answers) for sample in self.samples)

    @property
    def by_people(self) -> bool:
        """Each sample has the answers of ten people, as in VQA: how many of them agree is the score."""
        return bool(self.samples) and all(len(sample.answers) == VQA_ANSWERS for sample in self.samples)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with questions, answers and the names of pictures."""
        digest = hashlib.blake2b(digest_size=8)
        for sample in self.samples:
            picture = sample.picture
            shown = picture.tobytes() if isinstance(picture, np.ndarray) else str(picture).encode(errors="replace")
            digest.update(repr((sample.id, sample.question, sample.answers, sample.task)).encode(errors="replace"))
            digest.update(shown)
        return digest.hexdigest()


def check_unique(source: str, samples: Sequence[QuestionSample]) -> None:
    """Raise ``InputError`` if two samples have one id: their records could not be told apart."""
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise InputError(
                source, f"two rows have the id {sample.id!r}", "Give each an id of its own, or none at all"
            )
        seen.add(sample.id)
