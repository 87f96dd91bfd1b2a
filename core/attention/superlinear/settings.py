"""Superlinear attention: the parameters, checked. Specification: methods/superlinear.md, sections 3 and 4."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .comb import UPSCALED_POWER, Comb, comb


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters.

    Parameters
    ----------
    num_spans : int
        Spans per query (k of the specification), 2 to 8. Time grows in proportion.
    sw_index : int
        Window index w: with the default comb (w + 1)^2 - 1 keys up to the query's own; 8 gives 80, 0 none.
    inv_search_power_int : int
        n of L^(1/n) anchors, 2 to 6. Larger: fewer anchors, wider gaps.
    search_power : float, optional
        Any power in (0, 1) instead of 1/n; excludes ``inv_search_power_int``.
    span_power, backward_factor, forward_factor : float
        A span reaches ``backward_factor * t ** span_power`` keys before its anchor and ``forward_factor * ..`` after
        it, t the number of keys the query sees.
    gate_scale : float
        Factor on the anchors' scores in the gate's softmax; 1 as published. Below 1 mixes the spans more evenly.
    accumulate : str, optional
        "ema:beta": search among exponential means of the keys, so that an anchor stands for the keys before it.
    preset : {"default", "upscaled"}
        "upscaled": search power 0.54, a denser comb.
    q_search : Tensor [B, Hq, Lq, D], optional
        Search queries of their own; default ``q``.
    routing_gradient : bool
        Whether the gates pass gradients, to the search queries and the keys searched among. Without, what is chosen
        and how it is mixed are constants; the result is the same.

    Raises
    ------
    ValueError
        If a parameter is out of range, or two exclude each other.

    References
    ----------
    methods/superlinear.md, section 3; arXiv 2601.18401.
    """

    num_spans: int = 3
    sw_index: int = 8
    inv_search_power_int: int = 2
    search_power: float | None = None
    span_power: float = 0.5
    backward_factor: float = 2.0
    forward_factor: float = 0.0
    gate_scale: float = 1.0
    accumulate: str | None = None
    preset: Literal["default", "upscaled"] = "default"
    q_search: Tensor | None = None
    routing_gradient: bool = True

    def __post_init__(self) -> None:
        if self.num_spans < 1:
            raise ValueError(f"num_spans is {self.num_spans}: at least one span per query is needed; 2 to 8 are usual.")
        if self.sw_index < 0:
            raise ValueError(f"sw_index is {self.sw_index}: use 0 for no window, 8 for 80 keys.")
        if not 2 <= self.inv_search_power_int <= 6:
            raise ValueError(f"inv_search_power_int is {self.inv_search_power_int}: use 2 to 6.")
        if self.search_power is not None and self.inv_search_power_int != 2:
            raise ValueError("search_power and inv_search_power_int exclude each other: give one of them.")
        if self.search_power is not None and not 0 < self.search_power < 1:
            raise ValueError(
                f"search_power is {self.search_power}: use a number between 0 and 1; 0.5 is the square root."
            )
        if not 0 < self.span_power < 1:
            raise ValueError(f"span_power is {self.span_power}: use a number between 0 and 1; 0.5 is the square root.")
        if not 0 < self.backward_factor < math.inf:
            raise ValueError(f"backward_factor is {self.backward_factor}: it must be positive; 2 leaves no gap.")
        if not 0 <= self.forward_factor < math.inf:
            raise ValueError(f"forward_factor is {self.forward_factor}: it must not be negative.")
        if self.preset not in ("default", "upscaled"):
            raise ValueError(f"preset is default or upscaled, not {self.preset!r}.")
        if self.preset == "upscaled" and (self.search_power is not None or self.inv_search_power_int != 2):
            raise ValueError(f"preset='upscaled' sets search_power to {UPSCALED_POWER}: give one of them.")

    def tables(self, len_q: int, len_k: int, device: torch.device | None = None) -> Comb:
        """The comb for the last ``len_q`` of ``len_k`` positions."""
        power = UPSCALED_POWER if self.preset == "upscaled" else self.search_power
        return comb(
            len_q, len_k, self.sw_index, self.inv_search_power_int, power, self.span_power, self.backward_factor,
            self.forward_factor, device,
        )  # fmt: skip

    def queries(self, q: Tensor) -> Tensor:
        """What searches: ``q_search``, or ``q``. Raises ``ValueError`` unless they look alike."""
        if self.q_search is None:
            return q
        if self.q_search.shape != q.shape or self.q_search.dtype != q.dtype:
            raise ValueError(
                f"q_search must look like q: {list(q.shape)} {q.dtype}, got {list(self.q_search.shape)} "
                f"{self.q_search.dtype}."
            )
        return self.q_search
