"""What `attn train fsgnet` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...bundles import Compute
from ...command import Verb
from ...filters import INITIALISERS
from ...fit.options import FILES, NOTES, EvaluateEvery, LearningRate, OutputFolder, TrainingOptions, WeightDecay
from ...options import Option, OptionError, check

if TYPE_CHECKING:
    from ...segment.fsgnet.checkpoint import FSGNetArchitecture

SYNTHETIC = "synthetic"
FULL = {"steps": 3000, "warmup": 100, "crop": 256}
SMALL = {"steps": 200, "warmup": 20, "crop": 96}
"""What is left open, for photos and for drawn ones."""
HOLD_OUT = 4
"""Photos held out where nothing else is said."""


def parse_depths(text: str) -> tuple[int, ...]:
    """``3,3,9,3`` as numbers. Raises ``ValueError`` for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no list of four numbers, as 3,3,9,3.") from None


@dataclass(frozen=True, slots=True)
class FSGNetOptions:
    """Data, network, augmentation and length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: ``model.safetensors``, ``model.md``, ``metrics.jsonl``, ``curve.png`` and the checkpoint from
        which the same call goes on.
    data : str
        A folder, or several separated by commas: see ``data.find_pairs``; or ``"synthetic"``: see ``synthetic``.
    split : Path or None
        Which photos of which folder train, and which choose weights and threshold: see ``data.read_splits``.
    trunk, guided, attention, width, depths, kernel, drop_block, batch_coupled
        See ``FSGNetArchitecture``.
    steps, warmup, crop : int or None
        Optimisation steps; over how many the rate rises; side of a crop in pixels. Default: ``FULL`` or ``SMALL``.
    batch : int
        Crops per step, over all processes.
    learning_rate, weight_decay : float
        Of AdamW.
    cycles : float
        Waves of the cosine schedule; 0.5 falls once to zero.
    augment : {"robust", "cameras", "paper"}
    normalise : {"fov", "imagenet"}
        See ``Preparation``.
    diameter : float or None
        See ``Preparation``; None: 540, of drawn photos half of it.
    fine_diameter : float or None
        See ``Preparation``: of the model that is made; training has views of about half to twice its scale anyhow.
    hold_out : int or None
        How many photos choose weights and threshold and are not trained on; None: 4, or those that ``split`` names.
    evaluate_every : int
    init : str
        A name of ``attn.core.filters.INITIALISERS``.
    weights : Path or None
        A model file to start from.
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    data: Annotated[
        str,
        Option(
            "Holds images/ and manual/ (or labels/, truth/, …); fov/ if any. Several: DIR,DIR. Or synthetic.",
            metavar="DIR", resumable=True,
        ),
    ] = SYNTHETIC  # fmt: skip
    split: Annotated[
        Path | None,
        Option("JSON: per folder, which photos train and which are held_out.", metavar="FILE", resumable=True),
    ] = None
    trunk: Annotated[
        str,
        Option(
            "Part before the guided decoder: fsgnet, unet, biformer, halo.",
            metavar="NAME", choices=("fsgnet", "unet", "biformer", "halo"),
        ),
    ] = "fsgnet"  # fmt: skip
    guided: Annotated[bool, Option("Off: plain upsampling, the paper's noGRM ablation.")] = True
    attention: Annotated[bool, Option("Off: guided filters without attention weights.")] = True
    width: Annotated[int, Option("Base width; the paper's is 64.", metavar="C", least=1)] = 8
    depths: Annotated[
        tuple[int, ...], Option("Blocks per scale.", metavar="N,N,N,N", parse=parse_depths, text="3,3,9,3")
    ] = (3, 3, 9, 3)
    kernel: Annotated[int, Option("Side of the blocks' convolutions.", metavar="K", least=1)] = 3
    drop_block: Annotated[
        bool, Option("DropBlock in every block, as the paper has it.", negation="--no-drop-block")
    ] = False
    batch_coupled: Annotated[
        bool, Option("Attention sums over the batch, as in the official code.", negation="--per-image")
    ] = False
    steps: Annotated[
        int | None,
        Option("Optimisation steps.", metavar="N", least=2, shown="3000, with synthetic 200", resumable=True),
    ] = None
    warmup: Annotated[
        int | None,
        Option("Steps in which the rate rises.", metavar="N", least=0, shown="100, with synthetic 20"),
    ] = None
    batch: Annotated[int, Option("Crops per step.", metavar="N", least=1)] = 4
    crop: Annotated[int | None, Option("Side of a crop.", metavar="PX", least=1, shown="256, with synthetic 96")] = None
    learning_rate: LearningRate = 3e-3
    weight_decay: WeightDecay = 0.01
    cycles: Annotated[
        float, Option("Waves of the cosine schedule; 0.5 falls once to zero.", metavar="X", least=0.0)
    ] = 0.5
    augment: Annotated[
        str,
        Option(
            "robust: for other cameras; cameras: more of it, and disease; paper: as published.",
            metavar="robust|cameras|paper", choices=("robust", "cameras", "paper"),
        ),
    ] = "robust"  # fmt: skip
    normalise: Annotated[
        str,
        Option("fov: by each photo's own field of view (ours).", metavar="fov|imagenet", choices=("fov", "imagenet")),
    ] = "fov"
    diameter: Annotated[
        float | None,
        Option(
            "Pixels across the field of view that every photo is scaled to.",
            metavar="PX", shown="540, with synthetic 270", resumable=True,
        ),
    ] = None  # fmt: skip
    fine_diameter: Annotated[
        float | None,
        Option(
            "Pixels across the field of view up to which a large photo keeps its own when it is segmented.",
            metavar="PX", shown="as in training", resumable=True,
        ),
    ] = None  # fmt: skip
    hold_out: Annotated[
        int | None,
        Option("Photos that choose weights and threshold.", metavar="N", least=1, shown="4, or those of the split"),
    ] = None
    evaluate_every: EvaluateEvery = 100
    init: Annotated[
        str,
        Option("Filter initialiser: he, orthogonal, lsuv, gabor, pca, …", metavar="NAME", choices=tuple(INITIALISERS)),
    ] = "torch-default"
    weights: Annotated[Path | None, Option("Start from a model file.", metavar="FILE")] = None
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        from ...segment.fsgnet.network import MIN_SIDE

        check(self)
        if self.crop is not None and (self.crop < MIN_SIDE or self.crop % 8):
            raise OptionError(f"{{crop}}: {self.crop} px must be a multiple of 8 and at least {MIN_SIDE}.")
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise OptionError("{depths}: give four numbers of at least 1, as 3,3,9,3.")
        if self.kernel % 2 == 0:
            raise OptionError(f"{{kernel}}: {self.kernel} must be odd.")
        length = _defaults(self) | {name: n for name in ("steps", "warmup") if (n := getattr(self, name)) is not None}
        if length["warmup"] >= length["steps"]:
            raise OptionError(f"{{warmup}}: {length['warmup']} steps leave nothing of {{steps}} {length['steps']}.")
        if self.batch < 2:
            raise OptionError("{batch}: batch normalisation needs at least 2 crops a step.")
        if self.split is not None and self.data == SYNTHETIC:
            raise OptionError("{split} divides photos of folders: add {data}.")
        if self.weights is not None and self.init != "torch-default":
            raise OptionError("{weights} and {init} both say where training starts: leave one out.")

    def architecture(self) -> FSGNetArchitecture:
        """The network's."""
        from ...segment.fsgnet.checkpoint import FSGNetArchitecture

        return FSGNetArchitecture(
            trunk=self.trunk, width=self.width, depths=self.depths, kernel=self.kernel, guided=self.guided,  # type: ignore[arg-type]
            attention=self.attention, batch_coupled=self.batch_coupled, drop_block=self.drop_block,
        )  # fmt: skip


