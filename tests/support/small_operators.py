"""Every operator that is installed, with parameters with which it leaves something out at 256 tokens."""

from __future__ import annotations

from typing import Any

from attn.core.attention import operators
from attn.core.attention.registry import OPERATORS

NAMES = [name for name in operators() if not OPERATORS[name].missing()]
SMALL: dict[str, dict[str, Any]] = {name: dict(OPERATORS[name].resolve().small) for name in NAMES}


def arguments(name: str, grid: tuple[int, int] = (16, 16)) -> dict[str, Any]:
    """Keyword arguments of a call."""
    operator = OPERATORS[name].resolve()
    return {"causal": operator.causal[0], **({"grid": grid} if operator.grid else {}), **SMALL[name]}
