"""Every operator that is installed, with parameters with which it leaves something out at 256 tokens."""

from __future__ import annotations

from typing import Any

from attn.core.attention import operators
from attn.core.attention.registry import OPERATORS

SMALL: dict[str, dict[str, Any]] = {
    "hip": {"mask_k": 32, "sliding_window": 32, "sink": 4},
    "dsa": {"top_k": 32},
    "hisa": {"top_k": 32, "block_size": 16, "top_blocks": 4},
    "superlinear": {"sw_index": 3},
    "flux": {"sink": 16, "local": 64, "block_size": 16},
    "rectified": {"block_size": 16, "drop_rate": 0.7},
    "bra": {"n_win": 4, "topk": 2},
    "halo": {"block_size": 4, "halo": 1},
    "sparsifiner": {"reduce_n": 8},
    "window+sink": {"window": 32},
    "blocktopk": {"block_size": 16, "top_k": 4},
    "oracle": {"top_k": 32},
    "flex": {"window": 32},
}
NAMES = [name for name in operators() if not OPERATORS[name].missing()]


def arguments(name: str, grid: tuple[int, int] = (16, 16)) -> dict[str, Any]:
    """Keyword arguments of a call."""
    operator = OPERATORS[name].resolve()
    return {"causal": operator.causal[0], **({"grid": grid} if operator.grid else {}), **SMALL.get(name, {})}
