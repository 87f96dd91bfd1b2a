"""What `attn probe distance` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from ...bundles import Device, Inputs, Placement, Seed
from ...command import Verb
from ...options import Option, check


@dataclass(frozen=True, slots=True)
class SourcePictures(Inputs):
    """Pictures of the domain that others are compared with."""

    NOTHING: ClassVar[str] = "Name pictures of the source domain, directories, or - for a list on stdin."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Pictures of the source domain: files, directories, - for a list of paths on stdin, or example:NAME.",
            metavar="IMAGES", positional=True,
        ),
    ] = ()  # fmt: skip
    output: Annotated[
        str | None,
        Option(
            "Directory for the results; without it those of a picture lie beside it, and the comparison in the current "
            "directory.",
            short="-o", metavar="DIR",
        ),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class DistanceOptions:
    """Which pictures of which domains, and with which model.

    Parameters
    ----------
    inputs : SourcePictures
    target : tuple of str
        The same of the target domain.
    boxes : tuple of Path
        COCO JSON with the objects of either domain.
    model : str
        See ``attn.core.models.load``.
    before : str or None
        The model before it was trained on: every picture is looked at by both.
    checked : int
        Pictures of each domain that models with randomised weights look at, too.
    allow_download : bool
    device : str
    seed : int
        Of the resampled pictures and of the randomised weights.
    placement : Placement
    """

    inputs: SourcePictures
    target: Annotated[
        tuple[str, ...],
        Option(
            "Pictures of the target domain: a file, a directory, or a pattern in quotes; repeatable.",
            metavar="IMAGES", repeatable=True,
        ),
    ] = ()  # fmt: skip
    boxes: Annotated[
        tuple[Path, ...],
        Option(
            "COCO JSON with the boxes of objects in the pictures of either domain; repeatable.",
            metavar="FILE", parse=Path, repeatable=True,
        ),
    ] = ()  # fmt: skip
    model: Annotated[
        str,
        Option(
            "Vision transformer: shapes-vit, vit (ViT-S/14 of attn[vit]), a folder of transformers, timm or open_clip, "
            "or a Hugging Face id that is on this machine.",
            metavar="NAME",
        ),
    ] = "shapes-vit"  # fmt: skip
    before: Annotated[
        str | None,
        Option("The model before it was trained on, to compare with: every picture is looked at by both.",
               metavar="NAME"),
    ] = None  # fmt: skip
    checked: Annotated[
        int,
        Option(
            "Pictures of each domain that models with randomised weights look at too, for the lines of trust; 0: none.",
            metavar="N", least=0,
        ),
    ] = 4  # fmt: skip
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    device: Device = "auto"
    seed: Seed = 0
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)


KIND = Verb(
    options=DistanceOptions,
    run="attn.core.probe.distance.run:run",
    description="""See how widely a vision transformer attends on pictures of one domain, and of another.

    Measures the attention distance (how far the patches are that a patch attends to) of every head and layer, on
    pictures of a source and of a target domain, and by how many per cent the target's differs, with an interval over
    the pictures. With boxes of objects: what part of the attention stays inside them, and what leaks to the background.
    """,
    examples=(
        ("attn probe distance photos/ --target fundus/ -o out/", "Photos against fundus pictures."),
        (
            "attn probe distance photos/ --target aerial/ --boxes coco.json --report distance.html",
            "With the objects of either domain, and one page.",
        ),
        (
            "attn probe distance aerial/ --model tuned/ --before base/ -o out/",
            "One domain, before and after a model was trained on.",
        ),
    ),
    files=(
        ("NAME.distance.png", "Of a picture: distance layer by layer and head by head, and over it; written last."),
        (
            "NAME.distance.npz",
            "Arrays: distance_patches, distance_px, entropy, dropped [layers, heads], distance_px_by_patch [layers, h, "
            "w]; with boxes fg_to_fg, fg_to_bg, bg_to_fg, distance_fg [layers, heads] and objects [h, w]; with a model "
            "before, distance_before; of checked pictures untrained [models, layers, heads].",
        ),
        ("domains.distance.png", "Of all pictures: the domains layer by layer, and their difference."),
        ("domains.distance.npz", "Arrays of that figure."),
        ("NAME.distance.json", "How a figure was made, and its tables: attn probe redraw makes it again."),
    ),
    notes=(
        "No official code was found: this is built from the abstract and from public notes of the paper.",
        "The distance says how far from a patch its attention lies, not whether it lies on an object: read it beside "
        "the masses that --boxes gives. Attention is not an explanation of what a model answers.",
        "Class token and registers are left out, and what lies on them is shared out among the patches; dropped says "
        "how much that was. Distances are in patches, in pixels of the file, and as share of the grid's diagonal. "
        "Uniform attention gives about 0.52 of the side of a square grid: the dotted line.",
        "Differences are compared layer by layer in one model. In per cent, 95 % interval from 2000 resamplings of the "
        "pictures (percentiles), from 5 pictures a domain on; of 20 intervals, one leaves out 0 by chance.",
        "A box of the COCO file belongs to the picture whose path ends in its file_name; it is in pixels of the "
        "upright picture. A patch is in a box where its middle is. Crowds count as objects.",
        "Only models that attend among all patches are measured; windows (Swin) and deformable attention are refused "
        "by name.",
    ),
    columns=("distance_patches", "distance_diagonal", "dropped_mass", "fg_to_fg", "bg_to_fg"),
)
