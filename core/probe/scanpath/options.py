"""What `attn probe scanpath` can be told, and its registry entry."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from ...bundles import Device, Inputs, Placement, Seed
from ...command import Verb
from ...options import Option, OptionError, check

_SHELF = re.compile(r"shelf(?::(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class SearchInputs(Inputs):
    """Pictures, a drawn shelf, or two files of paths."""

    NOTHING: ClassVar[str] = "Name a picture with its boxes, shelf for a drawn one, or two files of paths to compare."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Pictures, directories, or - for a list of paths on stdin. Or shelf[:SEED] alone: a drawn shelf. With "
            "--metrics two files of paths.",
            metavar="SCENE", positional=True,
        ),
    ] = ()  # fmt: skip

    @property
    def shelf(self) -> int | None:
        """Seed of the drawn shelf, where there is one."""
        found = _SHELF.fullmatch(self.inputs[0])
        return int(found[1] or 0) if found else None


@dataclass(frozen=True, slots=True)
class ScanpathOptions:
    """What is searched in which pictures, by which network.

    Parameters
    ----------
    inputs : SearchInputs
    model : str
        ``shelves``, which ships, or a file of `attn train oat`, or its folder.
    boxes : Path or None
        Of the objects; None: beside each picture.
    target : str or None
        Label or number of what is searched; None: what the boxes mark.
    samples : int
        Drawn paths.
    animation : bool
        Write the path as a GIF.
    metrics : bool
        Compare two files of paths; nothing else is done.
    compat : bool
        MultiMatch fills paths of one or two fixations, as the reference does.
    seed : int
        Of the drawn paths.
    device : str
    placement : Placement
    """

    inputs: SearchInputs
    model: Annotated[
        str, Option("shelves, which ships, or what attn train oat wrote: a file or its folder.", metavar="MODEL")
    ] = "shelves"
    boxes: Annotated[
        Path | None,
        Option(
            "Boxes of the objects, CSV or JSON, COCO too.", metavar="FILE", shown="NAME.boxes.csv or .json beside it"
        ),
    ] = None  # fmt: skip
    target: Annotated[
        str | None,
        Option("Label, or number from 1, of what is searched.", metavar="NAME", shown="what the boxes mark"),
    ] = None
    samples: Annotated[int, Option("Drawn paths, beside the likeliest one.", metavar="N", least=1)] = 100
    animation: Annotated[bool, Option("Write the path as a GIF.")] = True
    metrics: Annotated[
        bool, Option("Compare two files of paths, JSON lines, the second being the people's; no model is needed.")
    ] = False
    compat: Annotated[
        bool, Option("With --metrics: MultiMatch fills paths of one or two fixations, as the reference does.")
    ] = False
    seed: Seed = 0
    device: Device = "auto"
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        given = self.inputs.inputs
        if self.metrics:
            if len(given) != 2:
                raise OptionError(f"{{metrics}}: two files of paths are compared, not {len(given)}.")
            if self.inputs.output is not None:
                raise OptionError("{metrics}: no picture is made; a report file keeps the table. Leave out {output}.")
            return
        if self.compat:
            raise OptionError("{compat}: it is about MultiMatch, which is taken with {metrics} alone.")
        drawn = [name for name in given if _SHELF.fullmatch(name)]
        if drawn and len(given) > 1:
            raise OptionError(f"{drawn[0]}: a drawn shelf stands alone. Look at pictures in a run of their own.")
        for name in ("boxes", "target"):
            if drawn and getattr(self, name) is not None:
                raise OptionError(f"{{{name}}}: a drawn shelf has its own.")


KIND = Verb(
    options=ScanpathOptions,
    run="attn.core.probe.scanpath.run:run",
    description="""Show in which order a person who searches would look at the objects of a picture.

    From boxes of the objects, one of which is searched, an object-level transformer (OAT) predicts the path of
    fixations until it is found: numbered on your picture, step by step as probabilities of all objects, and as a GIF.
    With --metrics two sets of recorded paths are compared, without any model.
    """,
    examples=(
        ("attn probe scanpath shelf:3 -o out/", "A drawn shelf, with the weights that ship."),
        ("attn probe scanpath photo.jpg --boxes boxes.csv --target milk", "Your picture, its boxes, what is searched."),
        ("attn probe scanpath --metrics model.jsonl people.jsonl --report scores.csv", "Two sets of paths."),
    ),
    files=(
        ("NAME.scanpath.png", "The likeliest path on the picture, and probabilities of each step; written last."),
        ("NAME.path.png, NAME.path.gif", "The path on the picture, 2048 pixels a side at most; fixation by fixation."),
        ("NAME.fixations.csv", "The likeliest path: step, object, label, probability, place in pixels."),
        ("NAME.paths.jsonl", "The likeliest and the drawn paths, a line each, for --metrics."),
        (
            "NAME.scanpath.npz",
            "probabilities [steps + 1, objects + 1] along the likeliest path, the last column of stopping, path "
            "[steps], fixated [objects]: share of drawn paths that meet an object, boxes [objects, 4], overlay.",
        ),
        ("NAME.scanpath.json", "How the figure was made, and its tables: attn probe redraw makes it again."),
    ),
    notes=(
        "Boxes: a row each with x0, y0, x1, y1 (or xmin, ymin, xmax, ymax; x, y, w, h; bbox [x, y, w, h]) in pixels; "
        "label, target = 1 for what is searched, and image, where a file is of several pictures, may stand beside.",
        "shelves learned from drawn shelves and a simulated searcher: it has never seen a person's gaze, nor a photo.",
        "Objects need not stand on a grid: they are placed in units of a box of median size and a quarter more.",
        'Lines of --metrics: {"id": scene, "fixations": [objects]}; "target" for Delta and behaviour; "screen" '
        '[width, height] with "xy" (pixels of each fixation), or "rows" and "cols", for MultiMatch. Several lines '
        "of an id are several people, or drawn paths. Paths of one or two fixations have no MultiMatch and are "
        "counted.",
        "ss: sequence score; fed: edit distance in fixations; delta: mean relative difference of found, length, and "
        "shares of search, refixation and revisit; tfp_auc: how early the target is met.",
    ),
    columns=("objects", "steps", "found", "mean_length", "tfp_auc", "ss", "fed", "mm_position", "delta"),
)
