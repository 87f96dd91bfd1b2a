"""A trained GA-DMS model as an encoder of `attn retrieve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...models.files import sha256
from ...options import OptionError
from ..encoders.base import Encoded, Fingerprint, Side
from ..encoders.batches import encode_in_batches
from ..encoders.kind import EncoderKind
from .checkpoint import FORMAT, read_checkpoint
from .clip import GADMS
from .explain import Explanation, explain
from .prepare import preparation
from .tokenizer import Tokenizer, encode

BATCH_TEXTS = 256


@dataclass(frozen=True)
class GADMSEncoder:
    """Both towers of a model file; its masked-word head is not needed.

    Parameters
    ----------
    model : GADMS
        In eval mode.
    tokenizer : Tokenizer
    fingerprint : Fingerprint
    device : torch.device
    warnings : tuple of str
    """

    model: GADMS
    tokenizer: Tokenizer
    fingerprint: Fingerprint
    device: torch.device
    warnings: tuple[str, ...] = ()
    engine: ClassVar[str] = "attn"

    @property
    def modalities(self) -> frozenset[str]:
        """Texts and images."""
        return frozenset({"text", "image"})

    def encode_texts(self, texts: Sequence[str], *, side: Side = "document") -> Encoded:
        """See ``Encoder``; both sides are treated alike."""
        tokens = encode(self.tokenizer, texts, self.fingerprint.max_tokens or self.model.shape.text_length)
        vectors = np.zeros((len(texts), self.fingerprint.dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_TEXTS):
                rows = slice(start, start + BATCH_TEXTS)
                feature = self.model.text_feature(torch.from_numpy(tokens.ids[rows]).to(self.device))
                vectors[rows] = F.normalize(feature.float(), dim=1).cpu().numpy()
        return Encoded(vectors, tokens.truncated, np.minimum(tokens.lengths, tokens.ids.shape[1]))

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> Encoded:
        """See ``Encoder``."""
        dtype = self.model.base_model.text_projection.dtype

        def tower(pixels: Tensor) -> Tensor:
            return self.model.image_feature(pixels.to(self.device, dtype))

        return encode_in_batches(images, preparation(self.model.shape.image_size), tower, self.fingerprint)

    def explain(self, image: NDArray[np.float32], caption: str) -> Explanation:
        """What the model saw in a photo [3, H, W] in [0, 1]; ``UsageError`` for a caption without words."""
        return explain(self.model, self.tokenizer, image, caption)


def load_gadms(
    name: str, path: Path, *, device: torch.device, dtype: torch.dtype = torch.float32, temperature: float = 1.0,
    max_tokens: int | None = None,
) -> GADMSEncoder:  # fmt: skip
    """The encoder in a model file of `attn train ga-dms`.

    Parameters
    ----------
    name : str
        What the user called it.
    path : Path
    device : torch.device
    dtype : torch.dtype
        Of the weights while they run.
    temperature : float
        Only 1: the model is used as it was trained.
    max_tokens : int, optional
        Longer texts are cut, start and end token included; default: as many as the model has positions.

    Raises
    ------
    UsageError
        If it is no such file, or asked for what it cannot do.
    """
    checkpoint = read_checkpoint(path)
    shape = checkpoint.architecture
    length = shape.text_length if max_tokens is None else max_tokens
    if temperature != 1:
        raise OptionError("{temperature}: a GA-DMS model has no temperature to set; leave it at 1.")
    if not 3 <= length <= shape.text_length:
        raise OptionError(f"{{max_tokens}}: {length}; this model reads 3 to {shape.text_length} tokens.")
    mark = Fingerprint(
        name, sha256(path), shape.embed_dim, "end token + class token", True, 1.0, length, shape.image_size[0]
    )
    return GADMSEncoder(checkpoint.build().to(device, dtype), checkpoint.tokenizer, mark, device)


KIND = EncoderKind(lambda source: source.form == FORMAT, load_gadms)
