"""What `attn train fsgnet` can be told, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UsageError, did_you_mean
from ...segment.fsgnet.checkpoint import FSGNetArchitecture
from ...segment.fsgnet.network import MIN_SIDE
from ...segment.fsgnet.trunks import TRUNKS
from .augment import AUGMENTATIONS

NORMALISATIONS = ("fov", "imagenet")


@dataclass(frozen=True, slots=True)
class FSGNetOptions:
    """Everything but the data and where the result goes.

    Parameters
    ----------
    architecture : FSGNetArchitecture
    steps, warmup : int
        Optimisation steps; over how many the rate rises.
    batch, crop : int
        Crops per step, and their side in pixels.
    learning_rate, weight_decay : float
        Of AdamW.
    cycles : float
        Waves of the cosine schedule; 0.5 falls once to zero.
    augment : {"robust", "paper"}
    normalise : {"fov", "imagenet"}
        See ``Preparation``.
    hold_out : int
        Photos that choose weights and threshold and are not trained on.
    evaluate_every : int
    init : str
        A name of ``attn.core.filters.INITIALISERS``.
    weights : Path or None
        A model file to start from.
    device : str
    seed : int
    """

    architecture: FSGNetArchitecture = field(default_factory=FSGNetArchitecture)
    steps: int = 3000
    warmup: int = 100
    batch: int = 4
    crop: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    cycles: float = 0.5
    augment: str = "robust"
    normalise: str = "fov"
    hold_out: int = 4
    evaluate_every: int = 100
    init: str = "torch-default"
    weights: Path | None = None
    device: str = "auto"
    seed: int = 77


def check_options(options: FSGNetOptions) -> None:
    """Refuse before any file is read what can never work. Raises ``UsageError``."""
    from ...filters import INITIALISERS

    for option, value, known in (
        ("--trunk", options.architecture.trunk, TRUNKS),
        ("--augment", options.augment, AUGMENTATIONS),
        ("--normalise", options.normalise, NORMALISATIONS),
        ("--init", options.init, INITIALISERS),
    ):
        if value not in known:
            hint = did_you_mean(value, known) or f"Known: {', '.join(known)}."
            raise UsageError(f"{option}: {value!r} is not known. {hint}")
    if options.crop < MIN_SIDE or options.crop % 8:
        raise UsageError(f"--crop: {options.crop} px must be a multiple of 8 and at least {MIN_SIDE}.")
    if len(options.architecture.depths) != 4 or min(options.architecture.depths) < 1:
        raise UsageError("--depths: give four numbers of at least 1, as 3,3,9,3.")
    if options.architecture.kernel % 2 == 0:
        raise UsageError(f"--kernel: {options.architecture.kernel} must be odd.")
    if not 0 < options.learning_rate < 1:
        raise UsageError(f"--learning-rate: {options.learning_rate:g} is no usable rate (0 < rate < 1).")
    if options.warmup >= options.steps:
        raise UsageError(f"--warmup: {options.warmup} steps leave nothing of --steps {options.steps}.")
    if options.batch < 2:
        raise UsageError("--batch: batch normalisation needs at least 2 crops a step.")
    if options.weights is not None and options.init != "torch-default":
        raise UsageError("--weights and --init both say where training starts: leave one out.")
