"""How a method's name finds its code: plain tables whose entries are resolved on use, so that listing them is free.

A table never imports the methods it lists; ``resolve`` does. Registering a name twice raises.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .errors import UsageError, did_you_mean

Status = Literal["faithful", "differs", "baseline"]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of one command.

    Parameters
    ----------
    name : str
        What users type.
    home : str
        ``"package.module:attribute"``, imported on use.
    summary, paper : str
        One line each; ``paper`` is the source (arXiv number, venue) or the library that provides the method.
    year : int
        Year of publication.
    needs : tuple of (import name, package to install)
        Optional packages. ``--list`` and ``attn doctor`` say which are missing and how to get them.
    status : {"faithful", "differs", "baseline"}
        ``faithful``: parity with the official implementation is tested. ``differs``: implemented, but does not match
        (``note`` says how). ``baseline``: a well-kept library's method under our command.
    note : str
        What a user must know: a restrictive licence, a difference from the paper.
    """

    name: str
    home: str
    summary: str
    paper: str
    year: int
    needs: tuple[tuple[str, str], ...] = ()
    status: Status = "faithful"
    note: str = ""

    def missing(self) -> list[str]:
        """Packages to install before this method can run."""
        return [package for module, package in self.needs if importlib.util.find_spec(module) is None]

    def resolve(self) -> Any:
        """The function or class at ``home``. Raises ``UsageError`` when an optional package is missing."""
        if missing := self.missing():
            raise UsageError(f"{self.name} needs a package that is not installed: pip install {' '.join(missing)}")
        return self.load()

    def load(self) -> Any:
        """What is at ``home``, whatever is missing: for help."""
        module, _, attribute = self.home.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, Method]):
    """The methods of one command, in the order in which they should be listed."""

    def __init__(self, command: str, methods: list[Method]) -> None:
        self.command = command
        self._methods: dict[str, Method] = {}
        for method in methods:
            if method.name in self._methods:
                raise ValueError(f"{command}: method {method.name!r} is registered twice")
            self._methods[method.name] = method

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
