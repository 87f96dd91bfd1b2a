"""Trained segmentation models as files: float16 safetensors with architecture, preparation and threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..io.weights import read_weights, write_weights
from .fsgnet import FSGNet
from .prepare import Preparation
from .trunks import build

FORMAT, VERSION = "attn-segment", 1


@dataclass(frozen=True, slots=True)
class Architecture:
    """What ``trunks.build`` needs to make the network.

    Parameters
    ----------
    trunk : {"fsgnet", "unet", "biformer", "halo"}
    width : int
        Base width c.
    depths : tuple of 4 int
    kernel : int
    guided, attention, batch_coupled, drop_block : bool
        See ``fsgnet.fsgnet``.
    """

    trunk: str = "fsgnet"
    width: int = 8
    depths: tuple[int, int, int, int] = (3, 3, 9, 3)
    kernel: int = 3
    guided: bool = True
    attention: bool = True
    batch_coupled: bool = False
    drop_block: bool = False

    def build(self) -> FSGNet:
        """A network with fresh weights."""
        options = asdict(self)
        return build(options.pop("trunk"), options.pop("width"), **options)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network.

    Parameters
    ----------
    name : str
        What reports call it.
    architecture : Architecture
    preparation : Preparation
        How photos were prepared in training.
    threshold : float
        Chosen on held-out training photos.
    state : mapping of str to Tensor
        State dict, any float dtype.
    training : mapping
        How it was trained: data, steps, seed, scores; as JSON holds it.
    """

    name: str
    architecture: Architecture
    preparation: Preparation
    threshold: float
    state: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> FSGNet:
        """The network in eval mode, float32."""
        net = self.architecture.build()
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in self.state.items()})
        return net.eval()


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a model file, atomically. Weights are rounded to float16: the shipped ones lose nothing that counts."""
    described = {
        "format": FORMAT, "version": VERSION, "name": checkpoint.name, "threshold": checkpoint.threshold,
        "architecture": asdict(checkpoint.architecture), "preparation": asdict(checkpoint.preparation),
        "training": dict(checkpoint.training),
    }  # fmt: skip
    write_weights(path, checkpoint.state, described)


def read_checkpoint(path: Path) -> Checkpoint:
    """A model file of ``write_checkpoint``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> Checkpoint:
        shape = described["architecture"]
        checkpoint = Checkpoint(
            described["name"], Architecture(**shape | {"depths": tuple(shape["depths"])}),
            Preparation(**described["preparation"]), float(described["threshold"]), state, described["training"],
        )  # fmt: skip
        checkpoint.build()
        return checkpoint

    return read_weights(path, FORMAT, VERSION, build, what="segmentation model of attn. `attn train fsgnet` makes one")
