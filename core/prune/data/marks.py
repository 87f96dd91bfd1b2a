"""Marks of the samples that something was fitted to: none of them may be evaluated on.

Source: methods/prune-evaluation.md, section 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import numpy as np

from ...errors import InputError, UsageError
from .samples import QuestionSample


def mark_of(sample: QuestionSample) -> str:
    """16 hex digits of a sample's pixels and question: the same wherever it lies and whatever it is called."""
    picture = sample.read()
    digest = hashlib.blake2b(digest_size=8)
    digest.update(sample.question.encode(errors="replace"))
    digest.update(repr(picture.pixels.shape).encode())
    digest.update(np.rint(picture.pixels * 255).astype(np.uint8).tobytes())
    return digest.hexdigest()


def check_unseen(samples: Iterable[QuestionSample], marks: Collection[str], what: str) -> None:
    """Refuse samples that something was fitted to: their score would be none of unseen samples.

    A picture that cannot be read is none of them.

    Parameters
    ----------
    samples : iterable of QuestionSample
    marks : collection of str
        Of the samples it was fitted to.
    what : str
        What was, in words: ``"the trend was fitted to"``.

    Raises
    ------
    UsageError
        If a sample has one of the marks.
    """
    known = set(marks)
    seen = [sample.id for sample in samples if _marked(sample, known)] if known else []
    if seen:
        some = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
        raise UsageError(f"{len(seen)} of the samples are among those that {what} ({some}). Evaluate on others.")


def _marked(sample: QuestionSample, marks: set[str]) -> bool:
    try:
        return mark_of(sample) in marks
    except InputError:
        return False
