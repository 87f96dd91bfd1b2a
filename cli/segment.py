"""`attn segment`: parse, call core, show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from attn.core.bundles import Inputs, Placement, Reporting
from attn.core.options import Option
from attn.core.segment.options import SegmentOptions

from .build import command

if TYPE_CHECKING:
    pass

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
    "--threshold auto chooses for each photo, without its truth, the threshold of the largest F1 to expect: from the "
    "probabilities as they were right on held-out photos, moved as far as another camera may have moved them and the "
    "usual share of vessels in the field of view (a tenth) makes likely. The report says which it was (threshold, "
    "threshold_from), a warning where there was too little to choose by. Ridge filters keep theirs.",
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


@dataclass(frozen=True, slots=True)
class Photos(Inputs):
    """What is segmented, and where masks go."""

    NOTHING: ClassVar[str] = "Name photos, directories, - for a list on stdin, or example:retina."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Photos, directories, - for a list of paths on stdin, or example:retina.", metavar="IMAGE", positional=True
        ),
    ] = ()
    output: Annotated[
        str | None,
        Option(
            "Directory for the results; with one photo, NAME.png is the mask itself and the other files are "
            "NAME.prob.png and so on beside it.",
            short="-o", metavar="PATH",
        ),
    ] = None  # fmt: skip


def _main(inputs: Photos, reporting: Reporting, options: SegmentOptions, placement: Placement) -> None:
    """Segment the retinal vessels of fundus photographs.

    Reads PNG, JPEG, TIFF, WebP, JPEG 2000, AVIF, DICOM and others (HEIC and JPEG XL with attn[photos]), grey or colour,
    of any size, 8 and 16 bit, and writes at the photo's own size a mask, the probability of a vessel, and an overlay.
    The trained weights are part of the package; nothing is downloaded. Results are for research, not for diagnosis.
    """
    from .show import run_files

    run_files("attn.core.segment.run:run", inputs, options, placement, reporting)


main = command(_main, methods="segment")
