"""A trained PriorCLIP or PIR model file as an encoder of `attn retrieve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.files import fingerprint
from ...options import OptionError
from ..encoders.base import Encoded, Fingerprint, Side
from ..encoders.batches import encode_in_batches
from ..encoders.kind import EncoderKind
from ..encoders.text import unit
from ..tempscale import scaled
from .checkpoint import FORMAT, read_checkpoint
from .model import SceneGuided, belief_map, fit_image
from .text import Vocabulary

SPECIAL = 2
"""Start and end of a text."""


@dataclass(frozen=True)
class PriorCLIPEncoder:
    """Both towers and the instruction.

    Parameters
    ----------
    model : SceneGuided
        In eval mode, on ``device``.
    vocabulary : Vocabulary
    fingerprint : Fingerprint
    device : torch.device
    warnings : tuple of str
    """

    model: SceneGuided
    vocabulary: Vocabulary
    fingerprint: Fingerprint
    device: torch.device
    warnings: tuple[str, ...] = ()
    engine: ClassVar[str] = "attn"

    @property
    def modalities(self) -> frozenset[str]:
        """Texts and images."""
        return frozenset({"text", "image"})

    def at(self, tau: float) -> PriorCLIPEncoder:
        """The same encoder at another temperature; the weights are shared."""
        return replace(self, fingerprint=replace(self.fingerprint, temperature=tau))

    def encode_texts(self, texts: Sequence[str], *, side: Side = "document") -> Encoded:
        """See ``Encoder``; both sides are treated alike. Words that were not trained on count as one unknown word."""
        mark = self.fingerprint
        ids, truncated, tokens = self.vocabulary.encode(list(texts), (mark.max_tokens or 0) - SPECIAL)
        vectors = np.zeros((len(texts), mark.dim), np.float32)
        with torch.inference_mode(), scaled(self.model, mark.temperature):
            for start in range(0, len(texts), 256):
                block = torch.from_numpy(ids[start : start + 256]).to(self.device)
                vectors[start : start + len(block)] = unit(self.model.encode_text(block), mark.model)
        return Encoded(vectors, truncated, tokens)

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> Encoded:
        """See ``Encoder``."""
        size, dtype = self.model.architecture.image_size, self.model.dtype

        def tower(pixels: Tensor) -> Tensor:
            return self.model.encode_image(pixels.to(self.device, dtype)).embedding

        with scaled(self.model, self.fingerprint.temperature):
            return encode_in_batches(images, lambda image: fit_image(image, size), tower, self.fingerprint)

    def belief_map(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``model.belief_map``; at the temperature of this encoder it is the same, belief is no attention."""
        return belief_map(self.model, image)


def load_priorclip(
    name: str, path: Path, *, device: torch.device, dtype: torch.dtype, temperature: float, max_tokens: int | None
) -> PriorCLIPEncoder:
    """A model file of `attn train priorclip`.

    Raises
    ------
    UsageError
        If it is none, or ``max_tokens`` is more than it was made for.
    """
    checkpoint = read_checkpoint(path)
    shape = checkpoint.architecture
    limit = shape.max_words + SPECIAL
    if max_tokens is not None and not SPECIAL < max_tokens <= limit:
        raise OptionError(f"{{max_tokens}}: {name} takes {SPECIAL + 1} to {limit} tokens (start and end are two).")
    model = checkpoint.build().to(device, dtype)
    mark = Fingerprint(
        name, fingerprint([path]), shape.out, shape.variant, True, temperature, max_tokens or limit, shape.image_size
    )
    return PriorCLIPEncoder(model, checkpoint.vocabulary, mark, device)


KIND = EncoderKind(lambda source: source.form == FORMAT, load_priorclip)
