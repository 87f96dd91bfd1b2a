"""Lightning attention: how fast each head forgets, and the operator's parameters. methods/lightning.md, section 3.4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..equations import accumulator
from .block import BLOCK

Decay = Literal["code", "paper", "none", "custom"]


def slopes(num_heads: int, *, layer: int = 0, num_layers: int = 1, decay: Decay = "code") -> Tensor:
    """Section 3.4. Decay exponents of the heads of one layer: lam = exp(-slope).

    Parameters
    ----------
    num_heads : int
        Any number; where it is no power of two the ALiBi rule fills up with slopes of the next power.
    layer, num_layers : int
        The first layer forgets fastest, the last hardly at all. One layer alone has factor 1.
    decay : {"code", "paper", "none"}
        ``code``: 2^(-8h/H) times (1 - l/(L-1) + 1e-5); ``paper``: (8h/H)(1 - l/L); ``none``: zeros.

    Returns
    -------
    Tensor [H], float32 (in bfloat16 lam^1000 would be wrong by percents).

    Raises
    ------
    ValueError
        If there is no such layer, head or decay.
    """
    if num_heads < 1 or not 0 <= layer < num_layers:
        raise ValueError(f"layer {layer} of {num_layers} with {num_heads} heads: need 0 <= layer < num_layers, heads.")
    if decay == "none":
        return torch.zeros(num_heads)
    if decay == "paper":
        return torch.arange(1, num_heads + 1) * (8.0 / num_heads) * (1 - layer / num_layers)
    if decay != "code":
        raise ValueError(f"decay is code, paper or none here, not {decay!r}; custom slopes are passed as slope=.")
    power = 1 << (num_heads.bit_length() - 1)
    exponents = [-8 * h / power for h in range(1, power + 1)]
    exponents += [-4 * h / power for h in range(1, 2 * power + 1, 2)][: num_heads - power]
    factor = 1.0 if num_layers == 1 else 1 - layer / (num_layers - 1) + 1e-5
    return torch.tensor([2.0**e * factor for e in exponents])


@dataclass(frozen=True, slots=True)
class LayerDecay:
    """Which slopes a layer has; see ``slopes``.

    Parameters
    ----------
    decay : {"code", "paper", "none"}
    layer, num_layers : int
    """

    decay: Decay = "code"
    layer: int = 0
    num_layers: int = 1

    def rate(self, num_heads: int, device: torch.device) -> Tensor:
        """The slopes of a call: float32 [H]. Raises ``ValueError`` if there is no such layer or decay."""
        return slopes(num_heads, layer=self.layer, num_layers=self.num_layers, decay=self.decay).to(device)


@dataclass(frozen=True, slots=True)
class Settings(LayerDecay):
    """Decay and blocks.

    Parameters
    ----------
    decay : {"code", "paper", "none", "custom"}
        ``custom``: ``slope``.
    slope : Tensor, one entry per query head, optional
        As of ``lightning_attention``.
    block_size : int
        Tokens per block; changes speed and rounding only.

    Raises
    ------
    ValueError
        If ``slope`` and ``decay="custom"`` do not come together.
    """

    slope: Tensor | None = None
    block_size: int = BLOCK

    def __post_init__(self) -> None:
        if (self.slope is not None) != (self.decay == "custom"):
            raise ValueError("decay='custom' and slope= go together: pass both or neither.")

    def rate(self, num_heads: int, device: torch.device) -> Tensor:
        """The slopes of a call, checked: float32 or float64 [H]."""
        if self.slope is None:
            return LayerDecay.rate(self, num_heads, device)
        return checked(self.slope, num_heads, device)


def checked(slope: Tensor, num_heads: int, device: torch.device) -> Tensor:
    """Slopes of any shape with one entry a head -> [H], at least float32."""
    if slope.numel() != num_heads:
        raise ValueError(f"slope {list(slope.shape)} for {num_heads} heads: one slope per query head is needed.")
    if slope.requires_grad and torch.is_grad_enabled():
        raise ValueError("slope has no gradient here: pass slope.detach(), so that nobody waits for one.")
    slope = slope.to(device=device, dtype=accumulator(slope.dtype)).reshape(-1)
    if not bool(((slope >= 0) & slope.isfinite()).all()):
        raise ValueError("slope must be finite and not negative: exp(-slope) is a decay.")
    return slope
