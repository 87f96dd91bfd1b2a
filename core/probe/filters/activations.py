"""What the filters of a model do on pictures: dead channels, variances, correlation, effective receptive field.

Specification: methods/filter-design.md, section 3.6, steps 19 and 20.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DEAD = 0.999
"""Share of zeros behind the ReLU, from which a channel counts as dead on these pictures."""
EXPLODES, VANISHES = 2.0, 0.5
"""Variance of a layer's output over that of the layer before."""
FIELDS = 8
"""Layers, spread over the depth, whose effective receptive field is measured."""
SHARES = (0.5, 0.9)
"""Of the squared gradient, that lie within the radii of an effective receptive field."""
_RELU = frozenset({"relu", "relu_", "relu6"})


@dataclass(slots=True)
class LayerActivity:
    """Sums over the pictures seen so far, of the output of one convolution, before its activation.

    Parameters
    ----------
    count : int
        Values of each channel.
    total, products : Tensor, shapes (C,) and (C, C), float64
        Sums of the values and of their products.
    zeros, seen : Tensor (C,) and int
        Zeros of each channel behind the next ReLU, of so many; 0: no ReLU came before the next convolution.
    gradient : float
        |dW| / |W| of one loss on the first pictures.
    """

    count: int
    total: Tensor
    products: Tensor
    zeros: Tensor
    seen: int = 0
    gradient: float = math.nan

    @property
    def covariance(self) -> Tensor:
        """Of the channels, [C, C]; biased."""
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)

    def numbers(self) -> dict[str, float]:
        """Step 19, but for what compares layers."""
        covariance, mean = self.covariance, self.total / self.count
        variance = covariance.diagonal().clamp_min(0)
        return {
            "output_mean": float(mean.mean()),
            "output_variance": float(variance.mean() + mean.var(correction=0)),
            "correlation": mean_correlation(covariance),
            "activation_rank": effective_rank(covariance),
            "zeros": float(self.zero_share.mean()),
            "dead_on_data": float((self.zero_share > DEAD).sum()) if self.seen else math.nan,
            "gradient_ratio": self.gradient,
        }

    @property
    def zero_share(self) -> Tensor:
        """Of each channel, behind the ReLU; NaN where there is none."""
        return self.zeros / self.seen if self.seen else torch.full_like(self.zeros, math.nan)


def mean_correlation(covariance: Tensor) -> float:
    """Mean absolute correlation of two channels; those that never change are left out. NaN of fewer than two."""
    if not bool(covariance.isfinite().all()):
        return math.nan
    std = covariance.diagonal().clamp_min(0).sqrt()
    alive = std > 1e-6 * std.max()
    count = int(alive.sum())
    if count < 2:
        return math.nan
    correlation = (covariance / torch.outer(std, std).clamp_min(1e-300))[alive][:, alive].abs()
    return float((correlation.sum() - correlation.diagonal().sum()) / (count * (count - 1)))


def effective_rank(covariance: Tensor) -> float:
    """exp of the entropy of the singular values of the centred activations, as shares of their sum."""
    if not bool(covariance.isfinite().all()):
        return math.nan
    singular = torch.linalg.eigvalsh(covariance).clamp_min(0).sqrt()
    if float(singular.sum()) == 0:
        return 0.0
    share = singular / singular.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))


@dataclass(slots=True)
class Activity:
    """What ``watch`` has seen, layer by layer in the order in which they run."""

    layers: dict[str, LayerActivity] = field(default_factory=dict)

    def rows(self) -> dict[str, dict[str, float]]:
        """Step 19 of every layer; ``variance_ratio`` is that to the layer before."""
        rows: dict[str, dict[str, float]] = {}
        before = math.nan
        for name, layer in self.layers.items():
            numbers = layer.numbers()
            variance = numbers["output_variance"]
            rows[name] = {**numbers, "variance_ratio": variance / before if before else math.nan}
            before = variance
        return rows


