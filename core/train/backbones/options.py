"""What `attn train biformer` and `attn train halonet` can be told, and both registry entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from ...bundles import Compute
from ...command import Verb
from ...fit.options import (
    FILES,
    NOTES,
    EvaluateEvery,
    LearningRate,
    OutputFolder,
    TrainingOptions,
    Warmup,
    WeightDecay,
    check_warmup,
)
from ...options import Option, OptionError, check
from ..fsgnet.options import parse_depths
from ..vit.options import PictureOptions

Kind = Literal["biformer", "halonet"]
Depths = Annotated[tuple[int, ...], Option("Blocks of each stage.", metavar="N,N,N,N", parse=parse_depths)]
HEAD = 16
"""Channels of a head, of both backbones."""


@dataclass(frozen=True, slots=True)
class BackbonePictures(PictureOptions):
    """Pictures with classes.

    Parameters
    ----------
    image_size : int
        The last stage sees them at a 32nd of it.
    label : str or None
        Column of a list or table with the classes.
    """

    image_size: Annotated[int, Option("Side of a picture.", metavar="PX", least=32)] = 64
    label: Annotated[str | None, Option("Column with the classes.", metavar="NAME", shown="label or class")] = None

    def __post_init__(self) -> None:
        check(self)
        if self.batch < 2:
            raise OptionError("{batch}: batch normalisation needs at least 2 pictures a step.")


@dataclass(frozen=True, slots=True)
class BackboneOptions:
    """What both recipes can be told alike.

    Parameters
    ----------
    output : Path
        Folder of the run: of the backbone with the first seed; the plain ViTs are in ``vit-parameters/`` and
        ``vit-cost/``, further seeds in ``seed-N/``.
    pictures : BackbonePictures
    width : int
        Channels of the first stage; each stage has twice those of the one before.
    depths : tuple of 4 int
        Blocks of each stage.
    patch, layers, heads : int
        Of the plain ViTs, whose widths are what makes them equal.
    steps, warmup : int
        Of each network.
    learning_rate, plain_rate : float
        Highest rates of AdamW: of the backbone and of the ViTs. Muon fits matrices inside ViT and BiFormer blocks with
        ten times as much.
    weight_decay : float
    seeds : int
        Further ones follow the seed of ``compute``: starts and batches of their own, the same pictures.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    kind: ClassVar[Kind]

    output: OutputFolder
    pictures: BackbonePictures = field(default_factory=BackbonePictures)
    width: Annotated[int, Option("Channels of the first stage; a multiple of 16.", metavar="C", least=16)] = 16
    depths: Depths = (1, 1, 2, 1)
    patch: Annotated[int, Option("Side of a patch of the plain ViTs.", metavar="PX", least=1)] = 8
    layers: Annotated[int, Option("Blocks of the plain ViTs.", metavar="N", least=1, most=64)] = 6
    heads: Annotated[int, Option("Heads of the plain ViTs.", metavar="N", least=1)] = 4
    steps: Annotated[int, Option("Of each network.", metavar="N", least=2, resumable=True)] = 300
    warmup: Warmup = 20
    learning_rate: LearningRate = 2e-3
    plain_rate: Annotated[float, Option("Highest rate of the plain ViTs.", metavar="X", above=0.0, below=1.0)] = 2e-3
    weight_decay: WeightDecay = 0.05
    seeds: Annotated[
        int, Option("Seeds, counted from --seed: with several there is a spread.", metavar="N", least=1, resumable=True)
    ] = 1
    evaluate_every: EvaluateEvery = 100
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise OptionError("{depths}: give four numbers of at least 1, as 1,1,2,1.")
        if self.width % HEAD:
            raise OptionError(f"{{width}}: {self.width} must be a multiple of {HEAD}.")
        if self.pictures.image_size % self.patch:
            raise OptionError(
                f"{{image_size}}: {self.pictures.image_size} px must be a multiple of {{patch}} {self.patch}."
            )
        check_warmup(self.warmup, {"{steps}": self.steps})


