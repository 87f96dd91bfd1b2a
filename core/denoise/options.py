"""What `attn denoise` can be told, as one frozen value that travels to the workers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from ..bundles import Device, Dtype
from ..catalogue import complete
from ..options import Option, OptionError, check
from . import FOR_ANY, METHODS
from .base import LEAST_BOX, STRONGEST, Box, FitOptions, Region, parse_box, parse_region


@dataclass(frozen=True, slots=True)
class DenoiseOptions:
    """Everything but where the batch runs.

    Parameters
    ----------
    method : str
        A name in ``attn.core.denoise.METHODS``.
    fit : FitOptions
        What fitting depends on.
    fit_on : str
        ``"each"`` fits every slice; ``"first"``, ``"middle"`` or an index fits one slice of a series or stack and
        applies the filter to all of it.
    window : str
        ``"auto"``, a preset, or ``"CENTER,WIDTH"``: what is mapped to [0, 1].
    volume : {"auto", "off"}
        Whether slices draw on their neighbours, where it is known how they lie (adaptive).
    strength : float
        Factor on the range sigma after the fit; 1 leaves it (adaptive, filter2noise).
    regions : tuple of Region
        Other factors inside rectangles (adaptive, filter2noise).
    display : str
        As ``window``: what pictures show from black to white. ``"auto"``: that of ``window``, of CT soft tissue.
    maps, figure, compare : bool
        Write what the filter does where; write a before/after picture; run every method side by side.
    reference : Path or None
        Clean image, or a directory with files of the inputs' names: adds psnr, ssim, rmse.
    simulate_dose : float or None
        Fraction of the dose to simulate first; the input itself is then the reference.
    save_filter, filter : Path or None
        Where to keep the fitted filter; a kept filter to use instead of fitting.
    device, dtype : str
    luma : bool
        Turn colour images into grey instead of refusing them.
    fill : float or None
        Replaces NaN and infinities in floating-point input instead of refusing them; in physical units.
    unit : "hu" or None
        What the values of files are in that do not say (all kinds but DICOM).
    rois : tuple of Box
        Where the image is uniform, for the noise power spectrum. Empty: it is looked for.
    physics : bool
        Measure noise power, edges and what was removed, for the report. Naming ``rois`` asks for it, too.
    """

    method: Annotated[str, Option("See --list.", short="-m", metavar="NAME", complete=complete("denoise"))] = "adaptive"
    fit: FitOptions = field(default_factory=FitOptions)
    window: Annotated[
        str,
        Option(
            "What is mapped to [0,1]: auto, lung, bone, brain, abdomen or CENTER,WIDTH. Values outside stay as they "
            "are.",
            metavar="WINDOW",
        ),
    ] = "auto"
    fit_on: Annotated[
        str,
        Option(
            "Fit (adaptive: estimate the noise of) every slice, or one slice of a series and apply that to all.",
            name="--fit", metavar="each|first|middle|INDEX",
        ),
    ] = "each"  # fmt: skip
    volume: Annotated[
        Literal["auto", "off"],
        Option(
            "Let every slice draw on its neighbours where files say how slices lie: DICOM series, multi-frame DICOM "
            "and NIfTI. off: each alone.",
            metavar="auto|off",
        ),
    ] = "auto"
    strength: Annotated[
        float,
        Option(
            "Scales the range sigma after the fit; 1 leaves it, 0 filters nothing.",
            metavar="X",
            least=0,
            most=STRONGEST,
        ),
    ] = 1.0
    regions: Annotated[
        tuple[Region, ...],
        Option(
            "Scales the range sigma inside a rectangle; repeatable.",
            name="--region", metavar="X0,Y0,X1,Y1=S", parse=parse_region, repeatable=True,
        ),
    ] = ()  # fmt: skip
    save_filter: Annotated[Path | None, Option("Keep the fitted filter (.safetensors).", metavar="FILE")] = None
    filter: Annotated[
        Path | None,
        Option("Use a kept filter instead of fitting one; give the --window it was fitted in.", metavar="FILE"),
    ] = None
    maps: Annotated[
        bool, Option("Write the filter's widths (adaptive: noise level and weights too) as numbers and as a picture.")
    ] = False
    figure: Annotated[bool, Option("Write a before/after picture: NAME.figure.png (implied by an HTML report).")] = (
        False
    )
    display: Annotated[
        str,
        Option(
            "What pictures show from black to white: lung, bone, brain, abdomen or CENTER,WIDTH. The filter's window "
            "stays --window.",
            metavar="WINDOW", shown="that of --window; of CT soft tissue",
        ),
    ] = "auto"  # fmt: skip
    compare: Annotated[bool, Option("Run all methods side by side: one table and NAME.compare.png.")] = False
    reference: Annotated[
        Path | None, Option("Clean image, or a directory of them: adds psnr, ssim, rmse_hu.", metavar="PATH")
    ] = None
    simulate_dose: Annotated[
        float | None,
        Option("Simulate this fraction of the dose first (CT); writes NAME.lowdose too.", metavar="FRACTION"),
    ] = None
    luma: Annotated[bool, Option("Turn colour images into grey instead of refusing them.")] = False
    fill: Annotated[
        float | None,
        Option("Replaces NaN and infinities, in physical units, instead of refusing them.", metavar="VALUE"),
    ] = None
    unit: Annotated[
        str | None,
        Option(
            "The values are HU, in a file that does not say so: CT as NIfTI, NPY, NPZ, TIFF or PNG. Allows the windows "
            "in HU, and cuts auto as for DICOM.",
            metavar="hu",
        ),
    ] = None
    rois: Annotated[
        tuple[Box, ...],
        Option(
            f"A uniform region, of {LEAST_BOX} pixels at least, for the noise power in reports; repeatable. Without it "
            "uniform places are looked for.",
            name="--roi", metavar="X0,Y0,X1,Y1", parse=parse_box, repeatable=True,
        ),
    ] = ()  # fmt: skip
    physics: bool = False
    device: Device = "auto"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check(self)
        check(self.fit)  # a method itself may be fitted in no steps, which is no order for a command


def check_read(options: DenoiseOptions, given: Collection[str] = ()) -> None:
    """Refuse what was given and the chosen method does not read.

    In a comparison, what fitting depends on reaches the methods that read it. The seed is no order: a method without
    anything random leaves it unread. Of a dtype that is not read a report tells.

    Parameters
    ----------
    options : DenoiseOptions
    given : collection of str
        Fields that were given whatever their value; others are taken for given where they differ from the default.

    Raises
    ------
    OptionError
    """
    row = METHODS[options.method]
    read = ("seed", "dtype", *(FOR_ANY if row.options is None else row.options))
    for held in (options, options.fit):
        for name in (one.name for one in fields(held)):
            readers = [method for method, other in METHODS.items() if name in (other.options or ())]
            if not readers or name in read or (options.compare and held is options.fit):
                continue
            if name in given or getattr(held, name) != getattr(type(held)(), name):
                raise OptionError(f"{{{name}}} works with {{method}} {' or '.join(readers)} only, not with {row.name}.")
    if options.filter is not None and not options.compare:
        for name in (one.name for one in fields(options.fit) if one.name != "seed"):
            if name in given or getattr(options.fit, name) != getattr(FitOptions(), name):
                raise OptionError(
                    f"{{{name}}} is for fitting, and {{filter}} names what is fitted. Leave one of them out."
                )
