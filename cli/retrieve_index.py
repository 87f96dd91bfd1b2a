"""`attn retrieve index`: parse, call core, show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    ClusterOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxTokensOption,
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

if TYPE_CHECKING:
    from attn.core.io.report import Item


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

    The same command again embeds only what is new or has changed, and forgets what is gone. A run that was killed
    goes on where it was. The index remembers the model, its weights and the temperature.
    """
    from attn.core.batch import Placement
    from attn.core.retrieve.index import index
    from attn.core.retrieve.options import EncoderOptions, IndexOptions

    from .show import run_files

    options = IndexOptions(
        EncoderOptions(model, temperature, max_tokens, device, dtype), store, rebuild, keep_missing
    )  # fmt: skip
    placement = Placement(
        workers=workers, cluster=cluster, item_timeout=item_timeout, threads=threads, overwrite=overwrite
    )
    run_files(
        index, gallery, output, options, placement, as_json=as_json, report_file=report_file, quiet=quiet,
        verbose=verbose, row=_row,
    )  # fmt: skip


def _row(item: Item) -> dict[str, Any]:
    return {"input": item.input, "status": item.status, **item.metrics, "error": item.error, "seconds": item.seconds}
