"""LSUV: scale every layer until its output has unit variance on a batch of images.

Paper: Mishkin & Matas, "All you need is a good init" (ICLR 2016). Specification: methods/filter-design.md, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .layers import NORMS, Layer, find_layers
from .structured import orthogonal


@dataclass(frozen=True, slots=True)
class Scaled:
    """What LSUV did to one layer: variances of its output before and after, and how often it was scaled."""

    name: str
    before: float
    after: float
    iterations: int


def lsuv_(
    module: nn.Module, images: Tensor, *, std: float = 1.0, tol: float = 0.05, iterations: int = 10,
    skip_normalised: bool = False, generator: torch.Generator | None = None,
) -> list[Scaled]:  # fmt: skip
    """Orthonormal start (step 1), then unit variance (step 2), in place.

    Parameters
    ----------
    module : Module
        Called as ``module(images)``.
    images, std, tol, iterations, skip_normalised
        See `unit_variance_`.
    generator : Generator, optional
        Draws the orthonormal start.

    Returns
    -------
    list of Scaled, in the order in which the layers ran. Layers that did not run are not in it.

    Raises
    ------
    ValueError
        As `unit_variance_`.
    """
    with torch.no_grad():
        for layer in find_layers(module):
            blank = layer.blank(generator)
            if layer.is_offset:
                layer.write(blank.zero_())
                continue
            for group in blank:
                orthogonal(group, generator=generator)
            layer.write(blank)
    return unit_variance_(module, images, std=std, tol=tol, iterations=iterations, skip_normalised=skip_normalised)


def unit_variance_(
    module: nn.Module, images: Tensor, *, std: float = 1.0, tol: float = 0.05, iterations: int = 10,
    skip_normalised: bool = False,
) -> list[Scaled]:  # fmt: skip
    """Step 2: in forward order, W <- W / sqrt(v) while the variance v of a layer's output is not within ``tol`` of 1.

    One pass suffices: a hook scales each layer as it runs and hands on its new output, which the next layer then sees.
    Batch norms use the batch, as they will in training, and dropout is off; running statistics and modes come back.

    Parameters
    ----------
    module : Module
        Called as ``module(images)``, on the device of its weights.
    images : Tensor, shape (N, C, H, W)
        Prepared as in training; needs no labels.
    std : float
        The standard deviation to reach; the paper's is 1.
    tol : float
        Largest deviation of the variance, relative to ``std``^2.
    iterations : int
        Most rescalings of a layer.
    skip_normalised : bool
        Leave out layers that a normalisation layer follows in the order of definition.

    Returns
    -------
    list of Scaled

    Raises
    ------
    ValueError
        If a layer's output has variance 0 or no finite one (the layers before it are then already scaled), or the
        images hold NaN or infinity.
    """
    if not images.isfinite().all() or not images.numel():
        raise ValueError("images hold NaN or infinity, or nothing: LSUV needs a batch of finite images.")
    if not (std > 0 and math.isfinite(std)) or tol <= 0 or iterations < 1:
        raise ValueError(f"std {std}, tol {tol}, iterations {iterations}: all must be positive.")
    skipped = _normalised(module) if skip_normalised else set()
    layers = [layer for layer in find_layers(module) if not layer.is_offset and layer.name not in skipped]
    done: dict[str, Scaled] = {}

    def hook_of(layer: Layer) -> Callable[..., Tensor]:
        def hook(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            if layer.name in done:  # a layer that runs twice keeps the scale of its first run
                return output
            v = before = _variance(output, layer.name, std)
            count = 0
            while abs(v - 1) >= tol and count < iterations:
                layer.weight.detach().div_(math.sqrt(v))
                output = part.forward(*args, **kwargs)  # not part(...): that would run this hook again
                v = _variance(output, layer.name, std)
                count += 1
            done[layer.name] = Scaled(layer.name, before * std**2, v * std**2, count)
            return output

        return hook

    handles = [layer.module.register_forward_hook(hook_of(layer), with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad(), _as_in_training(module):
            module(images.to(device=layers[0].weight.device, dtype=layers[0].weight.dtype) if layers else images)
    finally:
        for handle in handles:
            handle.remove()
    return list(done.values())


def _variance(output: Tensor, name: str, std: float) -> float:
    """Biased variance over all elements in units of ``std``^2."""
    v = output.double().var(correction=0).item() / std**2
    if not math.isfinite(v):
        raise ValueError(f"{name}: its output on these images is not finite, so LSUV cannot scale it.")
    if v < torch.finfo(output.dtype).tiny:
        raise ValueError(
            f"{name}: the variance of its output is 0 on these images (a dead batch), so LSUV cannot scale it. "
            "Use other images, or another initialiser."
        )
    return v


def _normalised(module: nn.Module) -> set[str]:
    """Names of the layers that a normalisation layer follows in the order of definition."""
    leaves = [(name, part) for name, part in module.named_modules() if not list(part.children())]
    return {name for (name, _), (_, then) in pairwise(leaves) if isinstance(then, NORMS)}


@contextmanager
def _as_in_training(module: nn.Module) -> Iterator[None]:
    """Normalisation layers in training mode, all else in evaluation mode; modes and buffers restored afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        for part, _ in modes:
            part.training = isinstance(part, NORMS)
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
