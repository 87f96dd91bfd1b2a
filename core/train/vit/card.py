"""The model card of a pruned ViT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...prune.vit.trained import TrainedViT
from ...report.write import markdown_table


def card(title: str, model: TrainedViT, rows: Sequence[Mapping[str, Any]], size: int) -> str:
    """Markdown, with the table of models side by side."""
    facts = model.training
    counts = ", ".join(f"{n} {split}" for split, n in facts["pictures"].items())
    lines = [
        f"# {title}", "",
        "An image classifier that leaves out what it does not need, for `attn prune --model FILE`.", "",
        f"- Network: {model.shape}",
        f"- Settings: {dict(model.settings)}",
        f"- Trained on `{facts['data']}`: pictures {counts}. The terms of that data set apply to what is made from it.",
        f"- Classes: {', '.join(model.classes[:60])}",
        f"- Options: {facts['options']}",
        f"- Notes: {'; '.join(facts['notes']) or 'none'}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s; {size} bytes, float16", "",
        "On the test pictures:", "",
        *markdown_table(rows, digits=4),
    ]  # fmt: skip
    return "\n".join(lines)
