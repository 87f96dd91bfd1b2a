"""The backbones, their model file, and the plain ViTs that equal them in parameters or multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...io.weights import check_architecture, read_weights, write_weights
from ...nets.as_vit import plain_multiply_adds
from ...nets.biformer import BiFormer
from ...nets.halonet import HaloNet, Size
from ...nets.vit import ViTShape
from ...probe.classify.measure import multiply_adds
from .options import HEAD, BiFormerOptions, HaloNetOptions, Kind

FORMAT, VERSION = "attn-backbone", 1
TOLERANCE = {"parameters": 0.02, "cost": 0.05}
"""By which a plain ViT may differ from the backbone that it equals."""


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """Sizes of a classifier.

    Parameters
    ----------
    kind : {"biformer", "halonet"}
    image_size, num_classes, width : int
    depths : tuple of 4 int
    n_win, topk, mlp_ratio
        Of BiFormer; without effect on the other.
    block, halo, value_ratio, out_ratio
        Of HaloNet.
    """

    kind: Kind
    image_size: int
    num_classes: int
    width: int
    depths: tuple[int, ...]
    n_win: int = 4
    topk: tuple[int, ...] = (1, 2, 4)
    mlp_ratio: float = 3.0
    block: int = 4
    halo: int = 2
    value_ratio: float = 1.0
    out_ratio: float = 1.0

    def build(self) -> BiFormer | HaloNet:
        """The network, its weights drawn from torch's generator. Heads have 16 channels."""
        if self.kind == "biformer":
            return BiFormer(
                self.depths, [self.width << stage for stage in range(4)], mlp_ratio=self.mlp_ratio, head_dim=HEAD,
                n_win=self.n_win, topks=(*self.topk, None), num_classes=self.num_classes,
            )  # fmt: skip
        size = Size(self.block, self.halo, self.value_ratio, self.out_ratio, self.depths[2], self.image_size, None)
        heads = [(self.width << stage) // HEAD for stage in range(4)]
        return HaloNet(size, num_classes=self.num_classes, width=self.width, heads=heads, depths=self.depths)


def shape_of(options: BiFormerOptions | HaloNetOptions, classes: int) -> BackboneShape:
    """Of the network that options ask for, for so many classes."""
    size, width, depths = options.pictures.image_size, options.width, options.depths
    if isinstance(options, BiFormerOptions):
        return BackboneShape(
            "biformer", size, classes, width, depths, n_win=options.n_win, topk=options.topk,
            mlp_ratio=options.mlp_ratio,
        )  # fmt: skip
    return BackboneShape(
        "halonet", size, classes, width, depths, block=options.block, halo=options.halo,
        value_ratio=options.value_ratio, out_ratio=options.out_ratio,
    )  # fmt: skip


class NetworkCost(NamedTuple):
    """Parameters of a network, and multiply-adds of a picture (matrix products and convolutions)."""

    parameters: int
    cost: float


@torch.inference_mode()
def counted(network: nn.Module, size: int) -> NetworkCost:
    """Of a network for pictures [B, 3, size, size]."""
    device = next(network.parameters()).device
    cost = multiply_adds(network, torch.zeros(1, 3, size, size, device=device))
    return NetworkCost(sum(parameter.numel() for parameter in network.parameters()), cost)


def equal_vit(wanted: float, what: str, size: int, patch: int, layers: int, heads: int, classes: int) -> ViTShape:
    """The plain ViT of so many ``parameters``, or of such a ``cost``: its MLPs about four times as wide inside.

    Raises
    ------
    ValueError
        If none comes within ``TOLERANCE``.
    """
    count: Callable[[ViTShape], float] = _parameters if what == "parameters" else _cost
    best: tuple[float, ViTShape] | None = None
    for dim in range(heads, 4096, heads):
        bare = ViTShape(size, patch, num_classes=classes, dim=dim, depth=layers, num_heads=heads, mlp_ratio=1.0)
        each = count(_with_hidden(bare, dim + 1)) - count(bare)  # of a channel more inside all MLPs
        hidden = dim + round((wanted - count(bare)) / each)
        if hidden < dim:
            break
        shape = _with_hidden(bare, hidden)
        off = abs(hidden / dim - 4)
        if abs(count(shape) / wanted - 1) <= TOLERANCE[what] and (best is None or off < best[0]):
            best = off, shape
    if best is None:
        raise ValueError(f"no plain ViT of {layers} blocks has about {wanted:.0f} {what}, as the backbone")
    return best[1]


def _with_hidden(shape: ViTShape, hidden: int) -> ViTShape:
    return ViTShape(**asdict(shape) | {"mlp_ratio": (hidden + 0.5) / shape.dim})  # rounded down, it is ``hidden``


def _parameters(shape: ViTShape) -> float:
    dim, hidden = shape.dim, shape.hidden
    block = 4 * dim**2 + 2 * dim * hidden + hidden + 9 * dim
    outside = dim * (shape.in_channels * shape.patch_size**2 + shape.patches + 5 + shape.num_classes)
    return shape.depth * block + outside + shape.num_classes


def _cost(shape: ViTShape) -> float:
    return plain_multiply_adds(shape) + shape.dim * shape.num_classes


class Backbone(NamedTuple):
    """A trained classifier: ``network`` takes pictures as ``vit.data.normalised`` gives them, to logits."""

    network: BiFormer | HaloNet
    shape: BackboneShape
    classes: tuple[str, ...]


def write_backbone(path: Path, model: Backbone, facts: Mapping[str, Any]) -> None:
    """Write a model file, atomically: weights as they are, in float32."""
    described = {
        "format": FORMAT, "version": VERSION, "architecture": asdict(model.shape), "classes": model.classes,
        "training": dict(facts),
    }  # fmt: skip
    write_weights(path, model.network.state_dict(), described, rounded=False)


def read_backbone(path: Path) -> Backbone:
    """The model of a file of ``write_backbone``, in eval mode. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> Backbone:
        sizes = dict(described["architecture"])
        sizes |= {name: tuple(sizes[name]) for name in ("depths", "topk")}
        shape = BackboneShape(**sizes)
        check_architecture(sizes, shape.build, state)
        network = shape.build()
        network.load_state_dict(state)
        return Backbone(network.eval(), shape, tuple(map(str, described["classes"])))

    return read_weights(
        path, FORMAT, VERSION, build,
        what="backbone of attn. `attn train biformer` and `attn train halonet` make one",
    )  # fmt: skip
