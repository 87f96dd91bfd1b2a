"""Videos from noise, with dense or with sparse attention, and how far the second are from the first.

Specification: methods/rectified-spaattn.md, section 3.6 (dense attention in the first layers and steps).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...attention.rectified.operator import OPERATOR, select
from ...attention.rectified.order import Video, neighbour_blocks
from ...nets.video_flow import NEAREST, Attend, VideoFlow, dense
from .tokens import TokenGrid

SHIFT, SHIFT_TOKENS = 2.0, 256
"""How much closer together the steps are near the noise, where a video of so many tokens is decided; it goes with the
square root of their number (arXiv 2403.03206, section 5.3.2)."""
_SALT = 99003


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Which attention a sampler runs where.

    Parameters
    ----------
    gapr : {"on", "off", "all"}
        Rectified; rectified without the gain test; plain block-sparse attention.
    dense_layers, dense_steps : int
        The first ones, whose attention is dense.
    drop_rate, tau_p, block_size :
        Of the operator.
    """

    gapr: Literal["on", "off", "all"] = "on"
    dense_layers: int = 0
    dense_steps: int = 0
    drop_rate: float = 0.9
    tau_p: float = 0.3
    block_size: int = 64


class SparseAttention:
    """``Attend`` of the layers behind the dense ones, for tokens along a Gilbert curve.

    Attributes
    ----------
    pairs : int
        Pairs of tokens that calls attended to, dense ones too.
    """

    def __init__(self, sparsity: Sparsity, video: Video) -> None:
        self.sparsity, self.pairs = sparsity, 0
        self.settings: dict[str, Any] = {
            "gapr": sparsity.gapr, "drop_rate": sparsity.drop_rate, "tau_p": sparsity.tau_p,
            "block_size": sparsity.block_size,
            "neighbours": neighbour_blocks("gilbert", video, sparsity.block_size),
        }  # fmt: skip

    def at(self, step: int) -> Attend:
        """What attends in a step of the sampler."""
        return self._dense if step < self.sparsity.dense_steps else self._sparse

    def _dense(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.pairs += q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
        return dense(layer, q, k, v)

    def _sparse(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer < self.sparsity.dense_layers:
            return self._dense(layer, q, k, v)
        chosen = select(q, k, **self.settings)
        self.pairs += chosen.useful
        return OPERATOR.attend(q, k, v, chosen, **self.settings)


def noise_of(seed: int, grid: TokenGrid, channels: int) -> Tensor:
    """Noise of a video, [1, frames, rows, columns, channels]: the same pixels whatever the order of tokens."""
    rng = np.random.default_rng([_SALT, seed])
    return torch.from_numpy(rng.standard_normal((1, *grid.pixels, channels), dtype=np.float32))


def times(steps: int, tokens: int) -> list[float]:
    """t of every step and of the end, from 0 to 1, for a video of so many tokens."""
    shift = SHIFT * math.sqrt(tokens / SHIFT_TOKENS)
    return [t / (t + shift * (1 - t)) for t in (step / steps for step in range(steps + 1))]


@torch.inference_mode()
def sample(net: VideoFlow, noise: Tensor, grid: TokenGrid, steps: int, sparse: SparseAttention | None = None) -> Tensor:
    """Videos [B, frames, rows, columns, C] in [-1, 1], by Euler's method.

    Parameters
    ----------
    net : VideoFlow
    noise : Tensor, like the result
    grid : TokenGrid
    steps : int
    sparse : SparseAttention, optional
        Behind its first dense steps; None: dense attention everywhere.
    """
    z, place = grid.tokens(noise), grid.place.to(noise.device)
    for step, (now, then) in enumerate(itertools.pairwise(times(steps, len(place)))):
        clean = net(z, place, z.new_full((len(z),), now), dense if sparse is None else sparse.at(step))
        z = z + (then - now) / max(1 - now, NEAREST) * (clean - z)
    return grid.videos(z).clamp(-1, 1)


def psnr(video: Tensor, reference: Tensor) -> float:
    """Peak signal to noise in dB of pixels in [-1, 1]; infinite where they are equal."""
    return float(10 * (4 / (video - reference).square().mean()).log10())


def ground_alone(video: Tensor) -> Tensor:
    """Videos [B, ..., C] of nothing but the median colour of each: what a sampler that loses all shapes would make."""
    ground = video.flatten(1, -2).median(1).values
    return ground.view(len(video), *[1] * (video.ndim - 2), -1).expand_as(video)
