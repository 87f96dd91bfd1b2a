"""`attn train ga-dms`: parse, call core, show."""

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


def parse_size(text: str) -> tuple[int, int]:
    """``384x128`` as (height, width). Raises ``UsageError`` for anything else."""
    from attn.core.errors import UsageError

    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise UsageError(f"--image-size: {text!r} is no height and width, as 384x128.") from None
    return height, width


def main(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run and its model.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE",
            help="JSONL {image, captions, id, split}, CUHK-PEDES, ICFG-PEDES, RSTPReid or "
            "WebPerson JSON; or synthetic: drawn people, a fifth of whose attributes are described wrongly.",
        ),
    ] = "synthetic",
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Folder of the images.", show_default="beside the file"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="PATH", help="Start from a model file, official weights or a CLIP folder."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            metavar="DIR",
            help="Holds CLIP's vocab.json and merges.txt.",
            show_default="of --weights, else whole words",
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-size", metavar="HxW", help="In pixels.", show_default="384x128 with --weights, else 64x32"
        ),
    ] = None,
    width: Annotated[int, typer.Option("--width", metavar="D", min=16, help="Of both towers, from scratch.")] = 64,
    vision_layers: Annotated[int, typer.Option("--vision-layers", metavar="N", min=1)] = 2,
    text_layers: Annotated[int, typer.Option("--text-layers", metavar="N", min=1)] = 3,
    patch: Annotated[int, typer.Option("--patch", metavar="PX", min=1, help="Side of a patch, from scratch.")] = 16,
    length: Annotated[int, typer.Option("--length", metavar="N", help="Tokens of a caption, from scratch.")] = 24,
    losses: Annotated[
        str | None,
        typer.Option(
            "--losses",
            metavar="A,B",
            help="sdm, mlm (predict informative words), id, itc, cmpm.",
            show_default="sdm,itc,mlm, with --weights sdm,mlm",
        ),
    ] = None,
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="Hide words the image does not support before matching.")
    ] = True,
    scores: Annotated[
        str, typer.Option("--scores", metavar="gass|uniform", help="uniform: words are masked whatever they say.")
    ] = "gass",
    positives: Annotated[
        str, typer.Option("--positives", metavar="person|pair", help="What matches: a person's, or one pair alone.")
    ] = "person",
    gass_norm: Annotated[
        str, typer.Option("--gass-norm", metavar="attention|released", help="The paper's, or the released code's.")
    ] = "attention",
    gass_heads: Annotated[
        str, typer.Option("--gass-heads", metavar="1|model", help="Heads of the attention that is scored.")
    ] = "1",
    gass_scale: Annotated[
        str, typer.Option("--gass-scale", metavar="batch|sample", help="Over what scores are stretched to 0 ... 1.")
    ] = "batch",
    gass_layers: Annotated[
        int, typer.Option("--gass-layers", metavar="N", min=1, help="Last text layers scored; all if there are fewer.")
    ] = 8,
    masking: Annotated[
        str, typer.Option("--masking", metavar="attn|released", help="released: the first word is hidden if none is.")
    ] = "attn",
    augment: Annotated[
        bool | None,
        typer.Option("--augment/--no-augment", help="Flip, shift and erase images.", show_default="photos only"),
    ] = None,
    beta: Annotated[float, typer.Option("--beta", metavar="X", help="Weight of mlm.")] = 0.4,
    tau: Annotated[
        float | None,
        typer.Option(
            "--tau", metavar="X", help="Temperature of sdm and itc.", show_default="0.07, with --weights 0.02"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1)] = 10,
    warmup: Annotated[int, typer.Option("--warmup", metavar="N", min=0, help="Epochs in which the rate rises.")] = 1,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Captions per step.")] = 64,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", metavar="X", show_default="2e-3, with --weights 1e-5"),
    ] = None,
    weight_decay: Annotated[float, typer.Option("--weight-decay", metavar="X", min=0.0)] = 4e-5,
    hold_out: Annotated[
        int,
        typer.Option("--hold-out", metavar="N", min=1, help="Persons that choose the weights, without a split val."),
    ] = 200,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", metavar="N", min=1, help="Epochs between evaluations and checkpoints.")
    ] = 1,
    save_scores: Annotated[
        bool, typer.Option("--save-scores", help="Write OUT/scores.jsonl: a score for every word of every caption.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where the folder holds a run.")] = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 77,
    threads: ThreadsOption = None,
) -> None:
    """Train a model that finds photos of people by sentences.

    Words that the image does not support are hidden before captions and images are matched; words that it supports are
    hidden and have to be predicted from it. With --weights the architecture is that of the weights.
    """
    from dataclasses import replace

    from attn.core.train.ga_dms.options import SMALL, GADMSOptions
    from attn.core.train.ga_dms.run import train_ga_dms

    from .show import run_recipe

    size = None if image_size is None else parse_size(image_size)
    architecture = replace(
        SMALL, embed_dim=width, image_size=size or SMALL.image_size, patch_size=patch, vision_width=width,
        vision_layers=vision_layers, text_length=length, text_width=width, text_layers=text_layers,
    )  # fmt: skip
    options = GADMSOptions(
        architecture=architecture, weights=weights, tokenizer=tokenizer, image_size=size, epochs=epochs, warmup=warmup,
        batch=batch, learning_rate=learning_rate, weight_decay=weight_decay,
        losses=None if losses is None else tuple(losses.split(",")), beta=beta, tau=tau, noise=noise, scores=scores,
        positives=positives, gass_norm=gass_norm, gass_heads=gass_heads, gass_scale=gass_scale,
        gass_layers=gass_layers, masking=masking, augment=augment, hold_out=hold_out, evaluate_every=evaluate_every,
        save_scores=save_scores, device=device, seed=seed,
    )  # fmt: skip
    train = partial(train_ga_dms, data, output, options, images=images, restart=restart, threads=threads)
    run_recipe(
        "ga-dms", train, data, output, told=lambda m: f"loss {m['loss']:.3f}, R@1 {m.get('r1', float('nan')):.3f}",
        as_json=as_json, report_file=report_file, quiet=quiet, verbose=verbose,
    )  # fmt: skip
