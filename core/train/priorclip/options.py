"""What `attn train priorclip` can be told, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import UsageError, did_you_mean
from ...retrieve.priorclip.losses import Targets
from ...retrieve.priorclip.model import PriorCLIPArchitecture
from ...retrieve.priorclip.vit import GATES

TARGETS = ("diagonal", "class")
AUGMENTATIONS = ("auto", "crop", "none")
SYNTHETIC = {"train": 1600, "val": 160, "test": 240}
"""Synthetic pictures by split."""


@dataclass(frozen=True, slots=True)
class PriorCLIPOptions:
    """Everything but the data and where the result goes.

    Parameters
    ----------
    architecture : PriorCLIPArchitecture
    steps : int
        Of stages 1 and 2 together.
    coarse_steps : int
        Of these, stage 1 (captions of the scene only); 0: none.
    instruction_steps : int
        Of stage 0, the instruction network; they come on top of ``steps``.
    warmup : int
        Steps over which the rate rises, in each stage.
    batch : int
        Pairs per step.
    learning_rate, weight_decay : float
        Of AdamW.
    center_factor : float
        Weight of the affiliation loss; 0: none.
    affiliation_targets : {"diagonal", "class"}
        See ``losses.affiliation``.
    augment : {"auto", "crop", "none"}
        ``crop``: random crops and mirror images; ``auto``: that for files, none for synthetic scenes, whose captions
        name left and right.
    compare : bool
        Train the plain model too (no instruction, no stage 1, no affiliation loss; same steps) and report both.
    evaluate_every : int
    device : str
    seed : int
    """

    architecture: PriorCLIPArchitecture = field(default_factory=PriorCLIPArchitecture)
    steps: int = 300
    coarse_steps: int = 100
    instruction_steps: int = 100
    warmup: int = 30
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    center_factor: float = 1.0
    affiliation_targets: Targets = "diagonal"
    augment: str = "auto"
    compare: bool = False
    evaluate_every: int = 100
    device: str = "auto"
    seed: int = 77


def check_options(options: PriorCLIPOptions) -> None:
    """Refuse before any file is read what can never work. Raises ``UsageError``."""
    shape = options.architecture
    for option, value, known in (
        ("--gate", shape.gate, GATES),
        ("--affiliation-targets", options.affiliation_targets, TARGETS),
        ("--augment", options.augment, AUGMENTATIONS),
    ):
        if value not in known:
            hint = did_you_mean(value, known) or f"Known: {', '.join(known)}."
            raise UsageError(f"{option}: {value!r} is not known. {hint}")
    if shape.image_size % shape.patch_size or shape.image_size < 8:
        raise UsageError(f"--image-size: {shape.image_size} px must be a multiple of --patch {shape.patch_size}.")
    if shape.width % shape.num_heads:
        raise UsageError(f"--width: {shape.width} must be a multiple of --heads {shape.num_heads}.")
    if shape.features % 16:
        raise UsageError(f"--features: {shape.features} must be a multiple of 16.")
    if not 0 < options.learning_rate < 1:
        raise UsageError(f"--learning-rate: {options.learning_rate:g} is no usable rate (0 < rate < 1).")
    if options.batch < 2:
        raise UsageError("--batch: a contrastive loss needs at least 2 pairs a step.")
    fine = options.steps - options.coarse_steps
    stages = {"--coarse-steps": options.coarse_steps, "--steps less --coarse-steps": fine}
    if shape.instruction:
        stages["--instruction-steps"] = options.instruction_steps
    for option, steps in stages.items():
        needed = option != "--coarse-steps" or steps
        if needed and steps <= options.warmup:
            raise UsageError(f"--warmup: {options.warmup} steps leave nothing of {option} ({steps}).")
