"""Trained segmentation models as files: float16 safetensors with architecture, preparation and threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...io.weights import check_architecture, read_weights, write_weights
from ...text import one_line
from ..prepare import Preparation
from ..record import is_number
from ..threshold import Calibration
from .network import FSGNet
from .trunks import TRUNKS, build

FORMAT, VERSION = "attn-segment", 1
MOST = 1024
"""Largest width, depth or kernel that is built."""
LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class FSGNetArchitecture:
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
class FSGNetCheckpoint:
    """A trained network.

    Parameters
    ----------
    name : str
        What reports call it.
    architecture : FSGNetArchitecture
    preparation : Preparation
        How photos were prepared in training.
    threshold : float
        Chosen on held-out training photos.
    state : mapping of str to Tensor
        State dict, any float dtype.
    training : mapping
        How it was trained: data, steps, seed, scores; as JSON holds it.
    calibration : Calibration
        Fitted on held-out training photos; the identity in files of an older attn.
    """

    name: str
    architecture: FSGNetArchitecture
    preparation: Preparation
    threshold: float
    state: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration = Calibration()  # noqa: RUF009 - frozen

    def build(self) -> FSGNet:
        """The network in eval mode, float32."""
        net = self.architecture.build()
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in self.state.items()})
        return net.eval()


def _check(architecture: FSGNetArchitecture, preparation: Preparation) -> None:
    """``ValueError`` for what no training wrote, before it is built."""
    whole = {"width": architecture.width, "kernel": architecture.kernel, "depths": architecture.depths}
    numbers = (architecture.width, architecture.kernel, *architecture.depths)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= MOST for n in numbers):
        raise ValueError(f"its architecture {whole!s:.80} is none: numbers from 1 to {MOST} are expected")
    flags = (architecture.guided, architecture.attention, architecture.batch_coupled, architecture.drop_block)
    if architecture.trunk not in TRUNKS or len(architecture.depths) != 4 or not all(type(f) is bool for f in flags):
        raise ValueError("its architecture is unknown")
    diameter, finest, calibre = preparation.fov_diameter, preparation.fine_diameter, preparation.calibre
    if not is_number(diameter) or not 16 <= diameter <= 2**14 or preparation.normalise not in ("fov", "imagenet"):
        raise ValueError(f"its preparation is none (fov_diameter {diameter!s:.20})")
    if finest is not None and not (is_number(finest) and diameter <= finest <= 2**14):
        raise ValueError(f"its preparation is none (fine_diameter {finest!s:.20})")
    if calibre is not None and not (is_number(calibre) and 0 < calibre <= diameter):
        raise ValueError(f"its preparation is none (calibre {calibre!s:.20})")


def write_checkpoint(checkpoint: FSGNetCheckpoint, path: Path) -> None:
    """Write a model file, atomically. Weights are rounded to float16: the shipped ones lose nothing that counts."""
    described = {
        "format": FORMAT, "version": VERSION, "name": checkpoint.name, "threshold": checkpoint.threshold,
        "architecture": asdict(checkpoint.architecture), "preparation": asdict(checkpoint.preparation),
        "calibration": asdict(checkpoint.calibration), "training": dict(checkpoint.training),
    }  # fmt: skip
    write_weights(path, checkpoint.state, described)


def read_checkpoint(path: Path) -> FSGNetCheckpoint:
    """A model file of ``write_checkpoint``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> FSGNetCheckpoint:
        shape, threshold, name = described["architecture"], described["threshold"], described["name"]
        architecture = FSGNetArchitecture(**shape | {"depths": tuple(shape["depths"])})
        preparation = Preparation(**described["preparation"])
        _check(architecture, preparation)
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise ValueError("it has no proper name")
        if not is_number(threshold) or not 0 < threshold < 1:
            raise ValueError(f"its threshold {threshold!s:.20} is no number between 0 and 1")
        calibration = Calibration(**described.get("calibration", {}))
        if not (is_number(calibration.slope) and is_number(calibration.offset) and calibration.slope > 0):
            raise ValueError(f"its calibration {calibration!s:.80} is none")
        training = described.get("training")
        training = training if isinstance(training, dict) else {}
        checkpoint = FSGNetCheckpoint(
            one_line(name), architecture, preparation, float(threshold), state, training, calibration
        )
        held = sum(value.numel() for value in state.values())
        if sum(architecture.depths) > len(state) or max(32 * architecture.width**2, architecture.kernel**2) > held:
            raise ValueError("it has fewer weights than its architecture asks for")
        check_architecture(shape, architecture.build, state)
        checkpoint.build()
        return checkpoint

    return read_weights(path, FORMAT, VERSION, build, what="segmentation model of attn. `attn train fsgnet` makes one")
