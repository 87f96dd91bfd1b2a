"""What goes into an index, what comes out of it whole, and which one is meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from ...bundles import AsJson, Inputs
from ...options import Option, OptionError, check
from .encoder import GalleryEncoderOptions


@dataclass(frozen=True, slots=True)
class Galleries(Inputs):
    """What is indexed, and where the index is; None: beside the gallery."""

    NOTHING: ClassVar[str] = "Name folders of images or texts, data sets, lists, or - for paths on stdin."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Folders of images or texts, BEIR or MTEB folders, .jsonl, .tsv, .parquet, files; -: paths on stdin.",
            metavar="GALLERY", positional=True,
        ),
    ] = ()  # fmt: skip
    output: Annotated[
        str | None,
        Option(
            "Folder of the index, s3://BUCKET/PATH or qdrant://HOST:PORT/NAME.", short="-o", metavar="INDEX",
            shown="GALLERY.index, beside the one gallery",
        ),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class Index:
    """The index that a verb works on: a folder, or an ``s3://`` or ``qdrant://`` address."""

    index: Annotated[str, Option("What `attn retrieve index` made.", metavar="INDEX", positional=True)]


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How a gallery becomes an index.

    Parameters
    ----------
    encoder : GalleryEncoderOptions
    store : {"auto", "flat", "lance"}
        Of a folder; an address says it itself, and object storage keeps a Lance table.
    rebuild : bool
        Begin anew: the only way to another model, and out of a damaged index.
    keep_missing : bool
        Keep what the gallery no longer holds.
    prune : bool
        Forget also what is of galleries that are empty now, or are not named.
    chunk : str, optional
        See ``passages.passage_tokens``; default: as the index has it.

    Raises
    ------
    OptionError
        If ``prune`` and ``keep_missing`` are both wanted.
    """

    encoder: GalleryEncoderOptions = field(default_factory=GalleryEncoderOptions)
    store: Annotated[
        str, Option("flat: exact. lance: for millions. auto: flat up to 100000.", metavar="auto|flat|lance")
    ] = "auto"
    rebuild: Annotated[bool, Option("Begin anew: another model, or an index that is damaged.")] = False
    keep_missing: Annotated[bool, Option("Keep entries that the gallery no longer holds.")] = False
    prune: Annotated[bool, Option("Forget also entries of galleries that are empty or not named now.")] = False
    chunk: Annotated[
        str | None,
        Option(
            "Embed long texts in passages that overlap; hits are whole documents.",
            metavar="auto|TOKENS|off", shown="as the index has it",
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if self.prune and self.keep_missing:
            raise OptionError("{prune} and {keep_missing} exclude each other: forget what is not found, or keep it.")


@dataclass(frozen=True, slots=True)
class InfoOptions:
    """How an index is described."""

    as_json: AsJson = False


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an index is copied to.

    Parameters
    ----------
    output : str
        A file, a folder, ``s3://BUCKET/PATH`` or ``qdrant://HOST[:PORT]/COLLECTION``.
    to : {"parquet", "npz", "arrays", "flat", "lance"}, optional
        Default: by the name of ``output``: .parquet, .npz, ``flat:DIR``, ``lance:DIR``, else a folder of arrays.
    overwrite : bool
        Replace a file, an index or an earlier export that is there. Never a folder of anything else, nor a collection.
    """

    output: Annotated[
        str,
        Option(
            "FILE.parquet, FILE.npz, a folder, s3://BUCKET/PATH or qdrant://HOST:PORT/NAME.", short="-o", metavar="OUT"
        ),
    ]
    to: Annotated[
        str | None,
        Option("What OUT is to be.", metavar="parquet|npz|arrays|flat|lance", shown="by its name; a folder: arrays"),
    ] = None
    overwrite: Annotated[bool, Option("Do outputs again that exist already.", common=True)] = False
