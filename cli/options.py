"""Options and value parsers that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from attn.core.retrieve import encoder_rows, model_help


def complete_methods(command: str) -> Callable[[str], list[tuple[str, str]]]:
    """Shell completion of a command's method names, from the table alone (no torch)."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from attn.core.catalogue import registry

        return [(name, method.summary) for name, method in registry(command).items() if name.startswith(incomplete)]

    return complete


def complete_encoders(incomplete: str) -> list[tuple[str, str]]:
    """Shell completion of the encoders that have a name, from the table alone."""
    return [(row.name, row.summary) for row in encoder_rows("name") if row.name.startswith(incomplete)]


InputsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help="Files, directories, - for a list of paths on stdin, or example:NAME.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Directory for the results; with one input, NAME with an image's suffix is the result.",
    ),
]
NulOption = Annotated[
    bool, typer.Option("--null", "-0", help="The list on stdin is separated by NUL, as find -print0 writes it.")
]
ListOption = Annotated[bool, typer.Option("--list", help="List the methods and leave.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the report too: .json, .csv, .md or .html.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show where a failure came from.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Do outputs again that exist already.")]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="DEVICE", envvar="ATTN_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
DtypeOption = Annotated[str, typer.Option("--dtype", metavar="DTYPE", help="float32 or float64.")]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Seed of everything random.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        envvar="ATTN_THREADS",
        help="CPU threads per process.",
        show_default="all cores",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option("--workers", metavar="N", min=1, max=1024, envvar="ATTN_WORKERS", help="Processes on this machine."),
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ADDRESS", help="Run on a dask.distributed scheduler, e.g. tcp://host:8786."),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--item-timeout", min=1.0, metavar="SECONDS", help="Give a file up after so long."),
]
RetrievalModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|DIR|FILE",
        help=model_help(),
        autocompletion=complete_encoders,
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option("--temperature", "-T", metavar="T", help="Of the attention (TempScale); below 1 is sharper."),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", metavar="N", min=4, help="Cut longer texts.", show_default="the model's limit"),
]
AllowDownloadOption = Annotated[
    bool, typer.Option("--allow-download", help="Ask the Hugging Face hub for a model that is not on this machine.")
]
IndexArgument = Annotated[
    str, typer.Argument(metavar="INDEX", help="What `attn retrieve index` made.", show_default=False)
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="EXPR", help="Only entries that fit: \"width > 800 AND lang = 'en'\"."),
]
