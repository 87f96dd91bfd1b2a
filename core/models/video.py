"""The model that makes videos of moving shapes, as a folder: configuration and weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save

from ..errors import InputError
from ..io.atomic import write_bytes
from ..io.weights import read_tensors
from ..nets.video_flow import VideoFlow, VideoShape
from ..options import OptionError
from ..text import reason_of
from .files import package_dir, read_json, write_json

FAMILY = "attn_video_flow"
"""``model_type`` of a folder."""


def shipped_video_model() -> Path:
    """The folder of the model that comes with attn: ``moving-shapes``, of `attn train moving-shapes`."""
    place = package_dir("attn")
    assert place is not None
    return place / "core/models/weights/moving-shapes"


def write_video_model(net: VideoFlow, weights: Path) -> None:
    """Write a folder around ``weights``, its file ``model.safetensors``; float16."""
    state = {name: value.detach().cpu().half().contiguous() for name, value in net.state_dict().items()}
    write_bytes(weights, save(state, {"format": "pt"}))
    write_json(weights.parent / "config.json", {"model_type": FAMILY, **asdict(net.shape)})


def load_video_model(folder: Path, *, device: torch.device | None = None) -> VideoFlow:
    """The model of a folder, in eval mode, float32.

    Raises
    ------
    UsageError
        If the folder holds none, or its weights are of another shape.
    """
    config, path = read_json(folder / "config.json"), folder / "model.safetensors"
    kind = config.pop("model_type", None) if isinstance(config, dict) else None
    if kind != FAMILY:
        raise OptionError(f"{{model}}: {folder} is no model of videos that attn trained (model_type {kind!r}).")
    try:
        net = VideoFlow(VideoShape(**config))
        net.load_state_dict(read_tensors(path)[1])
    except InputError as error:
        raise OptionError(f"{{model}}: {error}.") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"{{model}}: {folder}: configuration and weights differ: {reason_of(error)}.") from None
    return net.to(device or torch.device("cpu"), torch.float32).eval()
