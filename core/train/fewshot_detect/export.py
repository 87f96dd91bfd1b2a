"""The adapted detector as a file, and its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...io.weights import read_weights, write_weights
from ...nets.center_periphery.prototypes import Prototypes
from ...options import values
from ...report.write import markdown_table
from .data import CLASSES
from .detector import ObjectDetector, ShapesDetector
from .options import PLAIN, RefinementOptions
from .recipe import refinement_of

FORM, VERSION = "attn-fewshot-detect", 1


def write_detector(detector: ObjectDetector, arm: str, options: RefinementOptions, path: Path) -> None:
    """The trained detector with its prototypes; its frozen backbone is the one that ships."""
    described = {"format": FORM, "version": VERSION, "modules": arm, "refinement": values(options)}
    write_weights(path, detector.state_dict(), described)


def read_detector(path: Path) -> ShapesDetector:
    """A detector of ``write_detector``, in eval mode. Raises ``UsageError`` for another file."""

    def build(described: dict[str, Any], state: dict[str, torch.Tensor]) -> ShapesDetector:
        options, arm = RefinementOptions(**described["refinement"]), described["modules"]
        detector = ShapesDetector(len(CLASSES), refinement_of(arm, options))
        held = {name.removeprefix("refinement."): value.float() for name, value in state.items()}
        if arm != PLAIN:
            levels = range(len(detector.strides))
            detector.refinement.load(Prototypes(  # type: ignore[operator]
                tuple(held[f"foreground_{level}"] for level in levels),
                tuple(held[f"background_{level}"] for level in levels), held["known"].bool(),
            ))  # fmt: skip
        detector.load_state_dict(state)
        return detector.eval()

    return read_weights(path, FORM, VERSION, build, what="detector of attn. `attn train fewshot-detect` makes one")


def card(facts: Mapping[str, Any], size: int) -> str:
    """The model card, Markdown."""
    return "\n".join([
        "# fewshot-detect", "",
        f"A detector of six drawn shapes, moved to a shifted domain with {facts['shots']} boxes of each class",
        f"({facts['modules']}). It knows nothing of photographs. No official code of the method was found: it is made",
        "from notes on the paper, arXiv 2603.18541.", "",
        f"- {size} bytes, float16, prototypes among them; the frozen backbone is the image tower of `shapes`.",
        "- Trained on scenes that attn draws; no data of others. MIT licence, as attn.",
        *(f"- {line}" for line in facts["said"]),
        f"- Options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s.", "",
        "Target pictures; means, and deviations over support sets:", "",
        *markdown_table(facts["rows"], digits=4),
    ])  # fmt: skip
