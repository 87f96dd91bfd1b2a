"""What `attn probe relevance` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ...bundles import Device, Placement, Seed
from ...command import Verb
from ...options import Option, OptionError, check
from ..inputs import DrawnInputs


@dataclass(frozen=True, slots=True)
class RelevanceOptions:
    """What is looked at, with which classifier, by which rules.

    Parameters
    ----------
    inputs : DrawnInputs
    model : str
        See ``attn.core.models.load``.
    target : str or None
        Class, by name or number.
    compare : str or None
        A second classifier, beside the first.
    rules : str
    epsilon : float or None
        Of the rules; None: 1e-9 of ``official``, else 1e-6.
    max_side, nearest, position, focus
        See ``saliency.SaliencySettings``.
    trust : bool
        Deletion and insertion, and models with randomised weights, beside every map.
    allow_download : bool
    device : str
    seed : int
    placement : Placement
    """

    inputs: DrawnInputs
    model: Annotated[
        str,
        Option(
            "Classifier: shapes-cnn, a folder of attn, timm or transformers (VGG, ResNet), a file of weights of "
            "torchvision's AlexNet or VGG, or a Hugging Face id that is on this machine.",
            metavar="NAME",
        ),
    ] = "shapes-cnn"  # fmt: skip
    target: Annotated[
        str | None, Option("Class, by name or number.", metavar="CLASS", shown="the most probable one")
    ] = None
    compare: Annotated[
        str | None, Option("A second classifier, beside the first: for its own most probable class.", metavar="NAME")
    ] = None
    rules: Annotated[
        Literal["official", "stable", "epsilon", "alpha2beta1", "epsilon-plus", "gamma-box"],
        Option(
            "Rules of propagation: stable is the released code's with its faults repaired.",
            metavar="official|stable|epsilon|alpha2beta1|epsilon-plus|gamma-box",
        ),
    ] = "stable"
    epsilon: Annotated[
        float | None,
        Option("What keeps a rule from dividing by 0.", metavar="X", above=0.0, most=1.0,
               shown="1e-9 of official, else 1e-6"),
    ] = None  # fmt: skip
    max_side: Annotated[int, Option("Side that saliency is computed at.", metavar="PX", least=64, most=512)] = 250
    nearest: Annotated[int, Option("Patches that each patch is compared to.", metavar="K", least=1)] = 64
    position: Annotated[float, Option("Weight of distance in the picture.", metavar="C", least=0.0)] = 3.0
    focus: Annotated[float, Option("Saliency of a focus of attention.", metavar="SHARE", above=0.0, below=1.0)] = 0.8
    trust: Annotated[
        bool, Option("Deletion, insertion and randomised weights: some 900 forward passes per picture.")
    ] = True
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    device: Device = "auto"
    seed: Seed = 77
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        if self.inputs.scenes and self.target is not None:
            raise OptionError(f"{{target}}: {self.inputs.scenes} has classes of its own.")
        if self.inputs.scenes and self.compare is not None:
            raise OptionError(f"{{compare}}: {self.inputs.scenes} is for one model. Compare models on files.")


KIND = Verb(
    options=RelevanceOptions,
    run="attn.core.probe.relevance.run:run",
    description="""See which pixels a convolutional classifier's answer hangs on, and which regions stand out in them.

    The logit of a class is handed back layer by layer to the pixels (layer-wise relevance propagation); regions of that
    map that are unlike the rest make the salient-relevance map. Each layer says how much it kept, and every map what it
    is worth: does the score fall when its pixels go, and is it another map when the weights are random?
    """,
    examples=(
        ("attn probe relevance example:photo", "With the CNN that ships; writes ./astronaut.relevance.png."),
        (
            "attn probe relevance dog.jpg --model alexnet.pth --rules official -o out/",
            "Weights of torchvision, the released code's rules.",
        ),
        ('attn probe relevance scene.png --target "red ring"', "What speaks for a class that is not the first."),
        ("attn probe relevance shapesx100 -o out/", "Drawn pictures: how often the map points at the object."),
    ),
    files=(
        (
            "NAME.relevance.png",
            "Picture, signed relevance, SR map with its regions, what each layer kept, deletion and insertion; "
            "written last.",
        ),
        ("NAME.heat.png", "The relevance of each colour as the official code shows it: absolute, as a colour picture."),
        ("NAME.overlay.png", "The SR map over the picture; NAME.compared.png: that of the second classifier."),
        (
            "NAME.relevance.npz",
            "Arrays: relevance [3, h, w], saliency and gradient (gradient times input) [h, w], conservation, curves, "
            "picture.",
        ),
        ("NAME.relevance.json", "How the figure was made, and its tables: attn probe redraw makes it again."),
        ("shapes.relevance.png", "Of drawn pictures: what four maps come to."),
    ),
    notes=(
        "Relevance says how the classifier came to this logit; it does not say that the classifier is right, nor what "
        "would have happened without a pixel: deletion and insertion ask that.",
        "Biases take relevance, by design of the rules: what a layer kept is printed, 1 is all of it. That holds for a "
        "model with random weights as well, so it is no line of trust.",
        "official is the released code, faults included: an unsigned epsilon, and overlapping windows of max pooling "
        "that lose relevance. Its average pooling, which that code leaves out, is propagated.",
        "A file of weights alone has no names of classes: --target takes a number. Pictures are prepared as those "
        "networks expect: shorter side 256, the middle 224 x 224.",
    ),
    columns=("class", "probability", "conserved", "regions", "deletion", "insertion", "trusted"),
)