class _Zeros(TorchFunctionMode):
    """Counts the zeros that a ReLU, however it is called, makes of the last convolution's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: LayerActivity | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        layer = self.waiting
        if layer is not None and getattr(function, "__name__", "") in _RELU and output.ndim > 2:
            if output.shape[1] == len(layer.zeros):
                zero = (output == 0).transpose(0, 1).flatten(1)  # [C, B h w]
                layer.zeros += zero.sum(1).double()
                layer.seen += zero.shape[1]
            self.waiting = None
        return output


def watch(model: nn.Module, names: Sequence[str], batches: Sequence[Tensor]) -> Activity:
    """Run pictures through a model and add up what the layers ``names`` give.

    Parameters
    ----------
    model : Module
        In eval mode.
    names : sequence of str
        Convolutions, by the names of ``named_modules``.
    batches : sequence of Tensor, shape (B, 3, h, w)
        The first one also gives the gradients, see ``gradient_ratios``.
    """
    activity, mode = Activity(), _Zeros()

    def hook_of(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: Any, output: Tensor) -> None:
            x = output.detach().transpose(0, 1).flatten(1).double()  # [C, B h w]
            if name not in activity.layers:
                size = len(x)
                activity.layers[name] = LayerActivity(
                    0, torch.zeros(size).double(), torch.zeros(size, size).double(), torch.zeros(size).double()
                )
            layer = activity.layers[name]
            layer.count += x.shape[1]
            layer.total += x.sum(1)
            layer.products += x @ x.T
            mode.waiting = layer

        return hook

    handles = [model.get_submodule(name).register_forward_hook(hook_of(name)) for name in names]
    try:
        for batch in batches:
            with torch.inference_mode(), mode:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, ratio in gradient_ratios(model, names, batches[0]).items():
        if name in activity.layers:
            activity.layers[name].gradient = ratio
    return activity


def gradient_ratios(model: nn.Module, names: Sequence[str], pixels: Tensor) -> dict[str, float]:
    """|dW| / |W| of one loss: cross-entropy of what the model itself names first, or, of a model without classes, half
    the mean square of its output."""
    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in names}
    with torch.enable_grad(), _needing(list(weights.values())):
        output: Any = model(pixels)
        logits = getattr(output, "logits", output if isinstance(output, Tensor) else None)
        if logits is not None and logits.ndim == 2:
            loss = nn.functional.cross_entropy(logits, logits.argmax(1))
        else:
            hidden = getattr(output, "last_hidden_state", output)
            loss = hidden.square().mean() / 2
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        name: float(grad.norm() / weight.detach().norm())
        if grad is not None and bool(weight.detach().any())
        else math.nan
        for (name, weight), grad in zip(weights.items(), found, strict=True)
    }


@contextmanager
def _needing(weights: Sequence[Tensor]) -> Iterator[None]:
    """Weights that need gradients meanwhile."""
    kept = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, need in zip(weights, kept, strict=True):
            weight.requires_grad_(need)


def effective_fields(model: nn.Module, names: Sequence[str], pixels: Tensor) -> dict[str, NDArray[np.float32]]:
    """Step 20: squared gradient of a layer's middle value, summed over its channels, to the pictures, [h, w] each.

    Parameters
    ----------
    model : Module
        In eval mode.
    names : sequence of str
        Convolutions.
    pixels : Tensor, shape (B, 3, h, w)
        The mean over these pictures, and the sum over their channels.
    """
    outputs: dict[str, Tensor] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: Any, output: Tensor) -> None:
            outputs.setdefault(name, output)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(hook_of(name)) for name in names]
    x = pixels.clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            model(x)
            fields = {}
            for name in names:
                if name not in outputs or outputs[name].ndim != 4:
                    continue
                middle = outputs[name][:, :, outputs[name].shape[2] // 2, outputs[name].shape[3] // 2].sum()
                (gradient,) = torch.autograd.grad(middle, x, retain_graph=True)
                fields[name] = gradient.square().sum(1).mean(0).numpy().astype(np.float32)
    finally:
        for handle in handles:
            handle.remove()
    return fields


def field_radii(field: NDArray[np.float32]) -> tuple[float, ...]:
    """Radii in pixels about the gradient's own middle that hold ``SHARES`` of it; NaN where it is 0."""
    weight = field.astype(np.float64)
    total = float(weight.sum())
    if total <= 0 or not math.isfinite(total):
        return tuple(math.nan for _ in SHARES)
    y, x = np.mgrid[: field.shape[0], : field.shape[1]]
    cy, cx = float((weight * y).sum() / total), float((weight * x).sum() / total)
    distance = np.hypot(y - cy, x - cx).ravel()
    order = np.argsort(distance, kind="stable")
    held = np.cumsum(weight.ravel()[order]) / total
    last = len(held) - 1
    return tuple(float(distance[order[min(last, int(np.searchsorted(held, share)))]]) for share in SHARES)


def spread_over(names: Sequence[str], most: int = FIELDS) -> list[str]:
    """At most so many names, spread evenly, the last among them."""
    if len(names) <= most:
        return list(names)
    return [names[round(step * (len(names) - 1) / (most - 1))] for step in range(most)]
