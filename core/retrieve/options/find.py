"""What is looked for in an index, and how the hits are shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from ...bundles import Device, Threads
from ...errors import did_you_mean
from ...options import Option, OptionError, check
from .encoder import AllowDownload, check_temperature, complete_model

Top = Annotated[int, Option("Hits per query.", short="-k", metavar="N", least=1)]
Where = Annotated[str | None, Option("Only entries that fit: \"width > 800 AND lang = 'en'\".", metavar="EXPR")]
Exact = Annotated[bool, Option("Compare with every entry, whatever the store.")]


@dataclass(frozen=True, slots=True)
class SearchQueries:
    """What a search asks for."""

    query: Annotated[
        tuple[str, ...],
        Option("Sentences, each a query; - reads more of standard input.", metavar="QUERY", positional=True),
    ] = ()
    image: Annotated[
        tuple[Path, ...],
        Option("A photo as the query; may be repeated.", metavar="FILE", parse=Path, repeatable=True),
    ] = ()
    queries: Annotated[
        Path | None, Option(".txt (one a line), .tsv (id, text), .csv, .jsonl or .json.", metavar="FILE")
    ] = None


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of the index that others are compared with."""

    entries: Annotated[
        tuple[str, ...], Option("Entries, by id or by path as hits show them.", metavar="ID", positional=True)
    ]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What is asked of an index.

    Parameters
    ----------
    top : int
    where : str, optional
        Which entries count: see ``store.where.parse``.
    exact : bool
        Compare with every entry even where the store has an approximate index.
    explain : bool
        Say which words of a query counted, and where in each picture.
    model, temperature : optional
        See ``EncoderOptions``; default: the index's own.
    allow_download : bool
        Ask the hub for the model if it is not on this machine.
    device : str
    threads : int, optional
    """

    top: Top = 10
    where: Where = None
    exact: Exact = False
    explain: Annotated[bool, Option("Which words, and which part of each picture, made the match.")] = False
    model: Annotated[
        str | None,
        Option("Default: the index's own.", short="-m", metavar="NAME|DIR|FILE", complete=complete_model),
    ] = None
    temperature: Annotated[float | None, Option("Default: the index's own.", short="-T", metavar="T")] = None
    allow_download: AllowDownload = False
    device: Device = "auto"
    threads: Threads = None

    def __post_init__(self) -> None:
        check(self)
        if self.temperature is not None:
            check_temperature(self.temperature)


@dataclass(frozen=True, slots=True)
class SimilarOptions:
    """What is asked of an index; see ``SearchOptions``.

    Parameters
    ----------
    top : int
    where : str, optional
        Which entries may be hits. The entries that are asked about need not fit.
    exact : bool
    threads : int, optional
    """

    top: Top = 10
    where: Where = None
    exact: Exact = False
    threads: Threads = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class DedupOptions:
    """What counts as the same.

    Parameters
    ----------
    threshold : float
        In (0, 1]: the least cosine. 1 finds equal vectors only.
    where : str, optional
        Which entries are compared: see ``store.where.parse``.
    present : bool
        Compare only entries whose files are there as they were indexed: of those that are listed as extra copies, the
        one that is kept is there, and none is something else by now. For lists of files to remove.
    threads : int, optional
    """

    threshold: Annotated[float, Option("Least cosine of near duplicates, above 0, at most 1.", metavar="T")] = 0.95
    where: Where = None
    present: bool = False
    threads: Threads = None

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.threshold <= 1:
            raise OptionError(f"{{threshold}}: {self.threshold:g} must be above 0 and at most 1, as 0.95.")


PAGES, PICTURES = (".html", ".htm"), (".jpg", ".jpeg", ".png")
"""How names of contact sheets end."""


@dataclass(frozen=True, slots=True)
class Hits:
    """How what was found is shown: checked before the work, not after it.

    Parameters
    ----------
    form : str
        ``"table"``, or one of ``FORMS``: what standard output gets.
    output : Path, optional
        Where the hits are written, in ``form``.
    sheet : Path, optional
        A page with pictures or texts of the hits, or one picture of them.

    Raises
    ------
    OptionError
        For a format that is unknown, or a file that could not be written.
    """

    FORMS: ClassVar[tuple[str, ...]] = ("jsonl", "trec", "tsv", "paths0")

    form: Annotated[str, Option("What stdout gets.", name="--format", metavar="table|jsonl|trec|tsv|paths0")] = "table"
    output: Annotated[Path | None, Option("Write the hits there, in --format.", short="-o", metavar="FILE")] = None
    sheet: Annotated[
        Path | None, Option("A page with pictures or texts of the hits, or one picture.", metavar="FILE.html|jpg|png")
    ] = None

    def __post_init__(self) -> None:
        from ...io.atomic import place_fault

        if self.form not in ("table", *self.FORMS):
            hint = did_you_mean(self.form, self.FORMS) or f"Known: table, {', '.join(self.FORMS)}."
            raise OptionError(f"{{form}}: {self.form!r} is not known. {hint}")
        if self.output is not None and self.form == "table":
            named = f"{', '.join(self.FORMS[:-1])} or {self.FORMS[-1]}"
            raise OptionError(f"{{output}} {self.output}: name how with {{form}} {named}.")
        if self.sheet is not None and self.sheet.suffix.lower() not in PAGES + PICTURES:
            raise OptionError(f"{{sheet}} {self.sheet}: name it {self.sheet.stem}.html for a page, or .jpg, .png.")
        for name in ("output", "sheet"):
            path = getattr(self, name)
            if path is not None and (fault := place_fault(path)):
                raise OptionError(f"{{{name}}} {path}: {fault}.")


@dataclass(frozen=True, slots=True)
class Groups(Hits):
    """``Hits`` of near duplicates, which are no ranking for trec_eval."""

    FORMS: ClassVar[tuple[str, ...]] = ("jsonl", "tsv", "paths0")

    form: Annotated[str, Option("What stdout gets.", name="--format", metavar="table|jsonl|tsv|paths0")] = "table"
