"""Folders of timm (config.json with an "architecture", and the weights), by way of the package of that name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from ..io.weights import read_tensors
from ..network import network
from ..options import OptionError
from ..text import reason_of
from .files import fingerprint, weight_files
from .images import IMAGENET, ImagePreparation
from .loaded import Loaded, Processor


def load_timm(folder: Path, config: Mapping[str, Any], *, device: torch.device, dtype: torch.dtype) -> Loaded:
    """The image tower of a folder whose config.json is ``config``.

    Raises
    ------
    UsageError
        If the package cannot be imported, the weights are no safetensors or do not fit the architecture.
    """
    try:
        import timm
    except Exception as error:  # not only ImportError: a torchvision that does not fit raises RuntimeError
        raise OptionError(
            f"{{model}}: {folder} needs timm, which cannot be imported ({reason_of(error)}). Install it: "
            "pip install timm"
        ) from None
    files = weight_files(folder)
    if files[0].suffix != ".safetensors" or len(files) > 1:
        raise OptionError(f"{{model}}: {folder} holds no model.safetensors, which timm's weights are read from.")
    name, settings = str(config["architecture"]), dict(config.get("model_args") or {})
    for key in ("num_classes", "global_pool"):
        if key in config:
            settings[key] = config[key]
    try:
        with network():
            model = timm.create_model(name, pretrained=False, **settings)
        model.load_state_dict(read_tensors(files[0])[1])
    except Exception as error:  # of any kind: unknown architecture, arguments, shapes
        raise OptionError(f"{{model}}: {folder} cannot be loaded by timm as {name} ({reason_of(error)}).") from None
    own = dict(model.pretrained_cfg or {}) | dict(config.get("pretrained_cfg") or {})
    labels = tuple(map(str, config.get("label_names") or ()))
    return Loaded(
        model.to(device, dtype).eval(), Processor(images=_preparation(own)), "timm", fingerprint(files), labels
    )


def _preparation(config: Mapping[str, Any]) -> ImagePreparation:
    """Of ``pretrained_cfg``."""
    height, width = (int(side) for side in config["input_size"][1:])
    fit: Literal["squash", "crop"] = "squash" if config.get("crop_mode") == "squash" else "crop"
    cover = int(min(height, width) / float(config.get("crop_pct") or 1)) if fit == "crop" else None
    mode: Literal["bicubic", "bilinear"] = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    mean, std = config.get("mean", IMAGENET[0]), config.get("std", IMAGENET[1])
    return ImagePreparation((height, width), tuple(mean), tuple(std), fit, cover, mode)