@dataclass(frozen=True, slots=True)
class BiFormerOptions(BackboneOptions):
    """See ``BackboneOptions``.

    Parameters
    ----------
    n_win : int
        Regions per side.
    topk : tuple of int
        Regions that each region attends to, of stages 1 to 3; the last stage attends to all.
    mlp_ratio : float
    """

    kind = "biformer"

    n_win: Annotated[int, Option("Regions per side.", metavar="N", least=1)] = 4
    topk: Annotated[
        tuple[int, ...], Option("Regions attended to, in stages 1 to 3.", metavar="N,N,N", parse=parse_depths)
    ] = (1, 2, 4)
    mlp_ratio: Annotated[float, Option("Width inside an MLP over the stage's.", metavar="X", above=0.0)] = 3.0

    def __post_init__(self) -> None:
        BackboneOptions.__post_init__(self)
        if len(self.topk) != 3 or not 1 <= min(self.topk) <= max(self.topk) <= self.n_win**2:
            raise OptionError(f"{{topk}}: give three numbers from 1 to {self.n_win**2}, the regions, as 1,2,4.")
        side = 16 * self.n_win
        if self.pictures.image_size % side:
            raise OptionError(
                f"{{image_size}}: {self.pictures.image_size} px must be a multiple of {side}, so that "
                f"{{n_win}} {self.n_win} divides the map of stage 3."
            )


@dataclass(frozen=True, slots=True)
class HaloNetOptions(BackboneOptions):
    """See ``BackboneOptions``.

    Parameters
    ----------
    block, halo : int
        Side of a block of queries, and how far their keys reach past it.
    value_ratio, out_ratio : float
        Of the values, and of a block's output, to the stage's width.
    """

    kind = "halonet"

    depths: Depths = (2, 2, 3, 2)
    block: Annotated[int, Option("Side of a block of queries.", metavar="N", least=2)] = 4
    halo: Annotated[int, Option("How far keys reach past the block; 0: windows.", metavar="N", least=0)] = 2
    value_ratio: Annotated[float, Option("Width of values over the stage's.", metavar="X", least=0.5, most=8.0)] = 1.0
    out_ratio: Annotated[float, Option("Width of outputs over the stage's.", metavar="X", least=0.5, most=8.0)] = 1.0

    def __post_init__(self) -> None:
        BackboneOptions.__post_init__(self)
        if (self.width * self.value_ratio) % HEAD:
            raise OptionError(f"{{value_ratio}}: {{width}} times it must be a multiple of {HEAD}.")
        if self.halo > self.block:
            raise OptionError(f"{{halo}}: {self.halo} is more than {{block}} {self.block}.")


_FOLDERS = (*FILES, ("OUT/vit-parameters/, OUT/vit-cost/, OUT/seed-N/", "The plain ViTs, and further seeds."),
            ("OUT/attended.png", "Test pictures, and where one place of each looks in every stage."))  # fmt: skip
_COLUMNS = ("accuracy", "accuracy_vit_parameters", "accuracy_vit_cost", "time_ratio")
_TOLD = (
    *NOTES,
    "Pictures of a folder that cannot be read are left out and named. Classes that have no training picture are named.",
    "Time is of a forward pass over a batch, all networks by turns: processor time on a CPU.",
)
_BESIDE = """Beside it two plain ViTs learn from the same batches in as many steps: one of as many parameters, one of as
    many multiply-adds. The table has accuracy on test pictures, parameters, multiply-adds and time of all three."""

BIFORMER = Verb(
    options=BiFormerOptions,
    run="attn.core.train.backbones.run:train_backbone",
    description=f"""Train a small BiFormer classifier, whose regions attend to the regions they choose.

    {_BESIDE}
    """,
    examples=(
        ("attn train biformer -o run/", "Drawn shapes: about three minutes of one core."),
        ("attn train biformer -o run/ --seeds 3", "Go on with two more seeds, for a spread."),
        ("attn train biformer --data photos/ --label coarse_label -o own/", "Your folder, with labels.csv."),
    ),
    files=_FOLDERS,
    notes=_TOLD,
    columns=_COLUMNS,
)
HALONET = Verb(
    options=HaloNetOptions,
    run="attn.core.train.backbones.run:train_backbone",
    description=f"""Train a small HaloNet classifier, whose blocks attend to themselves and a halo around them.

    {_BESIDE}
    """,
    examples=(
        ("attn train halonet -o run/", "Drawn shapes: about three minutes of one core."),
        ("attn train halonet -o run/ --halo 0", "Windows without a halo."),
        ("attn train halonet --data photos/ --label coarse_label -o own/", "Your folder, with labels.csv."),
    ),
    files=_FOLDERS,
    notes=_TOLD,
    columns=_COLUMNS,
)
