"""`attn train fsgnet`: parse, call core, show."""

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


def parse_depths(text: str) -> tuple[int, ...]:
    """``3,3,9,3`` as numbers. Raises ``UsageError`` for anything else."""
    from attn.core.errors import UsageError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--depths: {text!r} is no list of four numbers, as 3,3,9,3.") from None


def main(
    data: Annotated[
        Path,
        typer.Option("--data", metavar="DIR", help="Holds images/ and manual/ (or labels/, truth/, …); fov/ if any."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run and its model.")],
    trunk: Annotated[
        str,
        typer.Option("--trunk", metavar="NAME", help="Part before the guided decoder: fsgnet, unet, biformer, halo."),
    ] = "fsgnet",
    guided: Annotated[
        bool, typer.Option("--guided/--no-guided", help="Off: plain upsampling, the paper's noGRM ablation.")
    ] = True,
    attention: Annotated[
        bool, typer.Option("--attention/--no-attention", help="Off: guided filters without attention weights.")
    ] = True,
    width: Annotated[int, typer.Option("--width", metavar="C", min=1, help="Base width; the paper's is 64.")] = 8,
    depths: Annotated[str, typer.Option("--depths", metavar="N,N,N,N", help="Blocks per scale.")] = "3,3,9,3",
    kernel: Annotated[int, typer.Option("--kernel", metavar="K", min=1, help="Side of the blocks' convolutions.")] = 3,
    drop_block: Annotated[
        bool, typer.Option("--drop-block/--no-drop-block", help="DropBlock in every block, as the paper has it.")
    ] = False,
    batch_coupled: Annotated[
        bool,
        typer.Option("--batch-coupled/--per-image", help="Attention sums over the batch, as in the official code."),
    ] = False,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=2, help="Optimisation steps.")] = 3000,
    warmup: Annotated[int, typer.Option("--warmup", metavar="N", min=0, help="Steps in which the rate rises.")] = 100,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Crops per step.")] = 4,
    crop: Annotated[int, typer.Option("--crop", metavar="PX", min=1, help="Side of a crop.")] = 256,
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="Highest rate of AdamW.")] = 3e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", metavar="X", min=0.0)] = 0.01,
    cycles: Annotated[
        float,
        typer.Option("--cycles", metavar="X", min=0.0, help="Waves of the cosine schedule; 0.5 falls once to zero."),
    ] = 0.5,
    augment: Annotated[
        str, typer.Option("--augment", metavar="robust|paper", help="robust: for other cameras; paper: as published.")
    ] = "robust",
    normalise: Annotated[
        str,
        typer.Option("--normalise", metavar="fov|imagenet", help="fov: by each photo's own field of view (ours)."),
    ] = "fov",
    hold_out: Annotated[
        int, typer.Option("--hold-out", metavar="N", min=1, help="Photos that choose weights and threshold.")
    ] = 4,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", metavar="N", min=1, help="Steps between evaluations and checkpoints.")
    ] = 100,
    init: Annotated[
        str, typer.Option("--init", metavar="NAME", help="Filter initialiser: he, orthogonal, lsuv, gabor, pca, …")
    ] = "torch-default",
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="Start from a model file.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where the folder holds a run.")] = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 77,
    threads: ThreadsOption = None,
) -> None:
    """Train vessel segmentation on fundus photos with labels.

    Photos and labels are matched by name. Some photos are held out: they choose the best weights and the threshold.
    With a splits.json in the data folder only its train list is used.
    """
    from attn.core.segment.fsgnet.checkpoint import FSGNetArchitecture
    from attn.core.train.fsgnet.options import FSGNetOptions
    from attn.core.train.fsgnet.run import train_fsgnet

    from .show import run_recipe

    options = FSGNetOptions(
        architecture=FSGNetArchitecture(
            trunk=trunk, width=width, depths=parse_depths(depths), kernel=kernel, guided=guided, attention=attention,  # type: ignore[arg-type]
            batch_coupled=batch_coupled, drop_block=drop_block,
        ),
        steps=steps, warmup=warmup, batch=batch, crop=crop, learning_rate=learning_rate, weight_decay=weight_decay,
        cycles=cycles, augment=augment, normalise=normalise, hold_out=hold_out, evaluate_every=evaluate_every,
        init=init, weights=weights, device=device, seed=seed,
    )  # fmt: skip
    train = partial(train_fsgnet, data, output, options, restart=restart, threads=threads)
    run_recipe(
        "fsgnet", train, data, output, told=lambda m: f"loss {m['loss']:.3f}, F1 {m.get('f1', float('nan')):.3f}",
        as_json=as_json, report_file=report_file, quiet=quiet, verbose=verbose,
    )  # fmt: skip
