"""`attn denoise`: parse, call core, show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from attn.core.bundles import Inputs, Placement, Reporting
from attn.core.denoise.options import DenoiseOptions, check_read
from attn.core.options import Option

from .build import command

EXAMPLES = (
    ("attn denoise example:ct", "A CT slice that ships with an installed package; writes ./CT_small.denoised.dcm."),
    ("attn denoise scan.dcm -o clean.dcm", "One DICOM file; the result stays a valid DICOM file in HU."),
    (
        "attn denoise study/ -o out/ --fit middle",
        "A series: estimate its noise on the middle slice, apply that to all.",
    ),
    (
        "attn denoise study/ -o out/ --volume off",
        "Every slice alone: a lesion in one slice can leave no trace in the next.",
    ),
    ("attn denoise study/ -o out/ --workers 4 --report report.html", "Four processes, and a report with pictures."),
    ("attn denoise scan.dcm --preset full-dose", "Take less away: the grain of a scan at full dose stays."),
    (
        "attn denoise scan.dcm --window lung --maps",
        "Filter what a lung window shows, and write noise level, filter widths and weights.",
    ),
    (
        "attn denoise scan.dcm --strength 0.7 --region 100,120,220,240=2",
        "Weaker everywhere, twice as strong in a rectangle.",
    ),
    (
        "attn denoise scan.dcm --method filter2noise --lambda 400",
        "A published method, which trains on the image itself.",
    ),
    ("attn denoise full_dose.dcm --simulate-dose 0.25 --compare", "All methods on a simulated quarter-dose scan."),
    (
        "attn denoise phantom:inserts --simulate-dose 0.1 --compare --report report.html",
        "All methods on a scan of a phantom, whose truth has no noise.",
    ),
    (
        "attn denoise phantom.dcm --roi 180,180,330,330 --report quality.html",
        "A phantom for quality assurance: noise power spectrum before and after, in a region that is uniform.",
    ),
    ("find . -name '*.dcm' | attn denoise - -o out/ --json", "Paths on stdin, one JSON document on stdout."),
)

NOTES = (
    "A result that exists is skipped, unless --overwrite. DICOM results say how they were made: one that was made with "
    "other options is named in a warning. Other kinds of file cannot tell.",
    "The SeriesInstanceUID of DICOM results comes from the source series and the options that change pixels. Reports, "
    "pictures, workers, places and the release of attn do not change it: a run that is resumed goes on in its series.",
    "In a folder, DICOM is known by its bytes, whatever the file is called. What is passed by (results of earlier "
    "runs, hidden files, unknown kinds, DICOMDIR) is counted and named. Links to folders are followed once.",
    "phantom:KIND is a CT phantom that is drawn for the run: abdomen, chest, head or inserts (discs of low contrast, "
    "line pairs, rods). phantom:KIND:SEED draws another one, phantom:KIND:SEEDxSLICES a series, a file for each slice, "
    "2.5 mm apart. It has no noise, so --simulate-dose is needed: the scan gets all the noise that automatic exposure "
    "leaves at that fraction of its dose, and psnr, ssim and rmse_hu compare with the noise-free truth. In any other "
    "file the noise that it has stays part of the truth, and only what the lower dose adds is simulated.",
    "Reports (--report, --json) say what is lost beside what is won. Noise power spectrum: of uniform places, which "
    "--roi names; else they are found in the image, and anatomy in them counts as noise. What was removed is "
    "correlated with edges by 0 where it is noise alone, and by 0.5 and more where edges were blurred. Of "
    "phantom:inserts also: contrast, CNR and detectability d' of every insert, and f50, the frequency at which the "
    "response to the edge of a rod falls to a half, beside the truth's.",
    "Results are for research, not for diagnosis. Keep the source images.",
    "The method adaptive is our own and unpublished. How it was measured, against which methods, and where it loses is "
    "in tests/benchmarks/denoise.md. --method filter2noise is the published method, as published. It is made for the "
    "noise of CT: in photographs it takes fine texture for noise where the noise is weak.",
    "--strength and --region scale how different two pixels may be and still be averaged, and divide the little noise "
    "that adaptive leaves in (2: half of it; 0: the image as it was). Noise level and weights stay as estimated.",
    "--volume: slices of one DICOM series draw on up to three slices on either side within 16 mm, on one intensity "
    "scale, so the range of all of them is looked up first. A gantry tilt, gaps and unequal spacing are taken from "
    "the headers. Another orientation, size or pixel spacing, another series, and another phase or echo are never "
    "mixed; what has no position, or cannot be told apart from a slice in the same place, is denoised alone, and "
    "named. The frames of a multi-frame file and the slices of NIfTI are a volume where it says how they lie; a stack "
    "of NPY, NPZ, TIFF or PNG does not say, so its slices are denoised alone. A file that is named alone has no "
    "neighbours. neighbours and from_neighbours in reports: slices that were used, and the mean share of the weight "
    "that lies in them.",
    "A result depends on the slices around it. If some are added, removed or mended later, a run that goes on names "
    "the results that exist in a warning; --overwrite makes them again.",
    "A filter that was kept (--filter) goes on with the noise that it was fitted on. On its own image it gives the "
    "same bytes; on another of the same size its filters are weighed anew.",
    "An option that the chosen method does not read is refused: --quality and --steps belong to methods that train. "
    "With --compare they are taken, and reach the methods that read them.",
    "--cluster: a dask scheduler executes what it is sent. Bind it to a private interface or use tls://. Inputs and "
    "outputs must be on storage that every worker sees under the same path, and every worker needs the same version of "
    "attn. To try it: dask scheduler --host 127.0.0.1; dask worker tcp://127.0.0.1:8786 --nthreads 1 --nworkers 2.",
    "The package behind the method bm3d is licensed for non-commercial use only and is never installed by default.",
)
FILES = (
    ("NAME.denoised.SUFFIX", "The result beside its input; with -o, NAME.SUFFIX in that directory."),
    (
        "NAME.maps.npz",
        "--maps of adaptive: float32 noise_level, sigma_r [slices, height, width] in the unit of the image, sigma_s in "
        "pixels, weights [slices, 6, height, width] of its filters; that unit and the window. Of slices that "
        "drew on their neighbours from_neighbours [slices, height, width], the share of their weight, and candidates "
        "[slices, 4, height, width], the weights of the slice's own mixture and of three filters over several slices.",
    ),
    (
        "NAME.sigma.npy",
        "--maps of filter2noise: float32 [slices, stages, 3, height, width]; sigma x and y in pixels, sigma r as a "
        "share of the window.",
    ),
    ("NAME.maps.png, NAME.sigma.png, NAME.figure.png, NAME.compare.png", "Pictures of --maps, --figure and --compare."),
    ("NAME.lowdose.SUFFIX", "--simulate-dose: the noisy image that was made."),
    ("phantom-KIND-SEED.truth.dcm", "phantom:KIND: its noise-free truth."),
)


@dataclass(frozen=True, slots=True)
class Images(Inputs):
    """What is denoised."""

    NOTHING: ClassVar[str] = "Name files, directories, - for a list on stdin, example:ct or phantom:abdomen."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Files, directories, - for a list of paths on stdin, example:NAME, or phantom:KIND[:SEED[xSLICES]].",
            metavar="INPUT", positional=True,
        ),
    ] = ()  # fmt: skip


def _main(
    inputs: Images, reporting: Reporting, options: DenoiseOptions, placement: Placement, given: frozenset[str]
) -> None:
    """Denoise CT and other grey images without training data.

    Reads DICOM (files, series, enhanced multi-frame), PNG and TIFF (8 and 16 bit), NPY, NPZ and NIfTI, and writes
    the same kind. The default method, our own, estimates the noise of the image from the image itself (how strong
    it is where, and how far it reaches) and mixes six bilateral filters place by place, by the error that each is
    estimated to make. Nothing is trained or downloaded. For research, not for diagnosis.
    """
    from .show import run_files

    check_read(options, given)
    if reporting.report_file is not None and reporting.report_file.suffix == ".html":
        options = replace(options, figure=True)
    if reporting.report_file is not None or reporting.as_json:
        options = replace(options, physics=True)
    run_files("attn.core.denoise.run:run", inputs, options, placement, reporting)


main = command(_main, methods="denoise")
