"""What every recipe reports: one item with the best evaluation, the files of the run, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attn

from ..report.model import Item, Report, plain, summarise
from .loop import CURVE, METRICS, Outcome

MODEL, CARD = "model.safetensors", "model.md"


def training_report(
    recipe: str, data: str, output: Path, outcome: Outcome, *, device: str, seconds: float,
    details: Mapping[str, Any], metrics: Mapping[str, float] | None = None, files: Mapping[str, Path] | None = None,
    arguments: Mapping[str, Any] | None = None, notices: tuple[str, ...] = (),
) -> Report:  # fmt: skip
    """The report of a run.

    Parameters
    ----------
    recipe, data : str
    output : Path
        Folder of the run.
    outcome : Outcome
    device : str
    seconds : float
    details : mapping
        Options and what else the recipe has to say.
    metrics : mapping, optional
        More than those of the best evaluation.
    files : mapping, optional
        More than card, metrics and curve; only those that exist are listed.
    arguments : mapping, optional
        What the call was.
    notices : tuple of str
    """
    listed = {"card": output / CARD, "metrics": output / METRICS, "curve": output / CURVE, **(files or {})}
    item = Item(
        input=data, output=str(output / MODEL) if outcome.best else None, status="ok", seconds=seconds,
        metrics={k: v for k, v in outcome.best.items() if k != "seconds"} | dict(metrics or {}),
        files={name: str(path) for name, path in listed.items() if path.exists()}, warnings=outcome.warnings,
        details={"losses": [row["loss"] for row in outcome.history], **plain(details)},
    )  # fmt: skip
    summary = dict(summarise([item]))
    if outcome.interrupted:
        summary |= {"interrupted": True, "left": [data]}
    return Report(
        command="train", version=attn.__version__,
        arguments=dict(arguments or {"recipe": recipe, "data": data, "output": str(output)}), device=device,
        seconds=seconds, items=(item,), summary=summary, notices=notices,
    )  # fmt: skip
