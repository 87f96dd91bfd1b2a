"""CLIP and SigLIP of transformers: a text tower and an image tower that share one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models import hf
from ...models.load import load_folder
from ...models.tokens import batches, padded, tokenise, vocabulary
from ...options import OptionError
from ..tempscale import scaled
from .base import Encoded, Fingerprint, Side
from .kind import CONFIG, EncoderKind, Source
from .text import unit
from .towers import TwoTowers

MODELS = ("clip", "siglip")


@dataclass(frozen=True)
class DualEncoder(TwoTowers):
    """Two towers of transformers: ``TwoTowers`` with ``get_text_features`` and ``get_image_features``.

    Parameters
    ----------
    fixed_length : bool
        Every text is padded to ``max_tokens`` and nothing is masked: SigLIP was trained so.
    """

    fixed_length: bool = False

    def encode_texts(self, texts: Sequence[str], *, side: Side = "document") -> Encoded:
        """See ``Encoder``; both sides are treated alike."""
        mark = self.fingerprint
        tokens = tokenise(self.tokeniser, texts, mark.max_tokens)
        vectors = np.zeros((len(tokens.ids), mark.dim), np.float32)
        length = mark.max_tokens if self.fixed_length else None
        pad = self.tokeniser.pad_token_id or 0
        known = vocabulary(self.model)
        with torch.inference_mode(), scaled(self.model, mark.temperature):
            for rows in batches(np.full_like(tokens.counts, length) if length else tokens.counts):
                input_ids, mask = padded([tokens.ids[row] for row in rows], pad, length, known=known)
                masked = {} if self.fixed_length else {"attention_mask": mask.to(self.device)}
                out = self.model.get_text_features(input_ids=input_ids.to(self.device), **masked)
                vectors[rows] = unit(_features(out), mark.model)
        return Encoded(vectors, tokens.truncated, tokens.counts)

    def image_features(self, pixels: Tensor) -> Tensor:
        """See ``TwoTowers``."""
        return _features(self.model.get_image_features(pixel_values=pixels))


def _features(out: Any) -> Tensor:
    """transformers 5 wraps the projected features, 4 gives them bare."""
    features: Tensor = getattr(out, "pooler_output", out)
    return features


def load_dual(
    name: str, folder: Path, *, device: torch.device, dtype: torch.dtype, temperature: float, max_tokens: int | None,
) -> DualEncoder:  # fmt: skip
    """A folder of CLIP or SigLIP.

    Raises
    ------
    UsageError
        If something is missing or unknown.
    """
    loaded = load_folder(folder, "image-text", device=device, dtype=dtype)
    config, prepare = loaded.model.config, loaded.processor.images
    assert prepare is not None
    side = config.vision_config.image_size
    if prepare.size != (side, side):
        raise OptionError(f"{{model}}: {folder} prepares images of {prepare.size} pixels for a tower of {side}.")
    table = config.text_config.max_position_embeddings
    limit, warnings = hf.limit_tokens(name, max_tokens, table, table)
    siglip = config.model_type == "siglip"
    if siglip and limit != table:
        raise OptionError(
            f"{{max_tokens}}: {name} was trained on texts padded to {table} tokens and takes nothing else."
        )
    dim = config.vision_config.hidden_size if siglip else config.projection_dim
    mark = Fingerprint(name, loaded.fingerprint, dim, "siglip" if siglip else "clip", True, temperature, limit, side)
    return DualEncoder(loaded.model, loaded.processor.tokeniser, prepare, mark, device, tuple(warnings), siglip)


def _kind(model_type: str) -> EncoderKind:
    def recognises(source: Source) -> bool:
        return source.config.get("model_type") == model_type

    return EncoderKind(recognises, load_dual, files=(CONFIG,))


CLIP, SIGLIP = (_kind(model_type) for model_type in MODELS)
