"""Settings of VFlowOpt that belong to one model and budget, as a file (methods/vflowopt.md, sections 1 and 3.6)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...io.atomic import write_text
from ...io.records import json_file
from ..data.marks import check_unseen
from ..data.samples import QuestionSample

METHOD = "vflowopt"
_NUMBERS = ("keep", "t", "alpha", "side", "first", "second")


@dataclass(frozen=True, slots=True)
class FlowStrategy:
    """What a search found.

    Parameters
    ----------
    keep : float
        Mean share of the visual tokens over all layers that it is for.
    t, alpha, side, first, second : float
        t, alpha, a, R1 and R2 of the specification.
    third : float or None
        R3; None: what is left of the budget, counted in each prompt.
    layers : (int, int)
        In front of which stages 2 and 3 are.
    vision_layer : int
        Of the image tower, from 0.
    reduce : str
    stage1_positions : str
        See ``VFlowOpt``; a file that does not say was found with ``keep``.
    pixel_mean, pixel_std : tuple of 3 float
        Of the model's image processor: entropy is that of true grey values.
    model : str
        Fingerprint of the weights; empty: any.
    split : tuple of str
        Marks of the samples it was found on (``marks.mark_of``): none of them may be evaluated on.
    found : mapping
        How it was found, for people.
    """

    keep: float
    t: float
    alpha: float
    side: float
    first: float
    second: float
    third: float | None
    layers: tuple[int, int]
    vision_layer: int
    reduce: str = "mean"
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    model: str = ""
    split: tuple[str, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)
    stage1_positions: str = "keep"

    def write(self, path: Path) -> None:
        """As JSON, atomically."""
        content = {"method": METHOD, **dataclasses.asdict(self)}
        write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def fits(self, fingerprint: str) -> bool:
        """Whether it was found for these weights; so is one, or weights, of which that is not known."""
        return not self.model or not fingerprint or self.model == fingerprint

    def check_held_out(self, samples: Iterable[QuestionSample]) -> None:
        """Raises ``UsageError`` if a sample is one that it was found on: its score would be none of unseen samples.

        A picture that cannot be read is none of them.
        """
        check_unseen(samples, self.split, "the strategy was found on")


def read_strategy(path: Path) -> FlowStrategy:
    """What ``attn prune calibrate vflowopt`` wrote. Raises ``InputError`` if it is nothing of that kind."""
    content = json_file(path)
    known = {one.name for one in dataclasses.fields(FlowStrategy)}
    if not isinstance(content, dict) or content.get("method") != METHOD:
        raise InputError(path, "is no strategy of vflowopt", "Make one with `attn prune calibrate vflowopt`")
    values = {name: value for name, value in content.items() if name in known}
    try:
        for name in _NUMBERS:
            values[name] = float(values[name])
        for name in ("pixel_mean", "pixel_std", "split"):
            values[name] = tuple(values.get(name, ()))
        second, third = (int(layer) for layer in values["layers"])
        values["layers"] = (second, third)
        strategy = FlowStrategy(**values)
        finite = np.isfinite([getattr(strategy, name) for name in _NUMBERS]).all()
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(path, f"is no complete strategy of vflowopt ({error})", "Make it again") from None
    if not finite or strategy.side < 1 or not 0 < strategy.first <= 1 or not 0 < strategy.second <= 1:
        raise InputError(path, "holds a share that is not above 0 and up to 1, or a cell below 1", "Make it again")
    return strategy
