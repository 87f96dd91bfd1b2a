"""What a command has to show besides its numbers: sections of a report or of one of its items, each of a kind.

Every kind can be told as rows of a table, so the terminal, CSV and Markdown show it, and ``plain`` is what JSON holds.
HTML draws a kind as ``report.html`` has a macro of its name (lower case), any other as that table. A new kind is a
subclass of ``Section``; one that is to be drawn adds its macro.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section(ABC):
    """What all kinds have.

    Parameters
    ----------
    name : str
        Lower case and stable: JSON has the section under it, in ``summary`` of a report, in ``details`` of an item.
    title : str
        For people; default: the name.
    detail : bool
        For those who look closely: the terminal and CSV leave it out, and of an item Markdown, too.
    printed : bool
        False: the terminal alone leaves it out, since every one of many inputs has one.
    """

    name: str
    title: str = field(default="", kw_only=True)
    detail: bool = field(default=False, kw_only=True)
    printed: bool = field(default=True, kw_only=True)

    @property
    def kind(self) -> str:
        """``"table"``, ``"curve"``, ..."""
        return type(self).__name__.lower()

    @property
    def heading(self) -> str:
        """Title, or name in words."""
        return self.title or self.name.replace("_", " ")

    @property
    def brief(self) -> str:
        """One line that says it all on a terminal, in the place of the rows; empty: the rows are shown."""
        return ""

    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """It as a table; columns in the order in which keys first appear."""

    def short_rows(self) -> Sequence[Row]:
        """The table as a terminal shows it."""
        return self.rows()

    def plain(self) -> Any:
        """What JSON holds, before ``model.plain``."""
        return self.rows()


@dataclass(frozen=True, slots=True)
class Table(Section):
    """Flat rows: text and numbers under lower-case names (``words.WORDS`` knows what many mean).

    ``short`` is what a terminal shows instead, for example with two columns in one.
    """

    content: Sequence[Row]
    short: Sequence[Row] = ()

    def rows(self) -> Sequence[Row]:
        return self.content

    def short_rows(self) -> Sequence[Row]:
        return self.short or self.content


@dataclass(frozen=True, slots=True)
class Facts(Section):
    """Names and values that belong together. ``line`` says them in one line, where the terminal has no more room."""

    values: Row
    line: str = ""

    @property
    def brief(self) -> str:
        return self.line

    def rows(self) -> Sequence[Row]:
        return (self.values,)

    def plain(self) -> Row:
        return self.values


@dataclass(frozen=True, slots=True)
class Curve(Section):
    """Lines over one axis; values that are not finite are left out.

    Parameters
    ----------
    lines : mapping of str to sequence of float, length N each
    xs : sequence of float, length N, optional
        Default: 1, 2, ..., N. JSON holds one line over these as a list of its values, else a list under each name.
    xlabel : str
    """

    lines: Mapping[str, Sequence[float]]
    xs: Sequence[float] | None = None
    xlabel: str = "step"

    @property
    def axis(self) -> Sequence[float]:
        """``xs``, or the numbers from 1."""
        return range(1, 1 + max(map(len, self.lines.values()), default=0)) if self.xs is None else self.xs

    @property
    def brief(self) -> str:
        shown = []
        for name, values in self.lines.items():
            known = [value for value in values if math.isfinite(value)]
            shown += [f"{name} {known[0]:.4g} to {known[-1]:.4g}, least {min(known):.4g}"] if known else []
        return f"{self.heading}: {'; '.join(shown) or 'nothing'}"

    def rows(self) -> Sequence[Row]:
        columns = {self.xlabel: self.axis, **self.lines}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def plain(self) -> Any:
        if self.xs is None and len(self.lines) == 1:
            return list(next(iter(self.lines.values())))
        return {self.xlabel: list(self.axis), **self.lines}


@dataclass(frozen=True, slots=True)
class Picture(Section):
    """A file that is a picture (PNG, JPEG, SVG); HTML holds it, everything else names it."""

    path: str

    @property
    def brief(self) -> str:
        return f"{self.heading}: {self.path}"

    def rows(self) -> Sequence[Row]:
        return ({"picture": self.path},)

    def plain(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Words(Section):
    """A text word by word, each with a weight in [0, 1]; HTML marks the words that weigh."""

    words: Sequence[tuple[str, float]]

    @property
    def brief(self) -> str:
        return f"{self.heading}: {' '.join(f'{word} ({weight:.2f})' for word, weight in self.words)}"

    def rows(self) -> Sequence[Row]:
        return [{"word": word, "score": weight} for word, weight in self.words]


@dataclass(frozen=True, slots=True)
class TrustLine:
    """One check of whether a map can be believed.

    Parameters
    ----------
    check : str
        What was checked, in a few words.
    value : float
        What the map came to.
    chance : float
        What chance, or an untrained model, comes to in its place.
    passed : bool
    meaning : str
        One line for people: what the value is, and which one passes.
    """

    check: str
    value: float
    chance: float
    passed: bool
    meaning: str

    @property
    def verdict(self) -> str:
        return "passed" if self.passed else "failed"


@dataclass(frozen=True, slots=True)
class Trust(Section):
    """Checks of a map; HTML shows them green or red, with the word beside the colour."""

    lines: Sequence[TrustLine]

    @property
    def heading(self) -> str:
        return self.title or "can this map be believed?"

    def rows(self) -> Sequence[Row]:
        return [
            {
                "check": line.check, "value": line.value, "chance": line.chance, "verdict": line.verdict,
                "meaning": line.meaning,
            }
            for line in self.lines
        ]  # fmt: skip

    def short_rows(self) -> Sequence[Row]:
        return [{name: row[name] for name in ("check", "value", "chance", "verdict")} for row in self.rows()]


@dataclass(frozen=True, slots=True)
class Passage(Section):
    """A text in pieces, each of a kind; terminal and HTML tell the kinds by colour and mark.

    Parameters
    ----------
    spans : sequence of (str, str)
        Text, and its kind: ``"planted"`` is coloured and stands in brackets, ``"prompt"`` and ``"masked"`` are faint,
        anything else is plain.
    """

    spans: Sequence[tuple[str, str]]

    @property
    def marked(self) -> Sequence[tuple[str, str]]:
        """The pieces with the brackets that say without colour what was planted."""
        return [(f"⟨{text}⟩" if kind == "planted" else text, kind) for text, kind in self.spans]

    def rows(self) -> Sequence[Row]:
        return [{"text": text, "kind": kind} for text, kind in self.spans]
