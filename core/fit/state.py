"""Where a run is, and the checkpoint that holds it: after a kill the run goes on as if it had not been killed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..io.atomic import atomic_path
from ..io.kinds import open_regular
from ..options import OptionError

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"


@dataclass(slots=True)
class State:
    """Where a run is."""

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Learner:
    """All that changes from step to step.

    Parameters
    ----------
    model : Module
    optimizer : Optimizer
    averaged : dict of str to Tensor
        Running mean of the model's state.
    scaler : GradScaler
        Of float16 gradients.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: dict[str, Tensor]
    scaler: torch.amp.GradScaler

    def load(self, saved: Mapping[str, Any]) -> State:
        """Go on from a checkpoint's content."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name, value in saved["averaged"].items():
            self.averaged[name].copy_(value)
        if scaler := saved.get("scaler"):
            self.scaler.load_state_dict(scaler)
        return State(**saved["state"])

    def save(self, path: Path, identity: Mapping[str, Any], state: State) -> None:
        """Write the checkpoint, atomically."""
        with atomic_path(path) as temporary:
            save_tensors(
                {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "averaged": dict(self.averaged), "scaler": self.scaler.state_dict(), "identity": dict(identity),
                 "state": asdict(state)},
                temporary,
            )  # fmt: skip


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """``torch.save``, which hides that a disk is full behind an error of its own. Raises ``OSError``."""
    with open(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def plain_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """``identity`` as a checkpoint gives it back."""
    out: dict[str, Any] = json.loads(json.dumps(dict(identity), sort_keys=True, default=str))
    return out


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises
    ------
    InputError
        If it cannot be read.
    OptionError
        If it is another run's.
    """
    try:
        with open_regular(path) as file:
            saved: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        theirs, _, _, _ = (saved[key] for key in ("identity", "model", "optimizer", "averaged"))
        State(**saved["state"])
    except Exception as error:  # torch.load raises anything on damaged files
        raise InputError(path, "is no checkpoint that can be resumed", "Delete it, or restart the run") from error
    if differing := [key for key in identity if theirs.get(key) != identity[key]]:
        key = differing[0]
        raise OptionError(
            f"{path.parent} holds another run ({key} was {theirs.get(key)}, now {identity[key]}). "
            "Name another {output}, or give {restart} to begin anew."
        )
    return saved


def load_best(path: Path, model: nn.Module) -> None:
    """The best averaged weights into ``model``. Raises ``InputError`` where the file holds none of it."""
    try:
        with open_regular(path) as file:
            model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    except Exception as error:  # torch.load raises anything on damaged files
        raise InputError(path, "holds no weights of this run", "Delete it, or restart the run") from error
