"""Trained GA-DMS models as files: safetensors with architecture and tokenizer, so that one file is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...io.weights import check_architecture, read_weights, write_weights
from .clip import GADMS, CLIPArchitecture
from .tokenizer import Tokenizer, from_dict

FORMAT, VERSION = "attn-ga-dms", 1


@dataclass(frozen=True, slots=True)
class GADMSCheckpoint:
    """A trained model.

    Parameters
    ----------
    name : str
    architecture : CLIPArchitecture
    tokenizer : Tokenizer
    state : mapping of str to Tensor
        Official names. Without the masked-word head the model retrieves all the same.
    training : mapping
        How it was trained, as JSON holds it.
    """

    name: str
    architecture: CLIPArchitecture
    tokenizer: Tokenizer
    state: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> GADMS:
        """The model in eval mode, float32; parts that the file does not hold have fresh weights."""
        net = GADMS(self.architecture)
        missing, unexpected = net.load_state_dict({k: v.float() for k, v in self.state.items()}, strict=False)
        if unexpected or any(name.startswith("base_model.") for name in missing):
            raise ValueError(f"unknown or missing weights: {[*unexpected, *missing][0]}")
        return net.eval()


def write_checkpoint(checkpoint: GADMSCheckpoint, path: Path, *, head: bool = True) -> None:
    """Write a model file, atomically, weights in float16; ``head=False`` leaves out what only training needs."""
    described = {
        "format": FORMAT, "version": VERSION, "name": checkpoint.name, "architecture": asdict(checkpoint.architecture),
        "tokenizer": checkpoint.tokenizer.to_dict(), "training": dict(checkpoint.training),
    }  # fmt: skip
    state = {name: value for name, value in checkpoint.state.items() if head or name.startswith("base_model.")}
    write_weights(path, state, described)


def read_checkpoint(path: Path) -> GADMSCheckpoint:
    """A model file of ``write_checkpoint``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> GADMSCheckpoint:
        shape = described["architecture"]
        shape = CLIPArchitecture(**shape | {"image_size": tuple(shape["image_size"])})
        tokenizer = from_dict(described["tokenizer"])
        checkpoint = GADMSCheckpoint(described["name"], shape, tokenizer, state, described["training"])
        check_architecture(described["architecture"], lambda: GADMS(shape), state, whole=False)
        checkpoint.build()
        return checkpoint

    return read_weights(path, FORMAT, VERSION, build, what="GA-DMS model of attn. `attn train ga-dms` makes one")
