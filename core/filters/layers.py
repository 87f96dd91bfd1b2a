"""The layers whose weights an initialiser sets, seen alike: grouped, depthwise, transposed and linear.

Specification: methods/filter-design.md, section 3 (fans) and section 3.7 (shapes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def fans(
    shape: Sequence[int], *, groups: int = 1, transposed: bool = False, divide_groups: bool = False
) -> tuple[int, int]:
    """How many inputs a weight's output sums, and how many outputs its input reaches.

    Parameters
    ----------
    shape : sequence of int
        (O, C / groups, *kernel); (C, O / groups, *kernel) of a transposed convolution; (O, C) of a linear layer.
    groups : int
    transposed : bool
    divide_groups : bool
        Count only the outputs of an input's own group in fan_out. Default: all of them, as PyTorch does.

    Returns
    -------
    fan_in, fan_out : int

    Raises
    ------
    ValueError
        If the shape has fewer than two dimensions or an empty one.

    Notes
    -----
    The stride is not counted, neither here nor in PyTorch. For a transposed convolution PyTorch's own rule reads the
    two numbers in the wrong roles; here they are the ones of its direction.

    References
    ----------
    methods/filter-design.md, sections 3, 3.7 and 9 (1).
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"a weight of shape {tuple(shape)} has no fans: at least (O, C), none of them 0.")
    taps = math.prod(shape[2:])
    per_group_in, out = (shape[0] // groups, shape[1] * groups) if transposed else (shape[1], shape[0])
    return per_group_in * taps, out * taps // (groups if divide_groups else 1)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer of a module, by its dotted name."""

    name: str
    module: nn.Module
    weight: Tensor
    groups: int
    transposed: bool

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sides of the kernel; empty for a linear layer."""
        return tuple(self.weight.shape[2:])

    @property
    def fans(self) -> tuple[int, int]:
        return fans(self.weight.shape, groups=self.groups, transposed=self.transposed)

    @property
    def filters(self) -> Tensor:
        """The weight as [G, O / G, C / G, *kernel], whatever its layout; a view."""
        weight = self.weight.detach()
        split = weight.view(self.groups, -1, *weight.shape[1:])
        return split.transpose(1, 2) if self.transposed else split

    def blank(self, generator: torch.Generator | None = None) -> Tensor:
        """Memory to draw into, shape of ``filters``: on the generator's device, no narrower than float32."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.empty(self.filters.shape, dtype=dtype, device=generator.device if generator else "cpu")

    def write(self, filters: Tensor) -> None:
        """Set the weight from [G, O / G, C / G, *kernel] or [O, C / G, *kernel], and the bias to 0."""
        self.filters.copy_(filters.reshape(self.filters.shape))
        bias = getattr(self.module, "bias", None)
        if isinstance(bias, Tensor):
            bias.detach().zero_()

    @property
    def is_offset(self) -> bool:
        """Whether the layer's own name says that it moves the taps of a deformable convolution: those start at 0."""
        return "offset" in self.name.rpartition(".")[2].lower()


def find_layers(module: nn.Module) -> list[Layer]:
    """All convolution and linear layers of a module in the order of their definition; a shared weight once.

    Raises
    ------
    ValueError
        If there is none, or one whose weight cannot be set: not yet shaped (lazy), parametrised (weight or spectral
        norm), not of a floating type, empty.
    """
    layers: list[Layer] = []
    seen: set[int] = set()
    for name, part in module.named_modules():
        if not isinstance(part, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
            continue
        name = name or type(part).__name__
        weight = part._parameters.get("weight")
        if weight is None:
            raise ValueError(f"{name}: the weight is computed from others. Remove its parametrisation first.")
        if isinstance(weight, nn.UninitializedParameter):
            raise ValueError(f"{name}: the weight has no shape yet. Run the module once on an example first.")
        if not weight.is_floating_point() or not weight.numel():
            raise ValueError(f"{name}: a weight of type {weight.dtype} and shape {tuple(weight.shape)} cannot be set.")
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        layers.append(Layer(name, part, weight, getattr(part, "groups", 1), isinstance(part, TRANSPOSED)))
    if not layers:
        raise ValueError(f"{type(module).__name__} has no convolution and no linear layer to initialise.")
    return layers
