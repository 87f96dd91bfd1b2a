"""Several optimizers that step together, as one: matrices and the rest of a network are often fitted differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class ChainedOptimizer(torch.optim.Optimizer):
    """Optimizers over disjoint parameters, which step one after the other.

    Parameters
    ----------
    parts : sequence of Optimizer
        Their groups are the chain's: a rate that is set there holds here. A group's ``factor`` (default 1) is what the
        run's rate is multiplied by.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every part. Raises ``ValueError`` for a closure, which would be called several times."""
        if closure is not None:
            raise ValueError("a chain of optimizers takes no closure")
        for part in self.parts:
            part.step()
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def muon_and_adamw(
    model: nn.Module, matrices: Callable[[str], bool], *, factor: float, weight_decay: float, matrix_decay: float
) -> ChainedOptimizer:
    """Muon (orthogonalised momentum, arXiv 2502.16982) for matrices inside layers, AdamW for the rest.

    Parameters
    ----------
    model : Module
    matrices : callable (str) -> bool
        Whether Muon fits a parameter of two dimensions, by its name.
    factor : float
        Muon's rate over the run's.
    weight_decay, matrix_decay : float
        Of AdamW's parameters of several dimensions, and of Muon's; others have none.
    """
    kinds: dict[str, list[nn.Parameter]] = {"matrix": [], "table": [], "vector": []}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and matrices(name):
            kinds["matrix"].append(parameter)
        else:
            kinds["table" if parameter.ndim > 1 else "vector"].append(parameter)
    rest = [
        {"params": kinds["table"], "weight_decay": weight_decay},
        {"params": kinds["vector"], "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(kinds["matrix"], lr=1e-3, weight_decay=matrix_decay)
    for group in muon.param_groups:
        group["factor"] = factor
    return ChainedOptimizer([muon, torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98))])
