"""The faults a user can act on. Core raises them; the command line prints their text as one line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike

from .text import library_words, one_line

LONGEST = 600
"""Characters of a message: a file's own words may be millions."""


class AttnError(Exception):
    """Base of every error whose text is written for the person at the terminal: one line, and not an endless one."""


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
        what, fix = shortened(what), shortened(fix)
        super().__init__(path, what, fix)  # all three in args, so that the error survives pickling to a worker and back
        self.path, self.what, self.fix = str(path), what, fix

    @property
    def reason(self) -> str:
        """The message without the file's name, for reports that list the file beside it."""
        return f"{self.what}. {self.fix}" if self.fix else self.what

    def __str__(self) -> str:
        return f"{shortened(self.path)}: {self.reason}"  # a damaged list may name a file of thousands of characters


class UsageError(AttnError, ValueError):
    """Arguments that make no sense together or name something that does not exist (exit code 2)."""

    def __init__(self, text: object = "") -> None:
        super().__init__(shortened(str(text)))


class LossError(AttnError, FloatingPointError):
    """A loss that is no longer a number: training stops, and its last checkpoint stays."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """One line of at most ``longest`` characters; what is cut out of its middle is marked ``…``."""
    text = one_line(text)
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-(longest // 2) + 3 :]}"


@contextmanager
def decoding(
    path: str | PathLike[str], kind: str, fix: str = "Copy or export it again", shown: Callable[[str], str] = str
) -> Iterator[None]:
    """Turn whatever a library raises on damaged bytes into one ``InputError``: each is the file's fault.

    Parameters
    ----------
    path : str or PathLike
    kind : str
        What the file should be: ``"parquet"``.
    fix : str
    shown : callable
        Makes of the library's words what may be shown of them.

    Raises
    ------
    InputError
        For any exception but our own, also for a lack of memory.
    """
    try:
        yield
    except AttnError:
        raise
    except MemoryError as error:
        raise InputError(path, "needs more memory than there is", "Split the file") from error
    except RecursionError as error:
        raise InputError(path, "nests its elements too deeply to be read", fix) from error
    except Exception as error:
        detail = shown(shortened(library_words(error), 200)) or type(error).__name__
        raise InputError(path, f"cannot be read as {kind} ({detail})", fix) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'Did you mean X?' for the nearest known name, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else ""
