"""What loading a model gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .images import ImagePreparation


@dataclass(frozen=True, slots=True)
class Processor:
    """What turns a user's input into a model's; None for what the model does not take.

    Parameters
    ----------
    tokeniser
        Of the model's package.
    images : ImagePreparation or None
    joint
        The processor of transformers for prompts with pictures in them.
    frame_pixels : tuple of 2 int, or None
        How many pixels a frame of a video has at least and at most; of models that take videos.
    """

    tokeniser: Any = None
    images: ImagePreparation | None = None
    joint: Any = None
    frame_pixels: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to use.

    Parameters
    ----------
    model : Module
        In eval mode.
    processor : Processor
    family : str
        ``model_type`` of transformers, ``"timm"`` or ``"open_clip"``.
    fingerprint : str
        Of the files of its weights: the same for the same weights, whatever they are called.
    labels : tuple of str
        Of its classes, in the order of its logits; empty where it is no classifier, or does not say.
    """

    model: Any
    processor: Processor
    family: str
    fingerprint: str
    labels: tuple[str, ...] = ()
