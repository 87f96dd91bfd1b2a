"""What `attn probe vit` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from ...bundles import Device, Placement, Seed
from ...command import Verb
from ...options import Option, OptionError, check
from ..inputs import DrawnInputs


@dataclass(frozen=True, slots=True)
class VitOptions:
    """What is looked at, with which model, and what is measured.

    Parameters
    ----------
    inputs : DrawnInputs
    model : str
        See ``attn.core.models.load``.
    target, ablate, ranking, rings, keep_class, points
        See methods/vit-analytics.md, section 4.
    atlas : Path or None
        A model file of ``attn train pattern-atlas``.
    clusters : int
    trust : bool
    allow_download : bool
    device : str
    seed : int
    placement : Placement
    """

    inputs: DrawnInputs
    model: Annotated[
        str,
        Option(
            "Vision transformer, with or without classes: shapes-vit, vit (ViT-S/14 of attn[vit]), a folder of "
            "transformers, timm or open_clip, or a Hugging Face id that is on this machine.",
            metavar="NAME",
        ),
    ] = "shapes-vit"  # fmt: skip
    target: Annotated[
        Literal["pred", "label"],
        Option("Class that is looked at: the predicted one, or the one that the picture's folder names.",
               metavar="pred|label"),
    ] = "pred"  # fmt: skip
    ablate: Annotated[
        Literal["zero", "uniform", "mean"],
        Option(
            "What a head gives when it is taken out: nothing, its even attention, or its mean over the pictures.",
            metavar="zero|uniform|mean",
        ),
    ] = "zero"  # fmt: skip
    ranking: Annotated[
        Literal["jsd", "kl", "dprob", "dloss", "flip", "acc", "cos", "gradient"] | None,
        Option(
            "Measure that heads are ranked and drawn by.", metavar="NAME", shown="jsd, of a model without classes cos"
        ),
    ] = None  # fmt: skip
    rings: Annotated[
        Literal["chebyshev", "manhattan", "euclid"],
        Option("What a step on the grid is.", metavar="chebyshev|manhattan|euclid"),
    ] = "chebyshev"
    keep_class: Annotated[
        bool,
        Option("Leave on class token and registers what lies there, instead of sharing it out among the patches."),
    ] = False
    points: Annotated[int, Option("Points of the pruning curves; 0: no curves.", metavar="N", least=0, most=1000)] = 6
    atlas: Annotated[
        Path | None,
        Option("Autoencoder of patterns, a model.safetensors of attn train pattern-atlas.", metavar="FILE",
               shown="principal components"),
    ] = None  # fmt: skip
    clusters: Annotated[int, Option("Groups of patterns.", metavar="N", least=2, most=20)] = 8
    trust: Annotated[bool, Option("Hold the maps against models with randomised weights, and chance.")] = True
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    device: Device = "auto"
    seed: Seed = 77
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        if self.ranking == "acc" and self.target != "label":
            raise OptionError("{ranking}: acc is the fall of accuracy and needs {target} label.")


KIND = Verb(
    options=VitOptions,
    run="attn.core.probe.vit.run:run",
    description="""See which heads of a vision transformer matter, how far they look, and what patterns they follow.

    Takes every head out and measures what that changes in the answer (JSD, KL, probability, loss, class, feature),
    starting again from the layer it is in; measures how far each head looks (attention distance, k-hop rings), what
    it looks at (class token, sinks, bias of position), and names its pattern. All of it comes from queries and keys:
    the attention matrix is never made. Of all pictures together: do the measures agree, does their order predict what
    is lost when heads go one after the other, and an atlas of patterns.
    """,
    examples=(
        ("attn probe vit shapesx24 -o out/", "The model that ships, on drawn pictures: all measures and curves."),
        ("attn probe vit photos/ -o out/ --model vit --report heads.html", "ViT-S/14 of attn[vit], on photos."),
        ("attn probe vit photos/ -o out/ --model vit-base/ --target label", "Folders of photos named by class."),
        ("attn probe vit example:ct --model vit --no-trust --points 0", "A CT slice, without the slower checks."),
    ),
    files=(
        ("NAME.vit.png", "HeadImportance, distance, rings; class attention, sinks, position over the picture; last."),
        (
            "NAME.vit.npz",
            "Arrays of one picture: importance_MEASURE [layers, heads], layer_importance_MEASURE [layers], "
            "offsets, ring_sum, ring_mean, distance_patches, distance_px, entropy, received [layers, heads, patches], "
            "class_row, sinks, cleared, patterns, and what the drawing needs.",
        ),
        ("NAME.vit.json", "How the figure was made, and its tables: attn probe redraw makes it again."),
        (
            "heads.vit.png",
            "All pictures: importance, agreement, pruning curves, rings, atlas of patterns; .npz, .json.",
        ),
        ("pictures/CLASS/NUMBER.png", "Of shapesxN: the drawn pictures."),
    ),
    notes=(
        "Attention is not explanation: a head that looks somewhere need not matter. What is lost without it says that, "
        "one head at a time: importances do not add up.",
        "kl, jsd, dloss are in nats; dprob and the gradient are of the class that is looked at. For the predicted "
        "class dprob is biased upwards (it falls from a maximum): --target label is fairer. cos is 1 less the cosine "
        "of the class token behind the last norm, without one of the pooled feature; of a model without classes it is "
        "all there is.",
        "Rows of attention are renormalised over the patches unless --keep-class. Patterns are pooled to 8 x 8 blocks "
        "of queries and keys; names, groups and likeness between pictures are of these.",
        "A sink receives more than 6 standard deviations above its layer's mean. The bias of position is what patches "
        "of a blank picture receive; the cleared map is the picture's over the blank one's, without sinks.",
        "The paper's full text was not available to us: its abstract says what is measured, the definitions are ours "
        "(methods/vit-analytics.md).",
        "Pixels are those of the file, upright. A model sees a square of it: resized, and cut to the middle. "
        "shapes-vit knows drawn shapes and nothing of photos. The model vit is a DINOv2 architecture that was trained "
        "on for saliency; do not quote its numbers as those of DINOv2.",
        "Of a stack the middle slice is looked at. CT and other grey images are mapped from their 0.5 and 99.5 "
        "percentiles to black and white; a warning says which values these are.",
    ),
    columns=("jsd_most", "cos_most", "distance_patches", "distance_px", "entropy_share", "sinks"),
)
