"""The small model as a file, and what is said of a run's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...io.weights import check_architecture, read_weights, write_weights
from ...nets.masked_diffusion import MaskedDiffusionShape, MaskedDiffusionTransformer
from ...report.sections import Row
from ...report.write import markdown_table
from .sums import LONGEST, PROMPT, VOCABULARY

FORMAT, VERSION = "attn-masked-diffusion", 1
SHAPE = MaskedDiffusionShape(VOCABULARY, 96, 4, 3, PROMPT + LONGEST)
"""Of the small model; positions for long traces, too."""


def write_small(path: Path, net: MaskedDiffusionTransformer, facts: Mapping[str, Any]) -> None:
    """Write a model file, atomically; float16."""
    described = {"format": FORMAT, "version": VERSION, "architecture": asdict(net.shape), "training": dict(facts)}
    write_weights(path, net.state_dict(), described)


def read_small(path: Path) -> MaskedDiffusionTransformer:
    """The network of a model file of ``write_small``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> MaskedDiffusionTransformer:
        shape = MaskedDiffusionShape(**described["architecture"])
        check_architecture(described["architecture"], lambda: MaskedDiffusionTransformer(shape), state)
        net = MaskedDiffusionTransformer(shape)
        net.load_state_dict(state)
        return net

    return read_weights(path, FORMAT, VERSION, build, what="masked diffusion model of attn train igpo")


def card(facts: Mapping[str, Any], rows: Sequence[Row], size: int, *, small: bool) -> str:
    """The model card, Markdown."""
    what = (
        "A small masked diffusion language model that adds two-digit numbers step by step, made to measure whether "
        "planted hints help where every sample is wrong; it knows nothing else."
        if small
        else "A masked diffusion language model after policy optimisation; a folder of transformers (LLaMA with "
        "attention to both sides). Licence and limits are those of the model it began as."
    )
    return "\n".join([
        f"# Masked diffusion language model, {facts['method']}", "", what, "",
        f"- {size} bytes; data: {facts['data']}.",
        f"- Options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s for all stages.", "",
        f"Accuracy at temperature 0 on held-out questions ({facts['judged']} of each kind); all_wrong, rescued: groups",
        "of stage 2. Measured before the weights were rounded to what the file holds.", "",
        *markdown_table(rows, digits=4),
    ])  # fmt: skip
