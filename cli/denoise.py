"""`attn denoise`: parse, call core, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn.core.denoise.base import Quality, Region

from .options import (
    ClusterOption,
    DeviceOption,
    DtypeOption,
    InputsArgument,
    JsonOption,
    ListOption,
    NulOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    ReportOption,
    SeedOption,
    ThreadsOption,
    TimeoutOption,
    VerboseOption,
    WorkersOption,
    complete_methods,
)

if TYPE_CHECKING:
    pass

EXAMPLES = (
    ("attn denoise example:ct", "A CT slice that ships with an installed package; writes ./CT_small.denoised.dcm."),
    ("attn denoise scan.dcm -o clean.dcm", "One DICOM file; the result stays a valid DICOM file in HU."),
    ("attn denoise study/ -o out/ --fit middle", "A series: fit on its middle slice, apply to all."),
    ("attn denoise study/ -o out/ --workers 4 --report report.html", "Four processes, and a report with pictures."),
    ("attn denoise scan.dcm --window lung --maps", "Filter what a lung window shows, and write the sigma maps."),
    (
        "attn denoise scan.dcm --strength 0.7 --region 100,120,220,240=2",
        "Weaker everywhere, twice as strong in a rectangle.",
    ),
    ("attn denoise full_dose.dcm --simulate-dose 0.25 --compare", "All methods on a simulated quarter-dose scan."),
    ("find . -name '*.dcm' | attn denoise - -o out/ --json", "Paths on stdin, one JSON document on stdout."),
)

NOTES = (
    "A result that exists is skipped, unless --overwrite. DICOM results say how they were made: one that was made with "
    "other options is named in a warning. Other kinds of file cannot tell.",
    "The SeriesInstanceUID of DICOM results comes from the source series and the options that change pixels. Reports, "
    "pictures, workers, places and the release of attn do not change it: a run that is resumed goes on in its series.",
    "In a folder, DICOM is known by its bytes, whatever the file is called. What is passed by (results of earlier "
    "runs, hidden files, unknown kinds, DICOMDIR) is counted and named. Links to folders are followed once.",
    "Results are for research, not for diagnosis. Keep the source images.",
    "--cluster: a dask scheduler executes what it is sent. Bind it to a private interface or use tls://. Inputs and "
    "outputs must be on storage that every worker sees under the same path, and every worker needs the same version of "
    "attn. To try it: dask scheduler --host 127.0.0.1; dask worker tcp://127.0.0.1:8786 --nthreads 1 --nworkers 2.",
    "The package behind the method bm3d is licensed for non-commercial use only and is never installed by default.",
)
FILES = (
    ("NAME.denoised.SUFFIX", "The result beside its input; with -o, NAME.SUFFIX in that directory."),
    (
        "NAME.sigma.npy",
        "--maps: float32 [slices, stages, 3, height, width]; sigma x and y in pixels, sigma r as a share "
        "of the window.",
    ),
    ("NAME.sigma.png, NAME.figure.png, NAME.compare.png", "Pictures of --maps, --figure and --compare."),
    ("NAME.lowdose.SUFFIX", "--simulate-dose: the noisy image that was made."),
)


STRONGEST = 1e6
"""Of --strength and --region: float32 holds what it makes of any sigma."""


def parse_region(text: str) -> Region:
    """``X0,Y0,X1,Y1=S`` as a Region; ``typer.BadParameter`` for anything else."""
    box, equals, strength = text.partition("=")
    try:
        x0, y0, x1, y1 = (int(number) for number in box.split(","))
        region = Region(x0, y0, x1, y1, float(strength))
    except ValueError:
        region = None
    if region is None or not equals or not (0 <= x0 < x1 and 0 <= y0 < y1 and 0 <= region.strength <= STRONGEST):
        raise typer.BadParameter(f"{text!r} is no region (use X0,Y0,X1,Y1=S with X0 < X1, Y0 < Y1, S >= 0)")
    return region


def parse_edge_weight(text: str | None, quality: Quality) -> float | None:
    """``--lambda`` as a number, None for "let the method choose". Raises ``UsageError`` for anything else."""
    from attn.core.errors import UsageError

    if text is None:
        return None
    if text == "auto":
        if quality == "paper":
            raise UsageError("--lambda auto is not part of the published recipe. Leave out --quality paper, or auto.")
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--lambda: {text!r} is neither auto nor a number of at least 0.")
    return value


def main(
    inputs: InputsArgument = None,
    output: OutputOption = None,
    method: Annotated[
        str,
        typer.Option("--method", "-m", metavar="NAME", help="See --list.", autocompletion=complete_methods("denoise")),
    ] = "filter2noise",
    quality: Annotated[
        Quality,
        typer.Option(
            "--quality",
            metavar="fast|balanced|paper",
            help="How long a trained method trains; paper is the published recipe.",
        ),
    ] = "balanced",
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", metavar="N", min=1, max=1_000_000, help="Optimisation steps.", show_default="by --quality"
        ),
    ] = None,
    stages: Annotated[
        int, typer.Option("--stages", metavar="N", min=1, max=4, help="filter2noise: filters in sequence.")
    ] = 2,
    patch_size: Annotated[
        int,
        typer.Option(
            "--patch-size", metavar="N", min=2, max=16, help="filter2noise: pixels that share one set of sigmas."
        ),
    ] = 8,
    edge_weight: Annotated[
        str | None,
        typer.Option(
            "--lambda",
            metavar="X|auto",
            help="filter2noise: weight of the edge term; higher keeps more edges and more noise. The published value "
            "is 400; auto (ours) lowers it where that leaves the noise in place.",
            show_default="400 with --quality paper, else auto",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            "--sigma",
            metavar="X",
            min=0.0,
            max=1000.0,
            help="Noise level for the classical methods, in units of the window.",
            show_default="estimated",
        ),
    ] = None,
    window: Annotated[
        str,
        typer.Option(
            "--window",
            metavar="WINDOW",
            help="What is mapped to [0,1]: auto, lung, bone, brain, abdomen or CENTER,WIDTH. "
            "Values outside stay as they are.",
        ),
    ] = "auto",
    fit: Annotated[
        str,
        typer.Option(
            "--fit",
            metavar="each|first|middle|INDEX",
            help="Fit every slice, or one slice of a series and apply the filter to all.",
        ),
    ] = "each",
    strength: Annotated[
        float,
        typer.Option(
            "--strength", metavar="X", min=0.0, max=STRONGEST, help="Scales the range sigma after the fit; 1 leaves it."
        ),
    ] = 1.0,
    region: Annotated[
        list[Region] | None,
        typer.Option(
            "--region",
            metavar="X0,Y0,X1,Y1=S",
            parser=parse_region,
            help="Scales the range sigma inside a rectangle; repeatable.",
        ),
    ] = None,
    save_filter: Annotated[
        Path | None, typer.Option("--save-filter", metavar="FILE", help="Keep the fitted filter (.safetensors).")
    ] = None,
    filter_file: Annotated[
        Path | None,
        typer.Option(
            "--filter",
            metavar="FILE",
            help="Use a kept filter instead of fitting one; give the --window it was fitted in.",
        ),
    ] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Write the sigma maps: NAME.sigma.npy and NAME.sigma.png.")
    ] = False,
    figure: Annotated[
        bool,
        typer.Option("--figure", help="Write a before/after picture: NAME.figure.png (implied by an HTML report)."),
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run all methods side by side: one table and NAME.compare.png.")
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", metavar="PATH", help="Clean image, or a directory of them: adds psnr, ssim, rmse_hu."
        ),
    ] = None,
    simulate_dose: Annotated[
        float | None,
        typer.Option(
            "--simulate-dose",
            metavar="FRACTION",
            help="Simulate this fraction of the dose first (CT); writes NAME.lowdose too.",
        ),
    ] = None,
    luma: Annotated[
        bool, typer.Option("--luma", help="Turn colour images into grey instead of refusing them.")
    ] = False,
    fill: Annotated[
        float | None,
        typer.Option(
            "--fill", metavar="VALUE", help="Replaces NaN and infinities, in physical units, instead of refusing them."
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            "--unit",
            metavar="hu",
            help="The values are HU, in a file that does not say so: CT as NIfTI, NPY, NPZ, TIFF or PNG. Allows the "
            "windows in HU, and cuts auto as for DICOM.",
        ),
    ] = None,
    nul: NulOption = False,
    list_: ListOption = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    seed: SeedOption = 77,
    threads: ThreadsOption = None,
    workers: WorkersOption = 1,
    cluster: ClusterOption = None,
    item_timeout: TimeoutOption = None,
) -> None:
    """Denoise CT and other grey images without training data.

    Reads DICOM (files, series, enhanced multi-frame), PNG and TIFF (8 and 16 bit), NPY, NPZ and NIfTI, and writes
    the same kind. The default method fits a small attention-guided bilateral filter to the noisy image itself;
    nothing is downloaded.
    """
    if list_:
        from .methods import list_methods

        return list_methods("denoise", as_json=as_json)
    from attn.core.errors import UsageError

    if not inputs:
        raise UsageError("nothing to read. Name files, directories, - for a list on stdin, or example:ct.")
    from attn.core.batch.task import Placement
    from attn.core.denoise.base import FitOptions
    from attn.core.denoise.options import DenoiseOptions

    options = DenoiseOptions(
        method=method,
        fit=FitOptions(
            quality=quality,
            steps=steps,
            stages=stages,
            patch_size=patch_size,
            edge_weight=parse_edge_weight(edge_weight, quality),
            sigma=sigma,
            seed=seed,
        ),  # type: ignore[arg-type]
        fit_on=fit,
        window=window,
        strength=strength,
        regions=tuple(region or ()),
        maps=maps,
        figure=figure or (report_file is not None and report_file.suffix == ".html"),
        compare=compare,
        reference=reference,
        simulate_dose=simulate_dose,
        save_filter=save_filter,
        filter=filter_file,
        device=device,
        dtype=dtype,
        luma=luma,
        fill=fill,
        unit=unit,
    )
    placement = Placement(
        workers=workers, cluster=cluster, item_timeout=item_timeout, threads=threads, overwrite=overwrite
    )
    from .show import run_files

    run_files(
        "attn.core.denoise.run:run", inputs, output, options, placement, nul=nul, as_json=as_json,
        report_file=report_file, quiet=quiet, verbose=verbose,
    )  # fmt: skip
