"""What `attn train ga-dms` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...bundles import Compute
from ...command import Verb
from ...fit.options import FILES, NOTES, OutputFolder, TrainingOptions, WeightDecay
from ...options import Option, OptionError, check

if TYPE_CHECKING:
    from ...retrieve.gadms.clip import CLIPArchitecture
    from ...retrieve.gadms.gass import GASSOptions

SYNTHETIC, CONFUSABLE = "synthetic", "confusable"
DRAWN = (SYNTHETIC, CONFUSABLE)
"""Data that is made, not read."""
ARMS = ("plain", "noise", "words", "both", "shuffled-noise", "shuffled-words", "shuffled-both")
"""What can be compared: no word masked, those of low scores hidden, those of high scores predicted, both; and the same
with ``shuffled`` scores."""
LOSSES = ("sdm", "mlm", "id", "itc", "cmpm")
SMALL_SIZE, HEADS, HEAD_DIM = (64, 32), 4, 16
"""Of a model from scratch, for synthetic people and two cores."""
FROM_SCRATCH = {"learning_rate": 2e-3, "losses": ("sdm", "itc", "mlm"), "tau": 0.07, "eps": 1e-8}
"""Without pre-trained weights ``sdm`` alone stays near chance for long: its target is out of reach at the start."""
FROM_WEIGHTS = {"learning_rate": 1e-5, "losses": ("sdm", "mlm"), "tau": 0.02, "eps": 1e-3}
"""The paper's losses and Adam's eps, the released script's rate."""


