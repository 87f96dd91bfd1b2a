"""LARS: momentum whose step is, matrix by matrix, a share of the matrix's own norm (arXiv 1708.03888).

Specification: methods/efficient-probing.md, section 5, step 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn


class Lars(torch.optim.Optimizer):
    """LARS as probes are trained with it: vectors have neither decay nor scaling.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr, weight_decay, momentum : float
    trust : float
        Share of a parameter's norm that its gradient is scaled to.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. Raises ``ValueError`` for a closure."""
        if closure is not None:
            raise ValueError("LARS takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:
                    continue
                if parameter.ndim > 1:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                    own, change = parameter.norm(), gradient.norm()
                    scale = torch.where((own > 0) & (change > 0), group["trust"] * own / change, torch.ones_like(own))
                    gradient = gradient * scale
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(gradient)
                parameter.sub_(group["lr"] * state["momentum"])
        return None
