"""`attn train priorclip`: parse, call core, show."""

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
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run and its model.")],
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="JSON", help="Captions with splits, pictures beside it or in images/; or synthetic."
        ),
    ] = "synthetic",
    gate: Annotated[
        str, typer.Option("--gate", metavar="NAME", help="How belief weighs patches: rank, released, weighted, none.")
    ] = "rank",
    instruction: Annotated[
        bool, typer.Option("--instruction/--no-instruction", help="Off: plain CLIP, without the scene classifier.")
    ] = True,
    image_size: Annotated[int, typer.Option("--image-size", metavar="PX", min=8, help="Side of a picture.")] = 64,
    patch: Annotated[int, typer.Option("--patch", metavar="PX", min=1, help="Side of a patch.")] = 16,
    width: Annotated[int, typer.Option("--width", metavar="C", min=8, help="Of both towers.")] = 64,
    layers: Annotated[int, typer.Option("--layers", metavar="N", min=1, help="Of both towers.")] = 2,
    heads: Annotated[int, typer.Option("--heads", metavar="N", min=1)] = 4,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=2, help="Of stages 1 and 2 together.")] = 300,
    coarse_steps: Annotated[
        int, typer.Option("--coarse-steps", metavar="N", min=0, help="Of these, stage 1: captions of the scene only.")
    ] = 100,
    instruction_steps: Annotated[
        int, typer.Option("--instruction-steps", metavar="N", min=1, help="Stage 0, the scene classifier; on top.")
    ] = 100,
    warmup: Annotated[
        int, typer.Option("--warmup", metavar="N", min=0, help="Steps of each stage in which the rate rises.")
    ] = 30,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=2, help="Pairs per step.")] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="Highest rate of AdamW.")] = 2e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", metavar="X", min=0.0)] = 0.05,
    center_factor: Annotated[
        float, typer.Option("--center-factor", metavar="X", min=0.0, help="Weight of the affiliation loss; 0: none.")
    ] = 1.0,
    affiliation_targets: Annotated[
        str,
        typer.Option("--affiliation-targets", metavar="diagonal|class", help="diagonal: as published; class: floor 0."),
    ] = "diagonal",
    augment: Annotated[
        str, typer.Option("--augment", metavar="auto|crop|none", help="crop: crops and mirror images; auto: for files.")
    ] = "auto",
    compare: Annotated[
        bool, typer.Option("--compare", help="Train plain CLIP for as many steps too, and report both.")
    ] = False,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", metavar="N", min=1, help="Steps between evaluations and checkpoints.")
    ] = 100,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where the folder holds a run.")] = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 77,
    threads: ThreadsOption = None,
) -> None:
    """Train retrieval of pictures from above by sentence, guided by a scene classifier.

    File names begin with the scene, as harbour_12.png. Three stages: the scene classifier, captions of the scene only,
    the captions themselves. Pictures of the split val choose the best weights, those of test are reported.
    """
    from attn.core.retrieve.priorclip.model import PriorCLIPArchitecture
    from attn.core.train.priorclip.options import PriorCLIPOptions
    from attn.core.train.priorclip.run import train_priorclip

    from .show import run_recipe

    options = PriorCLIPOptions(
        architecture=PriorCLIPArchitecture(
            image_size=image_size, patch_size=patch, width=width, layers=layers, num_heads=heads, out=width,
            gate=gate, instruction=instruction,  # type: ignore[arg-type]
        ),
        steps=steps, coarse_steps=coarse_steps, instruction_steps=instruction_steps, warmup=warmup, batch=batch,
        learning_rate=learning_rate, weight_decay=weight_decay, center_factor=center_factor,
        affiliation_targets=affiliation_targets,  # type: ignore[arg-type]
        augment=augment, compare=compare, evaluate_every=evaluate_every, device=device, seed=seed,
    )  # fmt: skip
    train = partial(train_priorclip, data, output, options, restart=restart, threads=threads)
    run_recipe(
        "priorclip", train, data, output, told=lambda m: f"loss {m['loss']:.3f}, mR {m.get('mr', float('nan')):.3f}",
        as_json=as_json, report_file=report_file, quiet=quiet, verbose=verbose,
        rows=lambda report: report.items[0].details.get("comparison"),  # both models, where two were trained
    )  # fmt: skip
