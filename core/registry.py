"""How a method's name finds its code: plain tables whose entries are resolved on use, so that listing them is free.

A table never imports the methods it lists; ``resolve`` does. Registering a name twice raises.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .errors import UsageError, did_you_mean

Status = Literal["faithful", "differs", "baseline", "ours"]


class Need(NamedTuple):
    """An optional package: the name it is imported by, what pip installs, and the extra of attn that brings it."""

    module: str
    package: str
    extra: str = ""

    @property
    def missing(self) -> bool:
        return importlib.util.find_spec(self.module) is None

    @property
    def get(self) -> str:
        """The command that installs it."""
        return f"pip install 'attn[{self.extra}]'" if self.extra else f"pip install {self.package}"


@dataclass(frozen=True, slots=True)
class Method:
    """One method of one command.

    Parameters
    ----------
    name : str
        What users type.
    home : str
        ``"package.module:attribute"``, imported on use. What it must be, the command's folder says (a denoiser's is
        ``fit``, an operator's ``Operator``, a recipe's ``Verb``).
    summary, paper : str
        One line each; ``paper`` is the source (arXiv number, venue) or the library that provides the method.
    year : int
        Year of publication.
    needs : tuple of Need
        Optional packages. ``--list`` and ``attn doctor`` say which are missing and how to get them.
    device : {"any", "cpu"}
        ``cpu``: it runs there whatever the device that was asked for.
    trained : bool
        False: a network whose weights do not ship. It must be trained first; ``note`` says how.
    options : tuple of str, optional
        The fields of the command's options that it reads, where not every method reads all. None: those that are for
        all methods. ``attn denoise`` refuses what belongs to other methods, and takes two runs that differ only in what
        is not read for the same.
    status : {"faithful", "differs", "baseline", "ours"}
        For people; nothing depends on it. ``faithful``: parity with the official implementation is tested.
        ``differs``: implemented, but does not match (``note`` says how). ``baseline``: a well-kept library's method
        under our command. ``ours``: our own method, not a published one.
    note : str
        What a user must know: a restrictive licence, a difference from the paper.
    """

    name: str
    home: str
    summary: str
    paper: str
    year: int
    needs: tuple[Need, ...] = ()
    device: Literal["any", "cpu"] = "any"
    trained: bool = True
    options: tuple[str, ...] | None = None
    status: Status = "faithful"
    note: str = ""

    def missing(self) -> list[str]:
        """Packages to install before this method can run."""
        return [need.package for need in self.needs if need.missing]

    def resolve(self) -> Any:
        """The function or value at ``home``. Raises ``UsageError`` when an optional package is missing."""
        if missing := self.missing():
            raise UsageError(f"{self.name} needs a package that is not installed: pip install {' '.join(missing)}")
        return self.load()

    def load(self) -> Any:
        """What is at ``home``, whatever is missing: for help."""
        return pkgutil.resolve_name(self.home)


class Registry(Mapping[str, Method]):
    """The methods of one command, in the order in which they should be listed."""

    def __init__(self, command: str, methods: list[Method]) -> None:
        self.command = command
        self._methods: dict[str, Method] = {}
        for method in methods:
            self._add(method)

    def _add(self, method: Method) -> None:
        if method.name in self._methods:
            raise ValueError(f"{self.command}: method {method.name!r} is registered twice")
        self._methods[method.name] = method

    @contextmanager
    def extended(self, *methods: Method) -> Iterator[None]:
        """Have further methods at the end of the table for a while: to try one's own, or in a test.

        They are known in this process; ``--workers`` and ``--cluster`` start others.

        >>> from attn.core.catalogue import registry
        >>> mine = Method("mine", home="my_package.denoise:fit", summary="my own", paper="none yet", year=2026)
        >>> with registry("denoise").extended(mine):
        ...     "mine" in registry("denoise")
        True
        """
        before = dict(self._methods)
        try:
            for method in methods:
                self._add(method)
            yield
        finally:
            self._methods = before

    def __getitem__(self, name: str) -> Method:
        if name not in self._methods:
            hint = did_you_mean(name, self._methods) or f"Known: {', '.join(self._methods)}."
            raise UsageError(f"no {self.command} method named {name!r}. {hint} `attn {self.command} --list` shows all.")
        return self._methods[name]

    def __contains__(self, name: object) -> bool:
        return name in self._methods

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)
