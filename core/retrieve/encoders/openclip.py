"""Models in the layout of open_clip (open_clip_config.json with its weights), by way of the package of that name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...models.files import read_json
from ...models.load import load_folder
from ...models.openclip import CONFIG
from ...models.tokens import batches
from ...options import OptionError
from ..tempscale import scaled
from .base import Encoded, Fingerprint, Side
from .kind import EncoderKind, Source
from .text import unit
from .towers import TwoTowers


@dataclass(frozen=True)
class OpenClipEncoder(TwoTowers):
    """Two towers of open_clip: ``TwoTowers`` with ``encode_text`` and ``encode_image``."""

    engine: ClassVar[str] = "open_clip"

    def encode_texts(self, texts: Sequence[str], *, side: Side = "document") -> Encoded:
        """See ``Encoder``; both sides are treated alike, and every text is padded to the full length."""
        mark, texts = self.fingerprint, list(texts)
        length = mark.max_tokens or 77
        lengths = np.array(_lengths(self.tokeniser, texts), np.int64)
        vectors = np.zeros((len(texts), mark.dim), np.float32)
        with torch.inference_mode(), scaled(self.model, mark.temperature):
            for rows in batches(np.full_like(lengths, length)):
                ids = self.tokeniser([texts[row] for row in rows])
                vectors[rows] = unit(self.model.encode_text(ids.to(self.device)), mark.model)
        return Encoded(vectors, lengths > length, np.minimum(lengths, length))

    def image_features(self, pixels: Tensor) -> Tensor:
        """See ``TwoTowers``."""
        features: Tensor = self.model.encode_image(pixels)
        return features


def load_openclip(
    name: str, folder: Path, *, device: torch.device, dtype: torch.dtype, temperature: float, max_tokens: int | None,
) -> OpenClipEncoder:  # fmt: skip
    """A folder of open_clip.

    Raises
    ------
    UsageError
        If the package cannot be imported, or the folder is not complete.
    """
    loaded = load_folder(folder, "image-text", device=device, dtype=dtype)
    config, prepare = read_json(folder / CONFIG), loaded.processor.images
    assert prepare is not None
    context = int(config["model_cfg"]["text_cfg"].get("context_length", 77))
    if max_tokens not in (None, context):
        raise OptionError(f"{{max_tokens}}: {name} was trained on texts of {context} tokens and takes nothing else.")
    dim = int(config["model_cfg"]["embed_dim"])
    mark = Fingerprint(
        name, loaded.fingerprint, dim, "open_clip", True, temperature, context, max(prepare.size)
    )  # fmt: skip
    return OpenClipEncoder(loaded.model, loaded.processor.tokeniser, prepare, mark, device)


def _lengths(tokeniser: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before it is cut, the two special ones included."""
    if hasattr(tokeniser, "tokenizer"):  # wraps one of transformers
        return [len(ids) for ids in tokeniser.tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []
    return [len(tokeniser.encode(text)) + 2 for text in texts]


def _recognises(source: Source) -> bool:
    return source.holds(CONFIG)


KIND = EncoderKind(_recognises, load_openclip, files=(CONFIG,))
