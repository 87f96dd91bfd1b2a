"""What `attn train shapes-vlm` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...bundles import Compute
from ...command import Verb
from ...fit.options import NOTES, EvaluateEvery, LearningRate, OutputFolder, TrainingOptions, check_warmup
from ...options import Option, OptionError, check


@dataclass(frozen=True, slots=True)
class ShapesVLMOptions:
    """Size of the model and length of its two stages.

    Parameters
    ----------
    output : Path
        Folder of the run, and afterwards of the model: a folder of transformers. The first stage is in ``vision/``.
    width : int
        Of the image tower and the language model.
    vision_layers, layers : int
        Of the image tower, and of the language model.
    vision_steps, steps : int
        Of the first stage, which trains the image tower to name what each patch shows, and of the second, in which the
        whole model answers questions.
    batch : int
        Scenes per step; in the second stage with 17 questions each.
    learning_rate : float
        Highest rate of AdamW in the second stage.
    matrix_rate : float
        Of Muon, which fits the matrices inside the layers, in the second stage.
    judged : int
        Scenes of each task that an evaluation takes; the final one takes ten times as many, drawn from another seed.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    width: Annotated[int, Option("Of image tower and language model.", metavar="C", least=16)] = 96
    vision_layers: Annotated[int, Option("Of the image tower.", metavar="N", least=1)] = 3
    layers: Annotated[int, Option("Of the language model.", metavar="N", least=1)] = 4
    vision_steps: Annotated[int, Option("Of the image tower alone.", metavar="N", least=1)] = 1200
    steps: Annotated[int, Option("Of the whole model.", metavar="N", least=2, resumable=True)] = 2600
    warmup: Annotated[int, Option("Steps of each stage in which the rate rises.", metavar="N", least=0)] = 100
    batch: Annotated[int, Option("Scenes per step.", metavar="N", least=1)] = 24
    learning_rate: LearningRate = 8e-4
    matrix_rate: Annotated[float, Option("Highest rate of Muon.", metavar="X", above=0.0, below=1.0)] = 7.2e-3
    judged: Annotated[int, Option("Scenes of each task in an evaluation.", metavar="N", least=1, resumable=True)] = 200
    evaluate_every: EvaluateEvery = 250
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.width % 4:
            raise OptionError(f"{{width}}: {self.width} must be a multiple of 4.")
        check_warmup(self.warmup, {"{vision_steps}": self.vision_steps, "{steps}": self.steps})

    @property
    def heads(self) -> int:
        """PatchHeads of every layer: two, of half the width."""
        return 2


RECIPE = Verb(
    options=ShapesVLMOptions,
    run="attn.core.train.shapes_vlm.run:train_shapes_vlm",
    description="""Train a small vision-language model on drawn scenes.

    It answers six kinds of questions about shapes and digits with one word. Nothing is read: scenes and questions are
    drawn. The models that ship as `shapes` and `shapes-guide` were made by the first two commands below, on one thread
    of a CPU. The default takes about 25 minutes on one core.
    """,
    examples=(
        ("attn train shapes-vlm -o run/", "How `shapes` was made; the same command resumes a killed run."),
        (
            "attn train shapes-vlm -o small/ --width 64 --vision-steps 700 --steps 800",
            "How `shapes-guide` was made: about half the size, and weaker.",
        ),
        ('attn prune picture.png --model run/ --prompt "where is the red ring" --keep 25%', "Use it."),
    ),
    files=(
        (
            "OUT/model.safetensors, OUT/config.json, OUT/tokenizer.json, …",
            "The model, as a folder that transformers loads (LlavaForConditionalGeneration).",
        ),
        ("OUT/model.md", "The model card."),
        ("OUT/metrics.jsonl, OUT/curve.png", "One JSON line per evaluation, and a picture of loss and score."),
        ("OUT/vision/", "The same of the first stage."),
        ("OUT/checkpoint.pt, OUT/best.pt", "What a resumed run goes on from."),
    ),
    notes=NOTES,
    columns=("accuracy", "colour", "exists", "count", "where", "relation", "digit"),
)
