"""`attn retrieve index`: parse, call core, show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn.core.bundles import Inputs, Reporting

from ..options import (
    AllowDownloadOption,
    ClusterOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxTokensOption,
    NulOption,
    OverwriteOption,
    QuietOption,
    ReportOption,
    RetrievalModelOption,
    TemperatureOption,
    ThreadsOption,
    TimeoutOption,
    VerboseOption,
    WorkersOption,
)
from ..say import say

if TYPE_CHECKING:
    from attn.core.report.model import Item, Report


def main(
    gallery: Annotated[
        list[str],
        typer.Argument(
            metavar="GALLERY",
            help="Folders of images or texts, BEIR or MTEB folders, .jsonl, .tsv, .parquet, files; -: paths on stdin.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="INDEX", help="Folder of the index, or qdrant://HOST:PORT/NAME.")
    ],
    model: RetrievalModelOption = "minilm",
    temperature: TemperatureOption = 1.0,
    max_tokens: MaxTokensOption = None,
    store: Annotated[
        str,
        typer.Option(
            "--store", metavar="auto|flat|lance", help="flat: exact. lance: for millions. auto: flat up to 100000."
        ),
    ] = "auto",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Begin anew: another model, or an index that is damaged.")
    ] = False,
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="Keep entries that the gallery no longer holds.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Forget also entries of galleries that are empty or not named now.")
    ] = False,
    chunk: Annotated[
        str | None,
        typer.Option(
            "--chunk",
            metavar="auto|TOKENS|off",
            help="Embed long texts in passages that overlap; hits are whole documents.",
            show_default="as the index has it",
        ),
    ] = None,
    nul: NulOption = False,
    allow_download: AllowDownloadOption = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    workers: WorkersOption = 1,
    cluster: ClusterOption = None,
    item_timeout: TimeoutOption = None,
) -> None:
    """Embed a gallery of images or texts into an index.

    The same command again embeds only what is new or has changed, and forgets what is gone: what an argument that was
    read whole does not hold any more. What cannot be read now keeps its entries, and the exit code is 1; so does an
    argument that holds nothing at all (a disk that is not mounted). Entries of galleries that are not named stay;
    --prune forgets them. A run that was killed goes on where it was, and forgets nothing.

    The index remembers the model, its weights and the temperature, the galleries, and the absolute path of each file
    and where that is from the index: hits are found from any folder, and after both moved together.
    """
    from attn.core.bundles import Placement
    from attn.core.retrieve.options import EncoderOptions, IndexOptions

    from ..show import run_files

    options = IndexOptions(
        EncoderOptions(model, temperature, max_tokens, device, dtype, allow_download),
        store, rebuild, keep_missing, prune, chunk,
    )  # fmt: skip
    placement = Placement(
        workers=workers, cluster=cluster, item_timeout=item_timeout, threads=threads, overwrite=overwrite
    )

    def removed(report: Report) -> None:
        """Also with --quiet: nothing goes without a word."""
        if count := next((item.metrics.get("removed") for item in report.items), None):
            some = ", ".join(report.items[0].details["removed"][:3])
            say(
                f"attn: {output}: {count} removed, gone from the gallery: {some}{', ...' if count > 3 else ''}",
                err=True,
            )

    run_files(
        "attn.core.retrieve.verbs.index:index", Inputs(tuple(gallery), output, nul), options, placement,
        Reporting(as_json, report_file, quiet, verbose), row=_row, before=removed,
    )  # fmt: skip


def _row(item: Item) -> dict[str, Any]:
    return {"input": item.input, "status": item.status, **item.metrics, "error": item.error, "seconds": item.seconds}
