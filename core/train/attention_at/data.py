"""The texts of a run as numbers: training, validation, test; methods/attention-at.md, section 5."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ...errors import InputError
from ...io.texts import Columns, LabelledText, labelled_texts, parted
from ...nets.attentive.texts import EncodedTexts, KnownWords, count_words, in_order
from ...options import OptionError
from ...probe.text.generated import PARTS, drawn_texts
from .options import TextSet


@dataclass(frozen=True, slots=True)
class TextParts:
    """What a run is trained and judged on.

    Parameters
    ----------
    name : str
        As the user named it.
    train, held_out, test : EncodedTexts
    notices : tuple of str
        What was left out or decided.
    fingerprint : str
        Of all texts and labels.
    """

    name: str
    train: EncodedTexts
    held_out: EncodedTexts
    test: EncodedTexts
    notices: tuple[str, ...]
    fingerprint: str

    @property
    def vocabulary(self) -> KnownWords:
        return self.train.vocabulary

    def counts(self) -> dict[str, int]:
        """Texts of each part, and words."""
        parts = {"train": self.train, "val": self.held_out, "test": self.test}
        return {f"{name}_texts": len(part) for name, part in parts.items()} | {"words": len(self.vocabulary.words)}


def prepare(options: TextSet) -> TextParts:
    """Read, part and number the texts.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no set that can be learnt.
    OptionError
        If an option names a label that is not there.
    """
    rows, notices, name = _rows(options)
    parts = {part: [row for row in rows if row.split == part] for part in PARTS}
    labels = in_order(row.label for row in rows)
    if options.positive is not None:
        if len(labels) != 2 or options.positive not in labels:
            there = ", ".join(labels[:8])
            raise OptionError(f"{{positive}}: {options.positive!r} is none of two labels; there are: {there}.")
        labels = tuple(sorted(labels, key=lambda label: label == options.positive))
    counts = count_words(parts["train"], options.tokens)
    words = tuple(sorted(word for word, count in counts.items() if count >= options.least_count))
    vocabulary = KnownWords(
        words, labels, options.tokens, options.shortest, options.longest, options.pair, options.answers_in_text
    )
    encoded = {part: vocabulary.encode(parts[part]) for part in PARTS}
    for part, texts in encoded.items():
        notices += [f"{part}: {count} texts left out, {why}" for why, count in texts.left.items()]
    _check(name, labels, encoded)
    if options.tokens == "whitespace" and options.data is not None:
        notices += _marks(counts)
    if len(labels) == 2:
        notices.append(f"F1 and AUC are those of {labels[1]!r}")
    content = "\0".join(f"{row.split}\1{row.label}\1{row.text}\1{row.query}" for row in rows)
    fingerprint = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    train, held_out, test = (encoded[part] for part in PARTS)
    return TextParts(name, train, held_out, test, tuple(notices), fingerprint)


def _rows(options: TextSet) -> tuple[list[LabelledText], list[str], str]:
    if options.data is None:
        return drawn_texts(options.drawn, pair=options.pair), [], "drawn texts"
    columns = Columns(options.text_column, options.label_column, options.query_column, options.pair)
    rows = labelled_texts(options.data, columns)
    if options.test_data is not None:
        test = [replace(row, split="test") for row in labelled_texts(options.test_data, columns)]
        rows = [replace(row, split=row.split or "train") for row in rows if row.split != "test"] + test
    rows, notices = parted(options.data, rows)
    return rows, notices, options.data.name


def _check(name: str, labels: tuple[str, ...], encoded: dict[str, EncodedTexts]) -> None:
    """Raise ``InputError`` where a classifier could not be trained, chosen or tested."""
    if len(labels) < 2:
        only = f"all texts have the label {labels[0]!r}" if labels else "there are no texts"
        raise InputError(name, f"{only}; a classifier tells two or more apart", "Name another column, or add texts")
    for part, texts in encoded.items():
        if not len(texts):
            raise InputError(name, f"no text of {part} can be read", "Add texts, or allow shorter and longer ones")
        missing = [label for number, label in enumerate(labels) if number not in texts.labels]
        if missing and (part == "train" or len(labels) == 2):
            what = f"no text of {part} has the label {missing[0]!r}"
            raise InputError(name, what, "Add texts of it (ten of each label are enough to have some in every part)")


def _marks(counts: Counter[str]) -> list[str]:
    """What to say where punctuation marks hang on words."""
    total = sum(counts.values())
    hanging = sum(
        count for word, count in counts.items() if len(word) > 1 and word[-1] in ".,;:!?" and word[-2].isalnum()
    )
    if hanging <= 0.02 * max(total, 1):
        return []
    share = round(100 * hanging / total)
    return [
        f"{share} % of the words end in a punctuation mark, which makes them words of their own; tokens 'words' splits"
    ]


def word_counts(texts: EncodedTexts) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How often each word occurs in training texts, padding never: int64 [1 + words]."""
    ids = np.concatenate([*texts.ids, *texts.queries])
    return np.bincount(ids, minlength=1 + len(texts.vocabulary.words)).astype(np.int64)
