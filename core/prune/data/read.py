"""Any source of questions about pictures: folders, tables, lists, and scenes that are drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...io.photo.read import PHOTO_SUFFIXES
from ...io.tables import is_saved
from .drawn import drawn_samples, is_drawn
from .rows import line_samples, table_samples
from .samples import QuestionSample, QuestionSet, check_unique

LISTED = "metadata.jsonl"
"""Describes the pictures of an image folder of ``datasets``."""


def read_samples(source: str | Path, *, limit: int | None = None, seed: int = 0) -> QuestionSet:
    """The questions of a source. Pictures are read when they are asked for.

    Parameters
    ----------
    source : str or Path
        An image folder of ``datasets`` with ``metadata.jsonl``, a folder that ``datasets`` saved or one of parquet
        files, a parquet file, a JSONL file, or ``shapes[:TASK][:SEED]xN``: N drawn scenes.
    limit : int, optional
        That many samples, drawn at random; they stay in their order.
    seed : int
        Of that draw, and of drawn scenes that name none.

    Raises
    ------
    InputError
        If the source cannot be read, is none of these, or a row of it lacks picture or question: names row and column.
    UsageError
        For drawn scenes of an unknown task.
    """
    text = str(source)
    warnings: list[str] = []
    if is_drawn(text):
        samples = drawn_samples(text, seed)
    else:
        samples = tuple(_rows(Path(source), warnings))
        check_unique(text, samples)
    if not samples:
        raise InputError(text, "has no row", "Name a data set with pictures and questions")
    if limit is not None and limit < len(samples):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(samples))[:limit])
        warnings.append(f"{limit} of its {len(samples)} samples, drawn at random (seed {seed})")
        samples = tuple(samples[index] for index in chosen)
    found = QuestionSet(text, samples, tuple(warnings))
    if found.answered < len(samples):
        many = "no sample has" if not found.answered else f"{len(samples) - found.answered} of {len(samples)} have no"
        more = "fidelity to the model itself" if not found.answered else "their fidelity to the model itself"
        end = " an answer" if not found.answered else " answer"
        return QuestionSet(text, samples, (*warnings, f"{many}{end}: only {more} is measured"))
    return found


def _rows(path: Path, warnings: list[str]) -> Iterator[QuestionSample]:
    if path.is_dir():
        return _folder(path, warnings)
    if not path.exists():
        raise InputError(path, "does not exist", "Name a folder, a parquet or JSONL file, or shapesx100")
    if path.suffix.lower() == ".parquet":
        return table_samples(path)
    if path.name.lower().endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return line_samples(path)
    raise InputError(
        path, f"is no data set that is known ({path.suffix or 'no suffix'})", "Name a folder, .parquet or .jsonl"
    )


def _folder(path: Path, warnings: list[str]) -> Iterator[QuestionSample]:
    if is_saved(path):
        return table_samples(path)
    if (path / LISTED).is_file():
        return _image_folder(path, warnings)
    if tables := sorted(path.glob("*.parquet")):
        return _tables(path, tables)
    inside = sorted(name for name in os.listdir(path) if (path / name).is_dir() and _is_set(path / name))
    if inside:
        raise InputError(path, f"holds several data sets: {', '.join(inside[:6])}", f"Name one: {path / inside[0]}")
    what = f"has neither {LISTED} nor parquet files, and was not saved by datasets"
    raise InputError(path, what, f'Write {LISTED}: {{"file_name": ..., "question": ..., "answer": ...}} on each line')


def _is_set(path: Path) -> bool:
    return is_saved(path) or (path / LISTED).is_file() or any(path.glob("*.parquet"))


def _tables(path: Path, tables: list[Path]) -> Iterator[QuestionSample]:
    """The rows of several files; those without an id are called by file and row."""
    for table in tables:
        for sample in table_samples(table):
            yield sample if not sample.id.startswith("row ") else _renamed(sample, f"{table.name} {sample.id}")


def _renamed(sample: QuestionSample, name: str) -> QuestionSample:
    return QuestionSample(name, sample.picture, sample.question, sample.answers, sample.task, sample.boxes)


def _image_folder(path: Path, warnings: list[str]) -> Iterator[QuestionSample]:
    samples = list(line_samples(path / LISTED))
    named = {os.path.normpath(str(sample.picture)) for sample in samples}
    pictures = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
    ]
    if others := sorted(file for file in pictures if os.path.normpath(file) not in named):
        some = ", ".join(os.path.relpath(file, path) for file in others[:3]) + (", ..." if len(others) > 3 else "")
        warnings.append(f"pictures that {LISTED} does not name were passed by: {len(others)} ({some})")
    return iter(samples)
