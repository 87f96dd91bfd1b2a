"""Image classifiers of convolutions in a chain, under the names that torchvision gives the parts of AlexNet and VGG.

``features`` (convolutions, batch norm, ReLU, max pooling), ``avgpool``, ``classifier`` (linear layers). A dictionary of
weights is enough to build one: the gaps between the numbers of its layers say what has no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_STRIDES = {1: (1, 0), 3: (1, 1), 5: (1, 2), 11: (4, 2)}
"""Kernel -> stride and padding, in AlexNet and VGG."""
_LARGE = 11
"""Kernel of AlexNet's first convolution; its pooling windows overlap."""


class ConvolutionalClassifier(nn.Module):
    """Convolutions, pooling to a fixed grid, linear layers.

    Parameters
    ----------
    features : Sequential
    grid : int
        Side of what the linear layers see, in cells.
    classifier : Sequential
    """

    def __init__(self, features: nn.Sequential, grid: int, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d(grid), classifier

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, classes] of pictures [B, C, H, W]."""
        out: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))
        return out


def vgg(
    channels: Sequence[int], hidden: int, classes: int, *, grid: int, in_channels: int = 3
) -> ConvolutionalClassifier:
    """A small VGG to be trained: 3 x 3 convolutions with batch norm, each followed by pooling that halves the picture.

    Parameters
    ----------
    channels : sequence of int
    hidden, classes : int
        Widths of the two linear layers.
    grid : int
        Side of what is left of the picture, in cells.
    in_channels : int
    """
    layers: list[nn.Module] = []
    for width in channels:
        layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        in_channels = width
    linear = nn.Sequential(nn.Linear(in_channels * grid**2, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    net = ConvolutionalClassifier(nn.Sequential(*layers), grid, linear)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return net


def folded(net: ConvolutionalClassifier) -> ConvolutionalClassifier:
    """The same function in eval mode without batch norm: each is folded into the convolution before it."""
    layers: list[nn.Module] = []
    for module in net.features:
        if isinstance(module, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], module)  # type: ignore[arg-type, type-var]
        else:
            layers.append(module)
    grid: Any = net.avgpool.output_size
    return ConvolutionalClassifier(nn.Sequential(*layers), grid, net.classifier).eval()


def classifier_of(state: Mapping[str, Tensor]) -> ConvolutionalClassifier:
    """The classifier that a dictionary of weights is of, with these weights, in eval mode, float32.

    Between two numbered layers of ``features`` a gap of one is ReLU, a gap of two ReLU and max pooling, and behind the
    last convolution are both; between linear layers is ReLU, and dropout where the gap is two. Kernels of 3, 5 and 11
    have the strides and padding of VGG and AlexNet; max pooling is 2 x 2, or 3 x 3 with stride 2 where the first kernel
    is AlexNet's.

    Raises
    ------
    ValueError
        If the names or shapes are of another kind of network, in words.
    """
    layers = {part: dict(_numbered(state, part)) for part in ("features", "classifier")}
    known = {f"{part}.{number}." for part, numbers in layers.items() for number in numbers}
    if odd := sorted(key for key in state if key[: key.rfind(".") + 1] not in known):
        raise ValueError(f"{odd[0]} is no layer of features or classifier")
    for part, numbers in layers.items():
        if not numbers:
            raise ValueError(f"it has no weights named {part}.NUMBER.weight")
    features = nn.Sequential(*_convolutions(layers["features"]))
    linear = nn.Sequential(*_linear(layers["classifier"]))
    channels = next(m.out_channels for m in reversed(features) if isinstance(m, nn.Conv2d))
    inputs = next(m.in_features for m in linear if isinstance(m, nn.Linear))
    grid = round((inputs / channels) ** 0.5)
    if channels * grid**2 != inputs:
        raise ValueError(f"its linear layers take {inputs} values, no square grid of its {channels} channels")
    net = ConvolutionalClassifier(features, grid, linear)
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return net.eval()


_Layer = dict[str, Tensor]
"""Parameters of a layer, by name."""


def _numbered(state: Mapping[str, Tensor], part: str) -> Iterator[tuple[int, _Layer]]:
    """Layers of a part that have weights, in order."""
    found: dict[int, _Layer] = {}
    for key, value in state.items():
        if match := re.fullmatch(rf"{part}\.(\d{{1,4}})\.(\w+)", key):
            found.setdefault(int(match[1]), {})[match[2]] = value
    yield from sorted(found.items())


def _convolutions(layers: Mapping[int, _Layer]) -> Iterator[nn.Module]:
    first = next(iter(layers.values())).get("weight", torch.empty(0))
    overlapping = first.ndim == 4 and first.shape[-1] == _LARGE
    before = -1
    for number, layer in layers.items():
        yield from _between("features", before, number, overlapping)
        yield _convolution(f"features.{number}", layer)
        before = number
    yield from (nn.ReLU(), _pool(overlapping))


def _between(part: str, before: int, number: int, overlapping: bool) -> Iterator[nn.Module]:
    gap = number - before - 1
    if gap > 2 or (before < 0 and gap):
        raise ValueError(f"what the {gap} layers in front of {part}.{number} are cannot be told from its weights")
    yield from (nn.ReLU(), _pool(overlapping))[:gap]


def _pool(overlapping: bool) -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2) if overlapping else nn.MaxPool2d(2)


def _convolution(name: str, layer: _Layer) -> nn.Module:
    weight = _parameter(name, layer, "weight")
    if weight.ndim == 1:
        for other in ("bias", "running_mean", "running_var"):
            _parameter(name, layer, other)
        return nn.BatchNorm2d(len(weight))
    side = weight.shape[-1]
    if weight.ndim != 4 or weight.shape[-2] != side or side not in _STRIDES:
        raise ValueError(f"{name}.weight is {list(weight.shape)}: no convolution of AlexNet or VGG")
    stride, padding = _STRIDES[side]
    outputs, inputs = weight.shape[:2]
    return nn.Conv2d(inputs, outputs, side, stride, padding, bias="bias" in layer)


def _linear(layers: Mapping[int, _Layer]) -> Iterator[nn.Module]:
    before = -1
    for number, layer in layers.items():
        gap, first = number - before - 1, before < 0
        if gap > 1 + (not first) or (not first and not gap):
            raise ValueError(f"what is in front of classifier.{number} cannot be told from its weights")
        yield from (nn.Dropout(),) * gap if first else (nn.ReLU(), nn.Dropout())[:gap]
        weight = _parameter(f"classifier.{number}", layer, "weight")
        if weight.ndim != 2:
            raise ValueError(f"classifier.{number}.weight is {list(weight.shape)}, of no linear layer")
        yield nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in layer)
        before = number


def _parameter(name: str, layer: _Layer, parameter: str) -> Tensor:
    if parameter not in layer:
        raise ValueError(f"{name}.{parameter} is missing")
    return layer[parameter]
