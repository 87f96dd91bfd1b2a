"""Folders of open_clip (open_clip_config.json with its weights), by way of the package of that name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..network import network
from ..options import OptionError
from .files import fingerprint, read_json
from .images import ImagePreparation
from .loaded import Loaded, Processor

CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
_FITS = {"shortest": "crop", "squash": "squash"}


def load_openclip(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Loaded:
    """Both towers of a folder.

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
    files = [folder / name for name in _WEIGHTS if (folder / name).is_file()][:1]
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
    return Loaded(model, Processor(tokeniser, _preparation(config, model)), "open_clip", fingerprint(files))


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
