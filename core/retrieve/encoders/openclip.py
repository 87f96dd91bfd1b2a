"""Models in the layout of open_clip (open_clip_config.json with its weights), by way of the package of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models.files import fingerprint, read_json
from ...models.images import ImagePreparation
from ...models.tokens import batches
from ...network import network
from ...options import OptionError
from ..tempscale import scaled
from .base import Encoded, Fingerprint, Side
from .kind import EncoderKind, Source
from .text import unit
from .towers import TwoTowers

CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
_FITS = {"shortest": "crop", "squash": "squash"}


@dataclass(frozen=True)
class OpenClipEncoder(TwoTowers):
    """Two towers of open_clip: ``TwoTowers`` with ``encode_text`` and ``encode_image``."""

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
    try:
        import open_clip
    except Exception as error:  # not only ImportError: a torchvision that does not fit raises RuntimeError
        raise OptionError(
            f"{{model}}: {folder} needs open_clip, which cannot be imported ({error}). Install it: "
            "pip install open_clip_torch"
        ) from None
    config = read_json(folder / CONFIG)
    files = [folder / one for one in _WEIGHTS if (folder / one).is_file()][:1]
    if not files:
        raise OptionError(f"{{model}}: {folder} holds no weights ({' or '.join(_WEIGHTS[:2])}).")
    parts = [part for part in (config.get("model_cfg") or {}).values() if isinstance(part, dict)]
    if any(part.get("timm_model_pretrained") for part in parts):
        raise OptionError(
            f"{{model}}: {folder / CONFIG} wants weights from the network (timm_model_pretrained): make it false."
        )
    try:
        with network():  # its configuration may name a tokeniser or a tower by a hub's id
            model = open_clip.create_model(f"local-dir:{folder}").to(device, dtype).eval()
            tokeniser = open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:  # of any kind: configuration, shapes, pickle
        raise OptionError(f"{{model}}: {folder} cannot be loaded by open_clip ({error}).") from None
    prepare = _preparation(config, model)
    context = int(config["model_cfg"]["text_cfg"].get("context_length", 77))
    if max_tokens not in (None, context):
        raise OptionError(f"{{max_tokens}}: {name} was trained on texts of {context} tokens and takes nothing else.")
    dim = int(config["model_cfg"]["embed_dim"])
    mark = Fingerprint(
        name, fingerprint(files), dim, "open_clip", True, temperature, context, max(prepare.size)
    )  # fmt: skip
    return OpenClipEncoder(model, tokeniser, prepare, mark, device)


def _preparation(config: Mapping[str, Any], model: Any) -> ImagePreparation:
    """Of ``preprocess_cfg``, filled up with the defaults that open_clip took."""
    own = dict(getattr(model.visual, "preprocess_cfg", {})) | dict(config.get("preprocess_cfg", {}))
    size = own["size"]
    sides = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    fit = _FITS.get(own.get("resize_mode", "shortest"))
    if fit is None:
        raise OptionError(f"{{model}}: its images are resized by {own['resize_mode']!r}, which attn does not do.")
    mode = "bilinear" if own.get("interpolation") == "bilinear" else "bicubic"
    return ImagePreparation(sides, tuple(own["mean"]), tuple(own["std"]), fit, None, mode)  # type: ignore[arg-type]


def _lengths(tokeniser: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before it is cut, the two special ones included."""
    if hasattr(tokeniser, "tokenizer"):  # wraps one of transformers
        return [len(ids) for ids in tokeniser.tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []
    return [len(tokeniser.encode(text)) + 2 for text in texts]


def _recognises(source: Source) -> bool:
    return source.holds(CONFIG)


KIND = EncoderKind(_recognises, load_openclip, files=(CONFIG,))
