"""Flux attention: the parameters, checked. Specification: methods/flux-attention.md, sections 3 and 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .router import LayerRouter
from .xattention import XAttnRule

Mode = Literal["streaming", "triangle", "xattn"]
Route = Literal["sparse", "full", "auto"]


@dataclass(frozen=True)
class Settings:
    """The operator's parameters.

    Parameters
    ----------
    mode : {"streaming", "triangle", "xattn"}
        What sparse is.
    route : {"sparse", "full", "auto"}
        ``auto``: ``router`` decides for each sample, at prefill. With a router in training mode both kinds are computed
        and mixed, so that the decision has a gradient.
    sink, local, last : int, tokens
        Streaming: the first keys and the latest, rounded up to blocks. Triangle: that many last queries see all keys.
    block_size : int, tokens
    stride, threshold, xattn_rule, chunk
        Of ``xattn``, see ``xattention.select_blocks``. A larger threshold keeps more blocks.
    router : LayerRouter, optional
    router_input : Tensor [B, H, L, D], optional
        Queries before RoPE; None: ``q``, right only where q was not rotated.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    mode: Mode = "streaming"
    route: Route = "sparse"
    sink: int = 128
    local: int = 2048
    last: int = 128
    block_size: int = 128
    stride: int = 16
    threshold: float = 0.9
    xattn_rule: XAttnRule = "official"
    chunk: int = 16384
    router: LayerRouter | None = None
    router_input: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("streaming", "triangle", "xattn"):
            raise ValueError(f"mode is streaming, triangle or xattn, not {self.mode!r}.")
        if self.route not in ("sparse", "full", "auto"):
            raise ValueError(f"route is sparse, full or auto, not {self.route!r}.")
        if self.block_size < 1 or self.local < 1 or self.sink < 0 or self.last < 0:
            raise ValueError(
                f"block_size {self.block_size} and local {self.local} must be at least 1, sink {self.sink} and "
                f"last {self.last} not negative."
            )
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be in (0, 1], 0.9 is the method's.")
        if self.router is not None and not isinstance(self.router, LayerRouter):
            raise ValueError(f"router is {self.router!r}; a LayerRouter is needed.")

    @property
    def sink_blocks(self) -> int:
        return -(-self.sink // self.block_size)

    @property
    def local_blocks(self) -> int:
        return -(-self.local // self.block_size)
