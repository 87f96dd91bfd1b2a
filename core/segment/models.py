"""The models behind ``attn segment``: load one by name or file."""

from __future__ import annotations

from pathlib import Path

import torch

from ..device import pick_dtype
from . import MODELS
from .base import Segmenter
from .fsgnet.checkpoint import read_checkpoint
from .network import NetworkSegmenter
from .options import is_file


def load(name: str, *, device: torch.device | str = "cpu", dtype: str = "float32") -> Segmenter:
    """A model of ``MODELS`` or of a ``.safetensors`` file that ``attn train`` wrote.

    Raises
    ------
    UsageError
        If there is no such model, or the file cannot be used.
    """
    make = from_file if is_file(name) else MODELS[name].resolve()
    segmenter: Segmenter = make(name, torch.device(device), pick_dtype(dtype))
    return segmenter


def from_file(name: str, device: torch.device, dtype: torch.dtype) -> NetworkSegmenter:
    """The network in a file that ``attn train`` wrote."""
    return NetworkSegmenter(read_checkpoint(Path(name)), device, dtype)
