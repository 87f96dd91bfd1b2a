"""`attn train image-text-head`: parse, call core, show."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    DeviceOption,
    JsonOption,
    QuietOption,
    ReportOption,
    SeedOption,
    ThreadsOption,
    VerboseOption,
)


def main(
    data: Annotated[
        Path,
        typer.Option("--data", metavar="FILE", help="JSONL {image, captions, split?}, or Karpathy JSON, of photos."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the head and its card.")],
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder that image paths are relative to.")
    ] = None,
    penalty: Annotated[
        float | None,
        typer.Option("--penalty", metavar="X", min=0.0, help="Of the ridge.", show_default="by cross-validation"),
    ] = None,
    folds: Annotated[int, typer.Option("--folds", metavar="N", min=2, help="Of the cross-validation.")] = 5,
    image_size: Annotated[
        int, typer.Option("--image-size", metavar="PX", min=28, help="Side at which the ViT sees photos.")
    ] = 112,
    block: Annotated[int, typer.Option("--block", metavar="N", min=1, max=12, help="Block of the ViT to read.")] = 12,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 77,
    threads: ThreadsOption = None,
) -> None:
    """Join the packaged ViT and text encoder by a linear head, for retrieval of images by sentences.

    Only photos that were held out are scored: by cross-validation, and on the test split where there is one.
    """
    from attn.core.train.image_text_head import HeadOptions, train_head

    from .show import run_recipe

    options = HeadOptions(penalty, folds, image_size, block, device, seed)
    train = partial(train_head, data, output, options, images=images, threads=threads)
    run_recipe(
        "image-text-head", train, data, output, told=lambda m: "embed photos",
        as_json=as_json, report_file=report_file, quiet=quiet, verbose=verbose,
    )  # fmt: skip
