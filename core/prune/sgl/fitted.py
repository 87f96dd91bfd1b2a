"""A threshold of early exit as a file: what `attn prune calibrate sgl` writes."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

from ..calibrated import read_calibration, write_calibration

NAME = "sgl"


@dataclass(frozen=True, slots=True)
class FittedExit:
    """From which decision on a guide's answer is taken, and for what that was found.

    Parameters
    ----------
    threshold : float
        The large model is asked below it.
    wanted, reached : float
        Share of the samples for which it is to be asked, and was.
    model, guide : str
        As the user named them.
    fingerprints : tuple of str
        Of the weights of both.
    max_new_tokens : int
    samples : int
    data, split : str
        What was read.
    marks : tuple of str
        Of the samples (``data.marks.mark_of``): none of them may be evaluated on.
    """

    threshold: float
    wanted: float
    reached: float
    model: str
    guide: str
    fingerprints: tuple[str, str]
    max_new_tokens: int
    samples: int
    data: str
    split: str
    marks: tuple[str, ...]

    def differences(self, fingerprints: tuple[str, str], max_new_tokens: int) -> list[str]:
        """What is not as it was when the threshold was found, each a line for the user.

        Parameters
        ----------
        fingerprints : tuple of str
            Of the weights of model and guide; empty: not known.
        max_new_tokens : int
            Longest answer of the guide.
        """
        texts = []
        for what, name, mine, theirs in zip(
            ("model", "guide"), (self.model, self.guide), self.fingerprints, fingerprints, strict=True
        ):
            if mine and theirs and mine != theirs:
                texts.append(f"the threshold was found for other weights of the {what}, those of {name}.")
        if max_new_tokens != self.max_new_tokens:
            texts.append(
                f"the threshold was found for answers of {self.max_new_tokens} tokens at most, not {max_new_tokens}."
            )
        return texts


def write_exit(path: str | PathLike[str], fitted: FittedExit) -> None:
    """Write a threshold as JSON."""
    write_calibration(path, NAME, fitted)


def read_exit(path: str | PathLike[str]) -> FittedExit:
    """The threshold in a file. Raises ``InputError`` if it cannot be read or is something else."""
    return read_calibration(path, NAME, _exit_of)


def _exit_of(values: dict[str, Any]) -> FittedExit:
    first, second = values.pop("fingerprints")
    marks = tuple(map(str, values.pop("marks")))
    fitted = FittedExit(**values, fingerprints=(str(first), str(second)), marks=marks)
    float(fitted.threshold)
    return fitted
