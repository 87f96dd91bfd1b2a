"""What `attn probe filters` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from ...bundles import Inputs, Placement, Seed
from ...command import Verb
from ...options import Option, check


def parse_patterns(text: str) -> tuple[str, ...]:
    """``conv1,layer1.*`` as patterns. Raises ``ValueError`` where there is none."""
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    if not patterns:
        raise ValueError("no name and no pattern; give some as conv1,layer1.*")
    return patterns


@dataclass(frozen=True, slots=True)
class Models(Inputs):
    """Models; each is looked at for itself."""

    NOTHING: ClassVar[str] = "Name files of weights, folders of models, models that ship, or - for a list on stdin."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Files of weights (.pt, .pth, .safetensors, ...), folders of them, folders of transformers or timm, "
            "models that ship (shapes-cnn, vit), Hugging Face ids that are here, or - for a list on stdin.",
            metavar="MODEL", positional=True,
        ),
    ] = ()  # fmt: skip


@dataclass(frozen=True, slots=True)
class FiltersOptions:
    """Which models and layers, on which pictures, against which other model.

    Parameters
    ----------
    inputs : Models
    layers : tuple of str
        Patterns of names; empty: all.
    data : str or None
        Pictures: a file, a folder, a pattern or an example.
    pictures : int
        Of these, drawn by the seed where there are more.
    compare : str or None
        A model, as ``inputs`` names it.
    object_size : int or None
        In pixels of the picture as the model gets it.
    allow_download : bool
    seed : int
        Of the pictures, the samples of large layers, and the redrawn weights of the trust lines.
    placement : Placement
        A worker takes a model.
    """

    inputs: Models
    layers: Annotated[
        tuple[str, ...],
        Option(
            "Layers by name, with * and ? as in names of files, such as conv1,layer1.*.",
            metavar="PATTERN[,...]", parse=parse_patterns, shown="all convolutions",
        ),
    ] = ()  # fmt: skip
    data: Annotated[
        str | None,
        Option("See what the filters do on pictures, too: a file, a folder or example:NAME.", metavar="IMAGES"),
    ] = None
    pictures: Annotated[int, Option("Pictures used at most.", metavar="N", least=1)] = 32
    compare: Annotated[
        str | None,
        Option("How far each filter moved from where this model has it: --compare BEFORE AFTER.", metavar="MODEL"),
    ] = None
    object_size: Annotated[
        int | None,
        Option("Side of the objects that matter, in pixels the model gets; a view too small is said.",
               name="--object", metavar="PX", least=1),
    ] = None  # fmt: skip
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    seed: Seed = 0
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)


KIND = Verb(
    options=FiltersOptions,
    run="attn.core.probe.filters.run:run",
    description="""Report on a model's convolution filters: statistics, redundancy, dead filters, spectra, suggestions.

    A file of weights is enough. Of a folder or a model that ships, stride, cost and receptive field are told, too, and
    with --data what the filters do on pictures. The first layer is drawn as a mosaic, deeper ones by the norms of their
    kernels.
    """,
    examples=(
        ("attn probe filters shapes-cnn -o out/", "A model that ships; writes out/shapes-cnn.filters.png."),
        (
            'attn probe filters resnet.pth --layers "conv1,layer1.*" --report filters.html',
            "Some layers of a file of weights, and one page.",
        ),
        ("attn probe filters model/ --data photos/ --object 48", "Also on photos, whose objects have 48 pixels."),
        ("attn probe filters --compare start.pt trained.pt", "How far training moved each filter."),
    ),
    files=(
        ("NAME.filters.png", "Mosaic, norms of deeper kernels, statistics layer by layer; written last."),
        (
            "NAME.filters.npz",
            "Arrays: mosaic, norms_0, ..., numbers of each layer [L], of each filter (filter_norm, cos_max, dead, "
            "separability, ... and layer_of_filter); with --data and --compare theirs.",
        ),
        ("NAME.filters.json", "How the figure was made, its tables and suggestions: attn probe redraw makes it again."),
    ),
    notes=(
        "Statistics are of the filters' numbers, not of what a network does with them: batch norm makes their scale "
        "meaningless, and a filter that is small may be amplified. What has no meaning for a layer is shown as – and "
        "is null in JSON: spatial measures of 1 x 1 kernels, separability of 1-D and 3-D ones.",
        "A file of weights says neither stride nor groups nor direction: all are taken for ordinary convolutions, "
        "and costs and receptive fields are left out, but for chains named as torchvision's AlexNet and VGG. Only "
        "tensors NAME.weight of three to five dimensions count.",
        "Files are read without running what is pickled in them. Layers with NaN or infinite weights are listed first "
        "and left out of everything else.",
        "--compare matches filters by layer, name and position. Two networks that were trained from different starts "
        "have their filters in different places: their cosines are near 0 though they may do the same.",
        "Dead is a filter of zeros, or one whose norm is below a thousandth of the median; dead on pictures, a channel "
        "that is 0 behind the next ReLU for 99.9 % of all places. One does not imply the other.",
        "The trust lines set the statistics against those of weights drawn anew with the scale of each layer. Where "
        "one is red, nothing in it speaks of training.",
    ),
    columns=("layers", "filters", "effective_rank_share", "separability", "dead", "duplicates", "receptive_field"),
)
