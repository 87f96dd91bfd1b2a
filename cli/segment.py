"""`attn segment`: parse, call core, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .options import (
    ClusterOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ListOption,
    NulOption,
    OverwriteOption,
    QuietOption,
    ReportOption,
    ThreadsOption,
    TimeoutOption,
    VerboseOption,
    WorkersOption,
    complete_methods,
)
from .say import say

if TYPE_CHECKING:
    from attn.core.report.model import Item, Report

EXAMPLES = (
    ("attn segment example:retina", "A fundus photo that ships with an installed package; writes ./retina.mask.png."),
    ("attn segment fundus/*.png", "Mask, probability and overlay beside each photo."),
    ("attn segment fundus/ -o out/ --measure --workers 2", "A folder, two processes, and out/vessels.csv."),
    ("attn segment images/ -o out/ --truth manual/ --fov masks/ --report scores.html", "Scores per photo and pooled."),
    ("attn segment 21.png --model sato --threshold 0.4 -o 21-thin.png", "A ridge filter, more vessels, a named mask."),
    ("attn segment 21.png --compare frangi,sato --truth 21_manual1.gif", "Models side by side on one photo."),
    ("find . -name '*.jpg' | attn segment - -o out/ --json", "Paths on stdin, one JSON document on stdout."),
)

NOTES = (
    "Results are for research, not for diagnosis.",
    "Files of --truth and --fov are matched by name: the photo's own name first, then the name without last words such "
    "as training, mask or manual1 (21_training.tif, 21_manual1.gif), with a warning that says what was taken. Where "
    "several would fit, or none, that photo fails with the reason and the others go on; --observer chooses among "
    "several truths.",
    "A mask's vessels are what is not black: labels 1, 2, 3 all count, of soft edges what reaches half of full scale, "
    "of a mask that is drawn in its alpha channel alone what is opaque. What had to be guessed is a warning.",
    "Photos that EXIF turns are turned upright, and so are their results; a truth or mask without an orientation of "
    "its own is turned with them where its sides, or the picture, show that it must be. A warning says so.",
    "NAME is the photo's without its suffix; with it (eye.jpg.mask.png) where another photo in its folder has that "
    "name, or where the result of another photo is there. Each result records which photo it is of: only that is taken "
    "for done.",
    "Photos with a side above 4096 pixels are reduced to that while they are read; the files written have the photo's "
    "own size, and lengths are in its pixels.",
    "--protocol fsg scores whole squares without the field of view, as the official FSG-Net code does. Its numbers are "
    "for comparison with that paper only; the value that it calls AUC is none and appears with --official-auc alone.",
    "--cluster: a dask scheduler executes what it is sent. Bind it to a private interface or use tls://. Inputs and "
    "outputs must be on storage that every worker sees under the same path, and every worker needs the same version of "
    "attn.",
)
FILES = (
    ("NAME.mask.png", "The vessels: 8-bit grey, 0 or 255, at the photo's size after its orientation; written last."),
    ("NAME.prob.png", "Probability of a vessel: 16-bit grey, 65535 is 1; 0 only outside the field of view."),
    ("NAME.overlay.png", "The photo with vessels in green and the field of view outlined in white."),
    ("NAME.attention.npz, NAME.attention.png", "--save-attention: float32 maps by name, and a picture of them."),
    ("NAME.compare.png", "--compare: the green channel, the models' probabilities, and the truth."),
    ("vessels.csv", "--measure: one row per photo, in the directory of the results; rows of earlier runs are kept."),
)


def parse_threshold(text: str) -> float | None:
    """``--threshold`` as a number, None for auto. Raises ``UsageError`` for anything else."""
    from attn.core.errors import UsageError

    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--threshold: {text!r} is neither auto nor a number between 0 and 1.") from None


def parse_models(text: str | None) -> tuple[str, ...]:
    """``frangi,sato`` as names. Raises ``UsageError`` where there is none."""
    from attn.core.errors import UsageError

    if text is None:
        return ()
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    if not names:
        raise UsageError("--compare: name models, separated by commas. `attn segment --list` shows all.")
    return names


def main(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Photos, directories, - for a list of paths on stdin, or example:retina.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Directory for the results; with one photo, NAME.png is the mask itself and the other files are "
            "NAME.prob.png and so on beside it.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FILE",
            help="See --list; or a .safetensors file that attn train wrote.",
            autocompletion=complete_methods("segment"),
        ),
    ] = "fsgnet",
    fov: Annotated[
        str,
        typer.Option(
            "--fov",
            metavar="auto|none|PATH",
            help="Field of view: found, the whole photo, or a mask or a directory of masks named like the photos.",
        ),
    ] = "auto",
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", metavar="PATH", help="True vessels, or a directory of them named like the photos: adds scores."
        ),
    ] = None,
    observer: Annotated[
        str | None,
        typer.Option(
            "--observer",
            metavar="WORD",
            help="Which truth where a photo has several: 2 takes 21_manual2 or 2nd_manual/21, vk takes im0001.vk.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Vessel measures (length, branch points, calibre, tortuosity, fractal dimension), and vessels.csv.",
        ),
    ] = False,
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold",
            metavar="T|auto",
            help="Least probability of a vessel; higher finds fewer. auto is the value kept with the model.",
        ),
    ] = "auto",
    tta: Annotated[bool, typer.Option("--tta", help="Mean over four flips: slower, a little better.")] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile",
            metavar="N",
            min=64,
            help="Side of the tiles in pixels of the model's scale; less memory.",
            show_default="by size",
        ),
    ] = None,
    clahe: Annotated[bool, typer.Option("--clahe", help="Even out the contrast first (CLAHE).")] = False,
    save_attention: Annotated[
        bool,
        typer.Option("--save-attention", help="Write the model's attention maps: NAME.attention.npz and .png."),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="NAMES",
            help="Further models, separated by commas, side by side: one table and NAME.compare.png.",
        ),
    ] = None,
    protocol: Annotated[
        Literal["standard", "fsg"],
        typer.Option(
            "--protocol",
            metavar="standard|fsg",
            help="Scores inside the field of view, or as the official FSG-Net code takes them (threshold 0.5).",
        ),
    ] = "standard",
    official_auc: Annotated[
        bool, typer.Option("--official-auc", help="With --protocol fsg: also what that code calls AUC.")
    ] = False,
    nul: NulOption = False,
    list_: ListOption = False,
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
    """Segment the retinal vessels of fundus photographs.

    Reads PNG, JPEG, TIFF, WebP, JPEG 2000, AVIF, DICOM and others (HEIC and JPEG XL with attn[photos]), grey or colour,
    of any size, 8 and 16 bit, and writes at the photo's own size a mask, the probability of a vessel, and an overlay.
    The trained weights are part of the package; nothing is downloaded. Results are for research, not for diagnosis.
    """
    if list_:
        from .methods import list_methods

        return list_methods("segment", as_json=as_json)
    from attn.core.errors import UsageError

    if not inputs:
        raise UsageError("nothing to read. Name photos, directories, - for a list on stdin, or example:retina.")
    from attn.core.batch.task import Placement
    from attn.core.segment.options import SegmentOptions

    options = SegmentOptions(
        model=model,
        fov=fov,
        truth=truth,
        observer=observer,
        measure=measure,
        threshold=parse_threshold(threshold),
        tta=tta,
        tile=tile,
        clahe=clahe,
        save_attention=save_attention,
        protocol=protocol,
        official_auc=official_auc,
        compare=parse_models(compare),
        device=device,
        dtype=dtype,
    )
    placement = Placement(
        workers=workers, cluster=cluster, item_timeout=item_timeout, threads=threads, overwrite=overwrite
    )
    from .show import run_files

    run_files(
        "attn.core.segment.run:run", inputs, output, options, placement, nul=nul, as_json=as_json,
        report_file=report_file, quiet=quiet, verbose=verbose, row=_row, after=_print_rest,
    )  # fmt: skip


COLUMNS = {
    "vessel_density": "density",
    "f1": "f1",
    "miou": "miou",
    "sensitivity": "sens.",
    "specificity": "spec.",
    "accuracy": "acc.",
    "auc": "auc",
    "mcc": "mcc",
    "cldice": "cldice",
    "skeleton_length_px": "length px",
    "branch_points": "branches",
    "mean_calibre_px": "calibre px",
    "tortuosity": "tortuosity",
    "fractal_dimension": "fractal dim.",
}
"""What of the metrics a terminal shows, and its heading there; reports have all of them."""


def _row(item: Item) -> dict[str, Any]:
    shown = {heading: item.metrics.get(name) for name, heading in COLUMNS.items()}
    return {"input": item.input, "status": item.status, **shown, "seconds": item.seconds}


def _print_rest(report: Report) -> None:
    from .show import print_rows

    if pooled := report.summary.get("pooled"):
        print_rows([pooled], title="pooled over the pixels of all photos")
    if table := report.summary.get("measures"):
        say(f"measures: {table}")
