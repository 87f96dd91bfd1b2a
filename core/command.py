"""What a row of a command group's registry resolves to: a recipe of ``train``, a kind of ``probe``.

The command line makes the subcommand, its help, completion and man page from it, so that a recipe or a kind lives in
its own folder and one registry line.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .progress import Watcher
    from .report.model import Report


class Run(Protocol):
    """Does the work of a subcommand."""

    def __call__(self, options: Any, *, watcher: Watcher | None, arguments: Mapping[str, Any]) -> Report:
        """The report of the run; ``arguments`` is what the report records as the call's arguments."""
        ...


@dataclass(frozen=True, slots=True)
class Verb:
    """A subcommand, stated without its command line and without importing its work.

    Parameters
    ----------
    options : type
        A dataclass of ``Option`` fields; bundles such as ``Inputs`` and ``Placement`` may be among them.
    run : str
        ``"package.module:function"``, a ``Run``, imported on use.
    description : str
        For ``--help`` and the man page: a summary line, a blank line, more.
    examples, files : sequence of (str, str)
        Command line and what it does; file and what is in it. For the man page.
    notes : sequence of str
        Paragraphs of the man page.
    columns : sequence of str
        Metrics that a terminal's table shows, in this order; empty: all.
    """

    options: type
    run: str
    description: str
    examples: Sequence[tuple[str, str]] = ()
    files: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    columns: Sequence[str] = ()

    def resolve(self) -> Run:
        """The function at ``run``."""
        function: Run = pkgutil.resolve_name(self.run)
        return function
