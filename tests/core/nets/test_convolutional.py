"""Classifiers from their weights alone: AlexNet's and VGG's layouts, batch norm, and what is none of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attn.core.nets.convolutional import ConvolutionalClassifier, classifier_of, folded, vgg


def alexnet() -> ConvolutionalClassifier:
    """torchvision's, narrow: features 0 3 6 8 10, classifier 1 4 6."""
    features = nn.Sequential(
        nn.Conv2d(3, 4, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 6, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(5 * 4, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 7)
    )
    return ConvolutionalClassifier(features, 2, classifier).eval()


def vgg_like(*, normed: bool) -> ConvolutionalClassifier:
    """torchvision's VGG: two stages of two convolutions; classifier 0 3 6."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (4, 4, 0, 6, 6, 0):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, width, 3, padding=1), *([nn.BatchNorm2d(width)] if normed else []), nn.ReLU()]
        inputs = width
    classifier = nn.Sequential(
        nn.Linear(6 * 9, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 7)
    )
    return ConvolutionalClassifier(nn.Sequential(*layers), 3, classifier).eval()


def drawn(net: nn.Module) -> nn.Module:
    """With weights and statistics of its own."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.4 - 0.15 if tensor.ndim > 1 else torch.rand_like(tensor) + 0.5)
    return net


@pytest.mark.parametrize("make", [alexnet, lambda: vgg_like(normed=False), lambda: vgg_like(normed=True)])
def test_a_dictionary_of_weights_is_enough(make: object) -> None:
    net = drawn(make())  # type: ignore[operator]
    built = classifier_of(net.state_dict())
    image = torch.rand(2, 3, 83, 67)
    torch.testing.assert_close(built(image), net(image))
    assert not built.training


def test_a_trained_net_without_its_batch_norm() -> None:
    net = drawn(vgg((4, 6), 8, 5, grid=4)).eval()
    assert isinstance(net, ConvolutionalClassifier)
    plain = folded(net)
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(plain(image), net(image), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    torch.testing.assert_close(classifier_of(plain.state_dict())(image), plain(image))


def _without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: _without(s, "features.0.weight"), "features.0.weight is missing"),
        (lambda s: _without(s, "features.1.running_var"), "features.1.running_var is missing"),
        (lambda s: s | {"head.weight": torch.zeros(2)}, "head.weight is no layer"),
        (lambda s: _without(s, *[n for n in s if n.startswith("classifier")]), "no weights named classifier"),
        (lambda s: s | {"features.0.weight": torch.zeros(4, 3, 9, 9)}, "no convolution of AlexNet or VGG"),
        (lambda s: s | {"classifier.0.weight": torch.zeros(12, 50)}, "no square grid"),
        (lambda s: s | {"features.30.weight": torch.zeros(4, 6, 3, 3)}, "cannot be told from its weights"),
        (lambda s: s | {"classifier.9.weight": torch.zeros(4, 7, 1)}, "of no linear layer"),
    ],
)
def test_weights_of_something_else(change: object, said: str) -> None:
    state = vgg_like(normed=True).state_dict()
    with pytest.raises(ValueError, match=said):
        classifier_of(change(state))  # type: ignore[operator]
