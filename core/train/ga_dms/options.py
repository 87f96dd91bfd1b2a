"""What `attn train ga-dms` can be told, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import UsageError, did_you_mean
from ...retrieve.gadms.clip import CLIPArchitecture
from ...retrieve.gadms.gass import GASSOptions
from .recipe import LOSSES

SMALL = CLIPArchitecture(
    embed_dim=64, image_size=(64, 32), patch_size=16, vision_width=64, vision_layers=2, text_length=24, vocab_size=0,
    text_width=64, text_heads=4, text_layers=3, decoder_layers=1, head_dim=16,
)  # fmt: skip
"""For synthetic people and two cores; the vocabulary is that of the captions."""
FROM_SCRATCH = {"learning_rate": 2e-3, "losses": ("sdm", "itc", "mlm"), "tau": 0.07, "eps": 1e-8}
"""Without pre-trained weights ``sdm`` alone stays near chance for long: its target is out of reach at the start."""
FROM_WEIGHTS = {"learning_rate": 1e-5, "losses": ("sdm", "mlm"), "tau": 0.02, "eps": 1e-3}
"""The paper's losses and Adam's eps, the released script's rate."""
POSITIVES, SCORES = ("person", "pair"), ("gass", "uniform")


@dataclass(frozen=True, slots=True)
class GADMSOptions:
    """Everything but the data and where the result goes.

    Parameters
    ----------
    architecture : CLIPArchitecture
        Of a model from scratch; ``vocab_size`` is taken from the captions.
    weights, tokenizer : Path or None
        A model file of attn, official weights or a CLIP folder to start from; a folder with CLIP's vocab.json and
        merges.txt (default: that of ``weights``).
    image_size : (H, W) or None
        Of a model that starts from weights of others; default 384 x 128.
    epochs, warmup : int
    batch : int
        Captions per step, each with its image.
    learning_rate, losses, tau, eps : optional
        Of AdamW; of ``ga_dms.LOSSES``, where ``mlm`` is the prediction of informative words; temperature of ``sdm`` and
        ``itc``; AdamW's. Default: ``FROM_SCRATCH`` or ``FROM_WEIGHTS``.
    weight_decay : float
    beta : float
        Weight of ``mlm``.
    noise : bool
        Hide noise words from the contrastive losses.
    scores : {"gass", "uniform"}
        ``uniform``: words are masked whatever they say (15 % to predict, 10 % hidden).
    positives : {"person", "pair"}
        Captions and images of one person match, or only those of one image and caption, as in web data.
    gass_norm, gass_heads, gass_scale, gass_layers
        See ``GASSOptions``; more layers than the model has are all of them.
    masking : {"attn", "released"}
        See ``masking.mask_caption``.
    augment : bool, optional
        Flip, shift and erase images; default: photos, but not drawings, no two of which are alike anyhow.
    hold_out : int
        Persons that choose the best weights where the data has no split ``val``.
    evaluate_every : int
        Epochs.
    save_scores : bool
        Write the score of every word of every training caption.
    device : str
    seed : int
    """

    architecture: CLIPArchitecture = SMALL
    weights: Path | None = None
    tokenizer: Path | None = None
    image_size: tuple[int, int] | None = None
    epochs: int = 10
    warmup: int = 1
    batch: int = 64
    learning_rate: float | None = None
    weight_decay: float = 4e-5
    losses: tuple[str, ...] | None = None
    beta: float = 0.4
    tau: float | None = None
    eps: float | None = None
    noise: bool = True
    scores: str = "gass"
    positives: str = "person"
    gass_norm: str = "attention"
    gass_heads: str = "1"
    gass_scale: str = "batch"
    gass_layers: int = 8
    masking: str = "attn"
    augment: bool | None = None
    hold_out: int = 200
    evaluate_every: int = 1
    save_scores: bool = False
    device: str = "auto"
    seed: int = 77

    def gass(self, text_layers: int) -> GASSOptions:
        """How scores are computed in a text tower of so many layers."""
        return GASSOptions(
            self.gass_norm, self.gass_heads, self.gass_scale, min(self.gass_layers, text_layers)  # type: ignore[arg-type]
        )  # fmt: skip


def complete(options: GADMSOptions, *, drawn: bool) -> GADMSOptions:
    """The same with nothing left open; ``drawn``: for synthetic people. Raises ``UsageError`` for what cannot work."""
    defaults: dict[str, Any] = FROM_SCRATCH if options.weights is None else FROM_WEIGHTS
    defaults = defaults | {"augment": not drawn}
    options = replace(options, **{k: v for k, v in defaults.items() if getattr(options, k) is None})
    _check(options)
    return options


def _check(options: GADMSOptions) -> None:
    assert options.losses is not None
    assert options.learning_rate is not None
    assert options.tau is not None
    for option, value, known in (
        *(("--losses", name, LOSSES) for name in options.losses),
        ("--scores", options.scores, SCORES),
        ("--positives", options.positives, POSITIVES),
        ("--gass-norm", options.gass_norm, ("attention", "released")),
        ("--gass-heads", options.gass_heads, ("1", "model")),
        ("--gass-scale", options.gass_scale, ("batch", "sample")),
        ("--masking", options.masking, ("attn", "released")),
    ):
        if value not in known:
            hint = did_you_mean(value, known) or f"Known: {', '.join(known)}."
            raise UsageError(f"{option}: {value!r} is not known. {hint}")
    if not set(options.losses) & {"sdm", "itc", "cmpm"}:
        raise UsageError("--losses: one of sdm, itc and cmpm must be there to match images and captions.")
    if len(set(options.losses)) < len(options.losses):
        raise UsageError("--losses: each loss once.")
    shape = options.architecture
    for width, heads, option in ((shape.vision_width, shape.vision_width // shape.head_dim, "--width"),
                                 (shape.text_width, shape.text_heads, "--width")):  # fmt: skip
        if width < heads or width % max(1, heads):
            raise UsageError(f"{option}: {width} is no multiple of its {heads} attention heads.")
    for height, width in ([options.image_size] if options.image_size else []) + [shape.image_size]:
        patch = shape.patch_size if options.weights is None else 1
        if min(height, width) < patch or height % patch or width % patch:
            raise UsageError(f"--image-size: {height}x{width} is no multiple of the patch, {patch} pixels.")
    if not 0 < options.learning_rate < 1:
        raise UsageError(f"--learning-rate: {options.learning_rate:g} is no usable rate (0 < rate < 1).")
    if options.warmup >= options.epochs:
        raise UsageError(f"--warmup: {options.warmup} epochs leave nothing of --epochs {options.epochs}.")
    if options.batch < 2:
        raise UsageError("--batch: a contrastive loss needs at least 2 pairs a step.")
    if options.tau <= 0 or options.beta < 0:
        raise UsageError("--tau must be above 0 and --beta not below 0.")
    if not 3 <= shape.text_length <= 77:
        raise UsageError(f"--length: {shape.text_length} positions; give 3 to 77.")
