"""A convolutional classifier as the chain of its layers, whatever package its class is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ...errors import UsageError
from ...models.family import ATTENTIONS


@dataclass(frozen=True, slots=True)
class ChainLayer:
    """One layer; ``name`` is the module's in the model."""

    name: str
    module: nn.Module

    def run(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        return out


@dataclass(frozen=True, slots=True)
class Added:
    """Two chains over the same input whose results are added: a residual block without its last activation.

    Parameters
    ----------
    name : str
        Of the block.
    branches : two sequences of links
        The second is the shortcut; empty: the input itself.
    """

    name: str
    branches: tuple[tuple[Link, ...], tuple[Link, ...]]

    def run(self, x: Tensor) -> Tensor:
        first, second = (forward(branch, x) for branch in self.branches)
        return first + second


Link = ChainLayer | Added

FLATTEN = "(flatten)"
"""What a model's ``forward`` does itself between two of its parts."""
_CHAIN = ("features", "avgpool", FLATTEN, "classifier")
_RESNET = ("layer1", "layer2", "layer3", "layer4")
PARTS: Mapping[str, Sequence[Sequence[str]]] = {
    "ConvolutionalClassifier": (_CHAIN,),
    "AlexNet": (_CHAIN,),
    "VGG": (_CHAIN, ("features", "pre_logits", "head")),  # torchvision's, timm's
    "ConvMlp": (("fc1", "act1", "drop", "fc2", "act2"),),
    "ClassifierHead": (("global_pool", "drop", "fc", "flatten"),),
    "SelectAdaptivePool2d": (("pool", "flatten"),),
    "ResNet": (
        ("conv1", "bn1", "relu", "maxpool", *_RESNET, "avgpool", FLATTEN, "fc"),
        ("conv1", "bn1", "act1", "maxpool", *_RESNET, "global_pool", "fc"),
    ),
    "ResNetForImageClassification": (("resnet", "classifier"),),
    "ResNetModel": (("embedder", "encoder", "pooler"),),
    "ResNetEmbeddings": (("embedder", "pooler"),),
    "ResNetConvLayer": (("convolution", "normalization", "activation"),),
    "ResNetShortCut": (("convolution", "normalization"),),
    "ResNetEncoder": (("stages",),),
    "ResNetStage": (("layers",),),
}
"""Class -> its parts in the order in which ``forward`` runs them; several classes may have one name."""
BLOCKS: Mapping[str, Sequence[tuple[Sequence[str], str, str]]] = {
    "BasicBlock": (
        (("conv1", "bn1", "relu", "conv2", "bn2"), "downsample", "relu"),
        (("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "se", "drop_path"), "downsample", "act2"),
    ),
    "Bottleneck": (
        (("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3"), "downsample", "relu"),
        (
            ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3", "bn3", "se", "drop_path"),
            "downsample", "act3",
        ),
    ),
    "ResNetBasicLayer": ((("layer",), "shortcut", "activation"),),
    "ResNetBottleNeckLayer": ((("layer",), "shortcut", "activation"),),
}  # fmt: skip
"""Class of a residual block -> its branch, its shortcut, and the activation behind the sum."""

AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
WEIGHTED = (nn.Conv2d, nn.Linear)
RESHAPES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
MONOTONE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh,
    nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign,
)  # fmt: skip
_KNOWN = (*WEIGHTED, *AVERAGES, *RESHAPES, *MONOTONE, nn.MaxPool2d)


def chain_of(model: nn.Module) -> tuple[Link, ...]:
    """The layers of a classifier in order, batch norm folded into the layer before it.

    Parameters
    ----------
    model : Module
        In eval mode: a ``Sequential``, one of ``PARTS``, or what is made of them. It is not changed.

    Raises
    ------
    UsageError
        If it has attention, or a module whose rule is not known: in one line that names it.
    """
    if attention := next((m for m in model.modules() if type(m).__name__ in ATTENTIONS), None):
        raise UsageError(
            f"{type(model).__name__} has attention ({type(attention).__name__}), for which relevance is not "
            "propagated here: the kinds vit and distance look into such models."
        )
    links = _folded(_links(model, ""))
    if not any(isinstance(layer.module, WEIGHTED) for layer in walked(links)):
        raise UsageError(f"{type(model).__name__} has no convolution or linear layer to propagate relevance through.")
    return tuple(links)


def forward(links: Sequence[Link], x: Tensor) -> Tensor:
    """What a chain makes of its input."""
    for link in links:
        x = link.run(x)
    return x


def _links(module: nn.Module, name: str) -> list[Link]:
    kind = type(module).__name__
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return [link for number, part in module.named_children() for link in _links(part, _joined(name, number))]
    if kind in BLOCKS:
        return _block(module, name, kind)
    if kind in PARTS:
        parts = _fitting(module, name, PARTS[kind])
        return [link for part in parts for link in _part(module, name, part)]
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        activation = getattr(module, "act", None)  # timm's BatchNormAct2d
        return [ChainLayer(name, module), *(_links(activation, _joined(name, "act")) if activation is not None else [])]
    if isinstance(module, _KNOWN):
        return [ChainLayer(name, module)]
    if not list(module.children()) and not list(module.parameters()) and hasattr(module, "flatten"):
        return _average(module, name)
    raise UsageError(
        f"{name or 'the model'} is {kind}, for which no rule of relevance is known. Known: "
        f"{', '.join(sorted({k.__name__ for k in _KNOWN} | set(PARTS) | set(BLOCKS)))}."
    )


def _average(module: nn.Module, name: str) -> list[Link]:
    """timm's FastAdaptiveAvgPool: the mean over the picture."""
    if type(module).__name__ != "FastAdaptiveAvgPool":
        raise UsageError(f"{name} is {type(module).__name__}, for which no rule of relevance is known.")
    whole = [ChainLayer(name, nn.AdaptiveAvgPool2d(1))]
    return [*whole, ChainLayer(f"{name}.{FLATTEN}", nn.Flatten())] if module.flatten else [*whole]


def _part(module: nn.Module, name: str, part: str) -> list[Link]:
    if part == FLATTEN:
        return [ChainLayer(_joined(name, part), nn.Flatten())]
    inner = getattr(module, part)
    return [] if inner is None else _links(inner, _joined(name, part))


def _block(module: nn.Module, name: str, kind: str) -> list[Link]:
    for branch, shortcut, activation in BLOCKS[kind]:
        if all(hasattr(module, part) for part in (*branch, shortcut, activation)):
            first = _folded([link for part in branch for link in _part(module, name, part)])
            second = _folded(_part(module, name, shortcut))
            return [Added(name, (tuple(first), tuple(second))), *_part(module, name, activation)]
    raise UsageError(f"{name} is a {kind} with other parts than those that are known.")


def _fitting(module: nn.Module, name: str, several: Sequence[Sequence[str]]) -> Sequence[str]:
    for parts in several:
        if all(part == FLATTEN or hasattr(module, part) for part in parts):
            return parts
    raise UsageError(f"{name or 'the model'} is a {type(module).__name__} with other parts than those that are known.")


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _folded(links: Sequence[Link]) -> list[Link]:
    """Batch norm folded into the convolution or linear layer before it. Raises ``UsageError`` where there is none."""
    out: list[Link] = []
    for link in links:
        if not isinstance(link, ChainLayer) or not isinstance(link.module, nn.BatchNorm2d | nn.BatchNorm1d):
            out.append(link)
            continue
        before = out[-1] if out else None
        if not isinstance(before, ChainLayer) or not isinstance(before.module, WEIGHTED):
            raise UsageError(f"{link.name} is batch norm that follows no convolution or linear layer.")
        fuse = fuse_conv_bn_eval if isinstance(before.module, nn.Conv2d) else fuse_linear_bn_eval
        with torch.no_grad():
            out[-1] = ChainLayer(before.name, fuse(before.module, link.module))  # type: ignore[arg-type, type-var]
    return out


def walked(links: Sequence[Link]) -> Iterator[ChainLayer]:
    """All layers of a chain, those of branches included."""
    for link in links:
        if isinstance(link, ChainLayer):
            yield link
        else:
            for branch in link.branches:
                yield from walked(branch)
