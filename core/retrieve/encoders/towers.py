"""What encoders with a tower for texts and one for images share, whichever package the model is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.images import ImagePreparation
from ..tempscale import scaled
from .base import Encoded, Fingerprint
from .batches import encode_in_batches


@dataclass(frozen=True)
class TwoTowers:
    """A model of two towers; a subclass knows how to ask it.

    Parameters
    ----------
    model : Module
    tokeniser
        Of the model's package.
    prepare : ImagePreparation
    fingerprint : Fingerprint
    device : torch.device
    warnings : tuple of str
    """

    model: Any
    tokeniser: Any
    prepare: ImagePreparation
    fingerprint: Fingerprint
    device: torch.device
    warnings: tuple[str, ...] = ()
    engine: ClassVar[str] = "transformers"

    @property
    def modalities(self) -> frozenset[str]:
        """Texts and images."""
        return frozenset({"text", "image"})

    def at(self, tau: float) -> Self:
        """The same encoder at another temperature; the weights are shared."""
        return replace(self, fingerprint=replace(self.fingerprint, temperature=tau))

    def image_features(self, pixels: Tensor) -> Tensor:
        """Features [B, dim] of prepared images [B, 3, h, w]."""
        raise NotImplementedError

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> Encoded:
        """See ``Encoder``."""
        dtype = next(self.model.parameters()).dtype

        def tower(pixels: Tensor) -> Tensor:
            return self.image_features(pixels.to(self.device, dtype))

        with scaled(self.model, self.fingerprint.temperature):
            return encode_in_batches(images, self.prepare, tower, self.fingerprint)
