"""VFlowOpt: an optimised strategy against the plain one at the same budget (methods/vflowopt.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn.core.bundles import Compute
from attn.core.progress import Silent
from attn.core.prune.calibration import CalibrationOptions
from attn.core.prune.data.read import read_samples
from attn.core.prune.options import ModelChoice
from attn.core.prune.shapes.words import NUMBER
from attn.core.prune.vflowopt.calibrate import calibrate_vflowopt
from attn.core.prune.vflowopt.held_out import against_plain
from attn.core.prune.vflowopt.options import FlowOptions
from attn.core.prune.vflowopt.strategy import FlowStrategy, read_strategy

SAMPLES = 30


@dataclass(frozen=True)
class Flowed:
    """Of one strategy, each question [n]: cosine of the last token, KL to the whole model in nats, right or wrong; and
    the counted share."""

    share: float
    cosine: NDArray[np.float64]
    kl: NDArray[np.float64]
    right: NDArray[np.bool_]


def strategy(model: str, folder: Path, seed: int, share: float) -> FlowStrategy:
    """What a search on drawn questions of all tasks finds."""
    path = folder / f"strategy-{share:g}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        common = CalibrationOptions(
            f"shapes:{seed}x{SAMPLES}", path, ModelChoice(model), compute=Compute(device="cpu", seed=0, threads=1)
        )
        calibrate_vflowopt(FlowOptions(common, keep=share), watcher=Silent())
    return read_strategy(path)


def compared(loaded: Any, found: FlowStrategy, count: int, seed: int) -> dict[str, Flowed]:
    """The strategy, the plain one, mean attention and random choices on held-out questions of all tasks."""
    samples = read_samples(f"shapes:{seed}x{count}")
    right = np.array([NUMBER[str(sample.answer)] for sample in samples])
    held = against_plain(loaded, found, samples)
    before = held["all"].logits.log_softmax(-1)
    out = {}
    for name, one in held.items():
        after = one.logits.log_softmax(-1)
        kl = (before.exp() * (before - after)).sum(-1).double().numpy()
        out[name] = Flowed(one.retention, one.cosine, kl, one.logits.argmax(-1).numpy() == right)
    return out