def parse_height_width(text: str) -> tuple[int, int]:
    """``384x128`` as (height, width). Raises ``ValueError`` for anything else."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"{text!r} is no height and width, as 384x128.") from None
    return height, width


def parse_names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@dataclass(frozen=True, slots=True)
class GADMSOptions:
    """Data, model, losses and length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: ``model.safetensors``, ``model.md``, ``metrics.jsonl``, ``curve.png``, ``scores.jsonl`` if
        wanted, and the checkpoint from which the same call goes on.
    data : str
        A file, see ``data.read_data``; or one of ``DRAWN``, see ``data.drawn``.
    images : Path or None
        Folder of the images.
    weights, tokenizer : Path or None
        A model file of attn, official weights or a CLIP folder to start from; a folder with CLIP's vocab.json and
        merges.txt (default: that of ``weights``).
    image_size : (H, W) or None
        Default 384 x 128 where training starts from weights of others, else ``SMALL_SIZE``.
    width, vision_layers, text_layers, patch, length : int
        Of a model from scratch, whose vocabulary is that of the captions.
    losses, tau, learning_rate, eps : optional
        Of ``LOSSES``, where ``mlm`` is the prediction of informative words; temperature of ``sdm`` and ``itc``;
        AdamW's. Default: ``FROM_SCRATCH`` or ``FROM_WEIGHTS``.
    noise : bool
        Hide noise words from the contrastive losses.
    scores : {"gass", "shuffled", "uniform"}
        ``shuffled``: a caption's scores are dealt out anew to its words, so that as many are masked as by ``gass``,
        whatever they say. ``uniform``: all alike (half of each share).
    noise_share, informative_share : float
        Alpha of the paper's equations 5 and 10, see ``masking.mask_caption``.
    positives : {"person", "pair"}
        Captions and images of one person match, or only those of one image and caption, as in web data.
    gass_norm, gass_heads, gass_scale, gass_layers
        See ``GASSOptions``; more layers than the model has are all of them.
    masking : {"attn", "released"}
        See ``masking.mask_caption``.
    augment : bool, optional
        Flip, shift and erase images; default: photos, but not drawings, no two of which are alike anyhow.
    beta : float
        Weight of ``mlm``.
    epochs, warmup : int
    batch : int
        Captions per step, each with its image.
    weight_decay : float
    hold_out : int
        Persons that choose the best weights where the data has no split ``val``.
    evaluate_every : int
        Epochs.
    save_scores : bool
        Write the score of every word of every training caption.
    compare : tuple of str
        Of ``ARMS``: trained beside the run's own model, in equal steps, and put into one table.
    repeats : int
        Seeds of a comparison, counted up from the run's own: other weights, orders and people.
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    data: Annotated[
        str,
        Option(
            "JSONL {image, captions, id, split}, CUHK-PEDES, ICFG-PEDES, RSTPReid or WebPerson JSON; or drawn people: "
            "synthetic, a fifth of whose attributes are described wrongly, or confusable, who differ in one attribute "
            "and whose captions mix up what is seen.",
            metavar="FILE", resumable=True,
        ),
    ] = SYNTHETIC  # fmt: skip
    images: Annotated[
        Path | None, Option("Folder of the images.", metavar="DIR", shown="beside the file", resumable=True)
    ] = None
    weights: Annotated[
        Path | None, Option("Start from a model file, official weights or a CLIP folder.", metavar="PATH")
    ] = None
    tokenizer: Annotated[
        Path | None,
        Option("Holds CLIP's vocab.json and merges.txt.", metavar="DIR", shown="of --weights, else whole words"),
    ] = None
    image_size: Annotated[
        tuple[int, int] | None,
        Option("In pixels.", metavar="HxW", parse=parse_height_width, shown="384x128 with --weights, else 64x32"),
    ] = None
    width: Annotated[int, Option("Of both towers, from scratch.", metavar="D", least=16)] = 64
    vision_layers: Annotated[int, Option(metavar="N", least=1)] = 2
    text_layers: Annotated[int, Option(metavar="N", least=1)] = 3
    patch: Annotated[int, Option("Side of a patch, from scratch.", metavar="PX", least=1)] = 16
    length: Annotated[int, Option("Tokens of a caption, from scratch.", metavar="N", least=3, most=77)] = 24
    losses: Annotated[
        tuple[str, ...] | None,
        Option(
            "sdm, mlm (predict informative words), id, itc, cmpm.", metavar="A,B", parse=parse_names,
            choices=LOSSES, shown="sdm,itc,mlm, with --weights sdm,mlm",
        ),
    ] = None  # fmt: skip
    noise: Annotated[bool, Option("Hide words the image does not support before matching.")] = True
    scores: Annotated[
        str,
        Option(
            "shuffled: as many words are masked, whichever they are; uniform: all alike.",
            metavar="gass|shuffled|uniform",
            choices=("gass", "shuffled", "uniform"),
        ),
    ] = "gass"
    noise_share: Annotated[
        float, Option("Chance that a word is hidden: 0.88 of it at score 0.", metavar="X", least=0.0, most=1.0)
    ] = 0.2
    informative_share: Annotated[
        float, Option("Chance that a word must be predicted: all of it at score 1.", metavar="X", least=0.0, most=1.0)
    ] = 0.3
    positives: Annotated[
        str,
        Option("What matches: a person's, or one pair alone.", metavar="person|pair", choices=("person", "pair")),
    ] = "person"
    gass_norm: Annotated[
        str,
        Option("The paper's, or the released code's.", metavar="attention|released", choices=("attention", "released")),
    ] = "attention"
    gass_heads: Annotated[
        str, Option("Heads of the attention that is scored.", metavar="1|model", choices=("1", "model"))
    ] = "1"
    gass_scale: Annotated[
        str,
        Option("Over what scores are stretched to 0 ... 1.", metavar="batch|sample", choices=("batch", "sample")),
    ] = "batch"
    gass_layers: Annotated[int, Option("Last text layers scored; all if there are fewer.", metavar="N", least=1)] = 8
    masking: Annotated[
        str,
        Option("released: the first word is hidden if none is.", metavar="attn|released", choices=("attn", "released")),
    ] = "attn"
    augment: Annotated[bool | None, Option("Flip, shift and erase images.", shown="photos only")] = None
    beta: Annotated[float, Option("Weight of mlm.", metavar="X", least=0.0)] = 0.4
    tau: Annotated[
        float | None,
        Option("Temperature of sdm and itc.", metavar="X", above=0.0, shown="0.07, with --weights 0.02"),
    ] = None
    epochs: Annotated[int, Option(metavar="N", least=1, resumable=True)] = 10
    warmup: Annotated[int, Option("Epochs in which the rate rises.", metavar="N", least=0)] = 1
    batch: Annotated[int, Option("Captions per step.", metavar="N", least=1)] = 64
    learning_rate: Annotated[
        float | None, Option(metavar="X", above=0.0, below=1.0, shown="2e-3, with --weights 1e-5")
    ] = None
    eps: float | None = None
    weight_decay: WeightDecay = 4e-5
    hold_out: Annotated[int, Option("Persons that choose the weights, without a split val.", metavar="N", least=1)] = (
        200
    )
    evaluate_every: Annotated[
        int, Option("Epochs between evaluations and checkpoints.", metavar="N", least=1, resumable=True)
    ] = 1
    save_scores: Annotated[
        bool, Option("Write OUT/scores.jsonl: a score for every word of every caption.", resumable=True)
    ] = False
    compare: Annotated[
        tuple[str, ...],
        Option(
            "Train these, too, and write a table: plain, noise, words, both, shuffled-….", metavar="A,B",
            parse=parse_names, choices=ARMS, shown="none", resumable=True,
        ),
    ] = ()  # fmt: skip
    repeats: Annotated[int, Option("Seeds that are compared.", metavar="N", least=1, resumable=True)] = 3
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.losses is not None and not set(self.losses) & {"sdm", "itc", "cmpm"}:
            raise OptionError("{losses}: one of sdm, itc and cmpm must be there to match images and captions.")
        for field_name, names in (("losses", self.losses or ()), ("compare", self.compare)):
            if len(set(names)) < len(names):
                raise OptionError(f"{{{field_name}}}: each of them once.")
        if self.width % HEADS or self.width % (self.width // HEAD_DIM):
            raise OptionError(f"{{width}}: {self.width} is no multiple of its {HEADS} attention heads.")
        height, width = self.image_size or SMALL_SIZE
        patch = self.patch if self.weights is None else 1
        if min(height, width) < patch or height % patch or width % patch:
            raise OptionError(f"{{image_size}}: {height}x{width} is no multiple of the patch, {patch} pixels.")
        if self.warmup >= self.epochs:
            raise OptionError(f"{{warmup}}: {self.warmup} epochs leave nothing of {{epochs}} {self.epochs}.")
        if self.batch < 2:
            raise OptionError("{batch}: a contrastive loss needs at least 2 pairs a step.")

    def architecture(self) -> CLIPArchitecture:
        """Of a model from scratch, whose vocabulary is still to come."""
        from ...retrieve.gadms.clip import CLIPArchitecture

        return CLIPArchitecture(
            embed_dim=self.width, image_size=self.image_size or SMALL_SIZE, patch_size=self.patch,
            vision_width=self.width, vision_layers=self.vision_layers, text_length=self.length, vocab_size=0,
            text_width=self.width, text_heads=HEADS, text_layers=self.text_layers, decoder_layers=1,
            head_dim=HEAD_DIM,
        )  # fmt: skip

    def gass(self, text_layers: int) -> GASSOptions:
        """How scores are computed in a text tower of so many layers."""
        from ...retrieve.gadms.gass import GASSOptions

        return GASSOptions(
            self.gass_norm, self.gass_heads, self.gass_scale, min(self.gass_layers, text_layers)  # type: ignore[arg-type]
        )  # fmt: skip


def complete(options: GADMSOptions, *, drawn: bool) -> GADMSOptions:
    """The same with nothing left open; ``drawn``: for synthetic people."""
    defaults: dict[str, Any] = FROM_SCRATCH if options.weights is None else FROM_WEIGHTS
    defaults = defaults | {"augment": not drawn}
    return replace(options, **{k: v for k, v in defaults.items() if getattr(options, k) is None})


RECIPE = Verb(
    options=GADMSOptions,
    run="attn.core.train.ga_dms.run:train_ga_dms",
    description="""Train a model that finds photos of people by sentences.

    Words that the image does not support are hidden before captions and images are matched; words that it supports are
    hidden and have to be predicted from it. With --weights the architecture is that of the weights.
    """,
    examples=(
        ("attn train ga-dms -o run/", "Drawn people whose captions are wrong in a fifth of their words."),
        (
            "attn train ga-dms --data confusable --length 16 --compare plain,both,shuffled-both -o run/",
            "What masking by scores is worth, against none and against masking at random.",
        ),
        ("attn train ga-dms --data reid_raw.json --weights CLIP/ -o run/", "CUHK-PEDES from a CLIP folder."),
        ("attn retrieve index crops/ -o i --model run/model.safetensors", "Use what was trained."),
    ),
    files=(
        *FILES,
        ("OUT/compared.jsonl, OUT/compared/", "One JSON line per compared model and seed; their runs."),
    ),
    notes=(
        *NOTES,
        "The table of --compare holds means over the seeds of the last evaluation, at equal steps.",
    ),
)
