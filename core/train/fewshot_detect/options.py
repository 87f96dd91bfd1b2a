"""What `attn train fewshot-detect` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ...bundles import Compute
from ...command import Verb
from ...fit.options import NOTES, LearningRate, OutputFolder, TrainingOptions
from ...options import Option, OptionError, check

PLAIN = "plain"
ARMS = (PLAIN, "ppr", "ncm", "ppr+ncm", "ppr+ncm+tsa")


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _words(text))
    except ValueError:
        raise ValueError(f"{text!r} is no list of whole numbers, such as 1,5,10.") from None


@dataclass(frozen=True, slots=True)
class RefinementOptions:
    """Of PPR, NCM and TSA: methods/astigmatism.md, section 4.

    Parameters
    ----------
    threshold_front, threshold_back : float
        Least cosines with a prototype, chosen on pictures that no table is made of. With the notes' 0.75 no cell of
        these features is background.
    temperature : float
        Of the weights of classes; at the 1.0 of the notes they are almost uniform.
    gamma_front, gamma_back : float
        Start values of what prototypes are multiplied by.
    fusion : {"keep", "paper"}
    exclusive : bool
    lambda_tsa : float
        Weight of TSA's loss. The notes' 1000 was for GLIP; here it leaves nothing of the detector's own loss.
    denominator : {"all", "row", "symmetric"}
    texts : int
        Phrases that say what is not there.
    """

    threshold_front: Annotated[float, Option("Least cosine with a class.", metavar="X", least=-1, most=1)] = 0.5
    threshold_back: Annotated[float, Option("Least cosine with the background.", metavar="X", least=-1, most=1)] = 0.3
    temperature: Annotated[float, Option("Of the weights of classes.", metavar="T", least=0.01, most=2)] = 0.1
    gamma_front: Annotated[float, Option("Injection of classes at the start.", metavar="X", above=0)] = 1.0
    gamma_back: Annotated[float, Option("Injection of background at the start.", metavar="X", above=0)] = 0.5
    fusion: Annotated[
        Literal["keep", "paper"],
        Option("Cells in neither mask stay, or become 0 as in the paper.", metavar="keep|paper"),
    ] = "keep"
    exclusive: Annotated[bool, Option("Cells in both masks follow the larger cosine.")] = False
    lambda_tsa: Annotated[float, Option("Weight of TSA's loss.", metavar="X", least=0, most=1e4)] = 1.0
    denominator: Annotated[
        Literal["all", "row", "symmetric"],
        Option("Pairs that TSA's loss sums over.", metavar="all|row|symmetric"),
    ] = "all"
    texts: Annotated[int, Option("Phrases of what is not there.", metavar="N", least=2, most=204)] = 200

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class FewShotDetectOptions:
    """Source training, and how the target domain is learned from few pictures.

    Parameters
    ----------
    output : Path
        Folder of the run; the source detector in ``source/``.
    shots : tuple of int
        Support boxes of each class.
    repeats : int
        Support sets of each size, with the seeds 0, 1, …
    modules : tuple of str
        What is compared, at equal steps; one of ``ARMS`` each.
    source_steps : int
        Of the detector on the source domain.
    steps : int
        On the support pictures, of each comparison.
    batch : int
        Pictures of a source step; on the support pictures half as many.
    judged : int
        Target pictures that every comparison is judged on.
    source_rate, learning_rate : float
        Highest rates of AdamW on the source, and on the support pictures.
    refinement : RefinementOptions
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    shots: Annotated[
        tuple[int, ...],
        Option("Support boxes of each class.", metavar="N,…", parse=_counts, text="1,5,10", resumable=True),
    ] = (1, 5, 10)
    repeats: Annotated[int, Option("Support sets of each size.", metavar="N", least=1, resumable=True)] = 3
    modules: Annotated[
        tuple[str, ...],
        Option(
            "What is compared: plain, ppr, ncm, ppr+ncm, ppr+ncm+tsa.", metavar="NAME,…", parse=_words,
            text=",".join(ARMS), choices=ARMS, resumable=True,
        ),
    ] = ARMS  # fmt: skip
    source_steps: Annotated[int, Option("Of the source detector.", metavar="N", least=2)] = 300
    steps: Annotated[int, Option("On the support pictures.", metavar="N", least=2)] = 60
    batch: Annotated[int, Option("Pictures of a source step.", metavar="N", least=2)] = 16
    judged: Annotated[int, Option("Target pictures to judge by.", metavar="N", least=1)] = 100
    source_rate: Annotated[float, Option("Highest rate on the source.", metavar="X", above=0.0, below=1.0)] = 1e-3
    learning_rate: LearningRate = 1e-3
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if not self.shots or not self.modules:
            raise OptionError(f"{{{'modules' if self.shots else 'shots'}}}: it is empty.")
        if bad := [count for count in self.shots if not 1 <= count <= 100]:
            raise OptionError(f"{{shots}}: {bad[0]} is no number from 1 to 100.")
        for name, given in (("shots", self.shots), ("modules", self.modules)):
            if len(set(given)) < len(given):
                raise OptionError(f"{{{name}}}: it names one twice.")

    @property
    def exported(self) -> tuple[str, int]:
        """What is written as the model: the modules named last, with the most shots (and the first support set)."""
        return self.modules[-1], max(self.shots)


RECIPE = Verb(
    options=FewShotDetectOptions,
    run="attn.core.train.fewshot_detect.run:train_fewshot_detect",
    description="""Move a detector to another domain from a handful of pictures.

    Prototypes of classes are injected where objects are (PPR), one of the background elsewhere (NCM), and background
    is tied to phrases of what is not there (TSA); all against plain fine-tuning at equal steps. No official code of
    the method was found: it is made from notes on the paper. Pictures are drawn: shapes, and shapes with other
    colours, contrast, ground, blur and noise. The table says where the method does not help.
    """,
    examples=(
        ("attn train fewshot-detect -o run/", "All comparisons; the same command resumes a killed run."),
        ("attn train fewshot-detect --shots 5 --modules plain,ppr+ncm -o run/", "One size, two comparisons."),
        ("attn train fewshot-detect --fusion paper -o paper/", "Fused as in the paper."),
    ),
    files=(
        ("OUT/model.safetensors, OUT/model.md", "The detector of the modules named last, most shots; its card."),
        ("OUT/prototypes.npz", "Its prototypes."),
        ("OUT/masks.png", "Test pictures with cells in the foreground green, background blue, neither grey."),
        ("OUT/metrics.jsonl", "One JSON line per shots, support set and modules."),
        ("OUT/source/", "The source detector: its checkpoint, metrics and curve."),
    ),
    notes=(
        *NOTES,
        "The backbone (two layers of the image tower that ships) is frozen; one layer of attention and the head are "
        "trained. `distance` is that layer's attention distance in cells on target pictures.",
    ),
    columns=("ap50", "ap50_plain", "map", "redundant", "distance_change"),
)
