"""Which rule each layer of a classifier gets: the released code's choice, ours, and the usual composites.

Specification: methods/salient-relevance.md, sections 3.2 and 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...errors import UsageError
from .chain import AVERAGES, MONOTONE, RESHAPES
from .rules import (
    Bounds,
    Rule,
    alpha_beta,
    box,
    flat,
    gamma,
    ratio,
    reshaped,
    weights_positive,
    winner,
    winner_overwritten,
)

Composite = Literal["official", "stable", "epsilon", "alpha2beta1", "epsilon-plus", "gamma-box"]
COMPOSITES: tuple[str, ...] = get_args(Composite)
OFFICIAL_EPSILON, EPSILON = 1e-9, 1e-6
GAMMA = 0.25
ALPHA, BETA = 2.0, 1.0


@dataclass(frozen=True, slots=True)
class PropagationRules:
    """The rules of a composite.

    Parameters
    ----------
    linear, convolution, first : Rule
        ``first`` is that of the layer that sees the picture.
    average, largest : Rule
        Of average and of max pooling.
    epsilon : float
        Of the shares at residual sums.
    """

    linear: Rule
    convolution: Rule
    first: Rule
    average: Rule
    largest: Rule
    epsilon: float

    def of(self, module: nn.Module, *, first: bool) -> Rule:
        """The rule of a layer. Raises ``UsageError`` for one of a kind that has none."""
        if isinstance(module, nn.Conv2d | nn.Linear) and first:
            return self.first
        for kinds, rule in (
            (nn.Linear, self.linear), (nn.Conv2d, self.convolution), (nn.MaxPool2d, self.largest),
            (AVERAGES, self.average), ((*RESHAPES, *MONOTONE), reshaped),
        ):  # fmt: skip
            if isinstance(module, kinds):
                return rule
        raise UsageError(f"{type(module).__name__} has no rule of relevance.")


def rules_of(composite: str, *, epsilon: float | None = None, bounds: Bounds | None = None) -> PropagationRules:
    """The rules that a composite's name means.

    Parameters
    ----------
    composite : str
        One of ``COMPOSITES``.
    epsilon : float, optional
        Default: 1e-9 of ``official``, else 1e-6.
    bounds : pair of Tensor, optional
        Lowest and highest value of a prepared picture; ``gamma-box`` needs them.

    Raises
    ------
    ValueError
        For another name, or without the bounds.
    """
    e = (OFFICIAL_EPSILON if composite == "official" else EPSILON) if epsilon is None else epsilon
    shares = partial(ratio, epsilon=e)
    plus = partial(alpha_beta, alpha=1.0, beta=0.0, epsilon=e)
    if composite == "official":
        unsigned = partial(ratio, epsilon=e, signed=False)
        return PropagationRules(
            partial(weights_positive, epsilon=e), unsigned, unsigned, unsigned,
            partial(winner_overwritten, epsilon=e), e,
        )  # fmt: skip
    if composite == "stable":
        # z+ of what is positive and of what is negative: on the linear layers of AlexNet and VGG, which see ReLU's
        # output, that is the official rule
        return PropagationRules(partial(plus, bias=False), shares, shares, shares, winner, e)
    both = partial(alpha_beta, alpha=ALPHA, beta=BETA, epsilon=e)
    of: dict[str, tuple[Rule, Rule]] = {
        "epsilon": (shares, shares),
        "alpha2beta1": (both, both),
        "epsilon-plus": (plus, flat),
        "gamma-box": (partial(gamma, rate=GAMMA, epsilon=e), _boxed(bounds, e)),
    }
    convolution, first = of[_known(composite)]
    return PropagationRules(shares, convolution, first, shares, winner, e)


def _boxed(bounds: Bounds | None, epsilon: float) -> Rule:
    def without(module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
        raise ValueError("gamma-box needs the bounds of a prepared picture")

    return without if bounds is None else partial(box, bounds=bounds, epsilon=epsilon)


def _known(composite: str) -> str:
    if composite not in COMPOSITES:
        raise ValueError(f"no rules named {composite!r}; there are {', '.join(COMPOSITES)}")
    return composite


def pixel_bounds(mean: tuple[float, ...], std: tuple[float, ...]) -> Bounds:
    """Black and white as a model sees them, [C, 1, 1] each."""
    of, by = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return -of / by, (1 - of) / by
