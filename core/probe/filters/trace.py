"""Where each convolution is in a model, from one forward pass: order, size of its output, cost, receptive field.

Specification: methods/filter-design.md, section 3.6 (20) and 3.7 (21).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ...filters.layers import CONVOLUTIONS, TRANSPOSED

_SAME = frozenset(
    """relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ gelu silu silu_ mish hardswish hardsigmoid hardtanh sigmoid tanh
    softplus prelu add add_ __add__ __radd__ __iadd__ sub mul mul_ __mul__ __rmul__ __imul__ div __truediv__ batch_norm
    dropout dropout2d feature_dropout cat concat stack clone contiguous detach to float type_as pad layer_norm permute
    group_norm instance_norm chunk split __getitem__ clamp""".split()
)
"""Functions by name whose output at a place hangs on what its inputs hang on there; norms count as such."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one value of a feature map sees of the picture: sides in pixels, and the step to its neighbour's."""

    side: tuple[float, ...]
    jump: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """A convolution in a model.

    Parameters
    ----------
    order : int
        It is so many-th to run, from 0.
    size : tuple of int
        Of its output: height and width.
    macs : int
        Multiply-adds for one picture, biases not counted.
    field : float
        Theoretical receptive field in pixels of the prepared picture, the longer side; NaN where an operation before
        it is of no known reach, such as attention or global pooling.
    """

    order: int
    size: tuple[int, ...]
    macs: int
    field: float


def traced(model: nn.Module, pixels: Tensor) -> dict[str, Traced]:
    """Run a model once.

    Parameters
    ----------
    model : Module
        In eval mode.
    pixels : Tensor, shape (B, 3, h, w)

    Returns
    -------
    dict of str to Traced
        By the names of ``named_modules``; of a layer that runs several times, its first run. Layers that did not run
        are not in it.
    """
    places: dict[str, Traced] = {}
    mode = _Reach(pixels)

    def hook_of(name: str) -> Any:
        def hook(part: Any, args: tuple[Any, ...], output: Tensor) -> None:
            if name in places:
                return
            taps = math.prod(part.kernel_size)
            if isinstance(part, TRANSPOSED):
                macs = args[0].numel() * part.out_channels // part.groups * taps
            else:
                macs = output.numel() * part.in_channels // part.groups * taps
            view = mode.view(output)
            field = max(view.side) if view else math.nan
            places[name] = Traced(len(places), tuple(output.shape[2:]), macs // len(output), field)

        return hook

    handles = [
        part.register_forward_hook(hook_of(name or type(part).__name__))
        for name, part in model.named_modules()
        if isinstance(part, (*CONVOLUTIONS, *TRANSPOSED))
    ]
    try:
        with torch.inference_mode(), mode:
            model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return places


class _Reach(TorchFunctionMode):
    """Follows the receptive field through every call of torch; what it does not know has none from there on."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        dimensions = pixels.ndim - 2
        self._views: Any = WeakIdKeyDictionary()
        self._views[pixels] = Sight((1.0,) * dimensions, (1.0,) * dimensions)

    def view(self, value: Tensor) -> Sight | None:
        found: Sight | None = self._views.get(value)
        return found

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        seen = [self._views.get(value) for value in _feature_maps(args, kwargs)]
        view = _seen_by(name, seen, args, kwargs) if seen and None not in seen else None
        output = function(*args, **kwargs)
        for value in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(value, Tensor):
                if view is not None:
                    self._views[value] = view
                else:
                    self._views.pop(value, None)
        return output


def _feature_maps(args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Tensors among the arguments that may be feature maps: weights and statistics are no such ones."""
    flat: list[Any] = []
    for value in (*args, *kwargs.values()):
        flat += value if isinstance(value, (tuple, list)) else (value,)
    return [v for v in flat if isinstance(v, Tensor) and v.ndim > 2 and not isinstance(v, nn.Parameter)]


def _seen_by(name: str, seen: list[Sight], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sight | None:
    before = Sight(
        tuple(max(sides) for sides in zip(*(view.side for view in seen), strict=True)),
        tuple(max(jumps) for jumps in zip(*(view.jump for view in seen), strict=True)),
    )
    if name in ("conv1d", "conv2d", "conv3d"):
        named = _named(("input", "weight", "bias", "stride", "padding", "dilation"), args, kwargs)
        return _slid(before, tuple(named["weight"].shape[2:]), named.get("stride", 1), named.get("dilation", 1))
    if name.startswith(("max_pool", "avg_pool")):
        order = ("input", "kernel_size", "stride", "padding", "dilation")
        named = _named(order, args, kwargs)
        dilation = named.get("dilation", 1) if name.startswith("max") else 1
        stride = named.get("stride")
        return _slid(before, named["kernel_size"], named["kernel_size"] if stride in (None, []) else stride, dilation)
    return before if name in _SAME else None


def _named(order: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(order, args, strict=False)), **kwargs}


def _slid(before: Sight, kernel: Any, stride: Any, dilation: Any) -> Sight:
    """r + (k - 1) d j and j s, along every side."""
    count = len(before.side)
    kernel, stride, dilation = (
        tuple(value) * (count if len(value) == 1 else 1) if isinstance(value, (tuple, list)) else (value,) * count
        for value in (kernel, stride, dilation)
    )
    return Sight(
        tuple(r + (k - 1) * d * j for r, j, k, d in zip(before.side, before.jump, kernel, dilation, strict=True)),
        tuple(j * s for j, s in zip(before.jump, stride, strict=True)),
    )
