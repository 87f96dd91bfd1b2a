"""The faults a user can act on. Core raises them; the command line prints their text as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from os import PathLike


class AttnError(Exception):
    """Base of every error whose text is written for the person at the terminal."""


class InputError(AttnError):
    """A file that cannot be processed: which one, what is wrong with it, and what to do.

    Parameters
    ----------
    path : str or PathLike
        The file, as the user named it.
    what : str
        What is wrong, in one clause without a full stop.
    fix : str
        What the user can do about it; empty where nothing helps.
    """

    def __init__(self, path: str | PathLike[str], what: str, fix: str = "") -> None:
        super().__init__(path, what, fix)  # all three in args, so that the error survives pickling to a worker and back
        self.path, self.what, self.fix = str(path), what, fix

    @property
    def reason(self) -> str:
        """The message without the file's name, for reports that list the file beside it."""
        return f"{self.what}. {self.fix}" if self.fix else self.what

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class UsageError(AttnError, ValueError):
    """Arguments that make no sense together or name something that does not exist (exit code 2)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'Did you mean X?' for the nearest known name, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else ""
