"""Relevance from one logit back to the pixels, layer by layer.

Specification: methods/salient-relevance.md, section 3: the start is the logit of the class, not its softmax; every
layer's rule turns the relevance of its output into that of its input; a residual sum is split by what each branch gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .chain import ChainLayer, Link
from .composites import PropagationRules
from .rules import stabilised


@dataclass(frozen=True, slots=True)
class Conserved:
    """What a link kept of the relevance.

    Parameters
    ----------
    name, kind : str
        Of the module; ``"sum"`` of a residual block.
    above, below : float
        Sum of the relevance of its output, and of its input.
    """

    name: str
    kind: str
    above: float
    below: float


@dataclass(frozen=True, slots=True)
class Relevance:
    """What propagation found.

    Parameters
    ----------
    pixels : Tensor, shape (C, h, w)
        Relevance of every value of the input.
    logits : Tensor, shape (classes,)
    target : int
    layers : tuple of Conserved
        From the last link to the first.
    """

    pixels: Tensor
    logits: Tensor
    target: int
    layers: tuple[Conserved, ...]

    @property
    def conserved(self) -> float:
        """Relevance of the input over the logit it began with; NaN where that is 0."""
        start = float(self.logits[self.target])
        return float(self.pixels.double().sum()) / start if start else float("nan")


def propagate(links: Sequence[Link], rules: PropagationRules, x: Tensor, target: int | None = None) -> Relevance:
    """Relevance of a picture for a class.

    Parameters
    ----------
    links : sequence of links
        See ``chain.chain_of``.
    rules : PropagationRules
    x : Tensor, shape (1, C, h, w)
        As the model takes it.
    target : int, optional
        Default: the class with the highest logit.
    """
    with torch.no_grad():
        inputs = _inputs(links, x)
        logits = inputs[-1]
    chosen = int(logits[0].argmax()) if target is None else target
    relevance = torch.zeros_like(logits)
    relevance[0, chosen] = logits[0, chosen]
    told: list[Conserved] = []
    relevance = _back(links, inputs, rules, relevance, told, sees_picture=True)
    return Relevance(relevance[0], logits[0], chosen, tuple(told))


def _inputs(links: Sequence[Link], x: Tensor) -> list[Tensor]:
    """Input of every link, and the last one's output."""
    out = [x]
    for link in links:
        # ReLU in place would change what the layer before it gave
        out.append(link.run(out[-1].clone() if getattr(getattr(link, "module", None), "inplace", False) else out[-1]))
    return out


def _back(
    links: Sequence[Link], inputs: Sequence[Tensor], rules: PropagationRules, relevance: Tensor,
    told: list[Conserved], *, sees_picture: bool,
) -> Tensor:  # fmt: skip
    first = next((n for n, link in enumerate(links) if _is_weighted(link)), -1) if sees_picture else -1
    for number in reversed(range(len(links))):
        link, x = links[number], inputs[number]
        above = float(relevance.double().sum())
        if isinstance(link, ChainLayer):
            relevance = rules.of(link.module, first=number == first)(link.module, x, relevance).detach()
            kind = type(link.module).__name__
        else:
            relevance, kind = _split(link.branches, x, rules, relevance, told, sees_picture=number == first), "sum"
        told.append(Conserved(link.name, kind, above, float(relevance.double().sum())))
    return relevance


def _split(
    branches: Sequence[Sequence[Link]], x: Tensor, rules: PropagationRules, relevance: Tensor, told: list[Conserved], *,
    sees_picture: bool,
) -> Tensor:  # fmt: skip
    """R_a = R a / (a + b), and so for b; then back through each branch."""
    with torch.no_grad():
        inputs = [_inputs(branch, x) for branch in branches]
    share = relevance / stabilised(inputs[0][-1] + inputs[1][-1], rules.epsilon)
    parts = [
        _back(branch, values, rules, values[-1] * share, told, sees_picture=sees_picture)
        for branch, values in zip(branches, inputs, strict=True)
    ]
    return parts[0] + parts[1]


def _is_weighted(link: Link) -> bool:
    return not isinstance(link, ChainLayer) or bool(list(link.module.parameters()))


def gradient_times_input(links: Sequence[Link], x: Tensor, target: int) -> Tensor:
    """The plain peer: x times the derivative of the logit, [C, h, w]."""
    with torch.enable_grad():
        values = x.detach().clone().requires_grad_()
        y = values
        for link in links:
            y = link.run(y.clone() if getattr(getattr(link, "module", None), "inplace", False) else y)
        (slope,) = torch.autograd.grad(y[0, target], values)
    return (values.detach() * slope)[0]
