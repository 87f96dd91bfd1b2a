"""A model with its weights drawn anew, for the length of a ``with`` block.

Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018 (arXiv 1810.03292), cascading randomisation: a
map that stays what it was when the weights are gone has not shown what the model learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...errors import UsageError


@contextmanager
def randomised(model: nn.Module, seed: int) -> Iterator[None]:
    """The model with all its weights drawn anew; on leaving, also through an exception, they are back to the bit.

    A weight is drawn from the normal distribution: a matrix or kernel with mean 0 and the root mean square of its own
    tensor, a vector with mean and standard deviation of its own. Signals keep their scale, so that a map that changes
    does not do so because the model fell silent; a matrix with its small mean kept would silence every ReLU behind a
    layer of many positive inputs. A tensor of one value (biases of 0, gains of 1) stays as it is, and so do buffers
    (running statistics).

    Parameters
    ----------
    model : Module
        Not to be used from another thread meanwhile.
    seed : int
        The same seed gives the same weights on every device.

    Raises
    ------
    UsageError
        If its weights are no floating-point numbers (quantised).
    """
    with cascade(model, seed) as layers:
        for _ in layers:
            pass
        yield


@contextmanager
def cascade(model: nn.Module, seed: int) -> Iterator[Iterator[str]]:
    """Randomise layer by layer, from the top down: each step of the iterator that is given draws one layer more.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> with cascade(model, seed=0) as layers:
    ...     list(layers)
    ['1', '0']

    Parameters, raises: see ``randomised``. The layers that the iterator was not asked for keep their weights.
    """
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise UsageError(
                f"{name} is {weight.dtype}: weights that are no floating-point numbers cannot be drawn anew."
            )
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield _drawn(weights, seed)
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])


def layers_of(names: Iterator[str] | list[str]) -> dict[str, list[str]]:
    """Names of parameters by the layer they belong to, bottom to top, as the model defines them.

    A layer is a numbered module (``encoder.layer.3``); what is in none, the module that holds the parameter.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        numbered = re.match(r"(?:.*?\.)?\d+(?=\.)", name)
        layers.setdefault(numbered[0] if numbered else name.rpartition(".")[0], []).append(name)
    return layers


def _drawn(weights: dict[str, nn.Parameter], seed: int) -> Iterator[str]:
    generator = torch.Generator().manual_seed(seed)
    for layer, names in reversed(layers_of(list(weights)).items()):
        for name in names:
            weight = weights[name]
            with torch.no_grad():
                weight.copy_(_alike(weight, generator))
        yield layer


def _alike(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of the scale of a tensor, see ``randomised``; one that is constant stays itself."""
    values = weight.detach().double().cpu()
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    if not values.numel() or values.std(correction=0) == 0:
        return weight
    if values.ndim > 1:
        return (values.square().mean().sqrt() * noise).to(weight.dtype)
    return (values.mean() + values.std(correction=0) * noise).to(weight.dtype)