def folders(data: str) -> list[Path]:
    """The folders that ``data`` names; a folder whose name holds a comma is one."""
    return [Path(data)] if Path(data).is_dir() else [Path(part) for part in data.split(",")]


def _defaults(options: FSGNetOptions) -> dict[str, int]:
    return SMALL if options.data == SYNTHETIC else FULL


def complete(options: FSGNetOptions) -> FSGNetOptions:
    """The same with nothing left open."""
    left_open: dict[str, Any] = {name: n for name, n in _defaults(options).items() if getattr(options, name) is None}
    return replace(options, **left_open)


RECIPE = Verb(
    options=FSGNetOptions,
    run="attn.core.train.fsgnet.run:train_fsgnet",
    description="""Train vessel segmentation on fundus photos with labels.

    Photos and labels are matched by name. Some photos are held out: they choose the best weights and the threshold.
    With a splits.json in the data folder only its train list is used.
    """,
    examples=(
        ("attn train fsgnet -o run/", "Drawn photos: a small run that shows how it goes."),
        ("attn train fsgnet --data DRIVE -o run/", "The default recipe; the same command resumes a killed run."),
        ("attn train fsgnet --data DRIVE -o plain/ --no-guided", "The ablation without guided filter and gates."),
        ("attn train fsgnet --data DRIVE -o halo/ --trunk halo", "The guided decoder on a halo-attention trunk."),
        ("attn segment photo.png --model run/model.safetensors", "Use what was trained."),
        ("torchrun --nproc-per-node 2 -m attn train fsgnet --data DRIVE -o run/", "The same run in two processes."),
    ),
    files=FILES,
    notes=NOTES,
)
