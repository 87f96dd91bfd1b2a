"""Batches and loss of the recipe: flow matching on drawn videos, at small grids first and at large ones in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ...attention.rectified.order import Video
from ...fit.chained import ChainedOptimizer, muon_and_adamw
from ...nets.video_flow import NEAREST, VideoFlow, VideoShape
from .drawing import draw_videos
from .options import MovingShapesOptions
from .tokens import TokenGrid

SMALL: tuple[Video, ...] = (
    (4, 8, 8), (8, 6, 6), (4, 8, 8), (16, 4, 4), (4, 8, 8), (2, 12, 12), (4, 8, 8), (1, 8, 32), (4, 8, 8), (1, 32, 8),
)  # fmt: skip
"""Grids of about 256 tokens, in turn: no place along an axis is new when the grid becomes large."""
MEDIUM: tuple[Video, ...] = ((8, 12, 12), (16, 8, 8), (4, 16, 16), (2, 16, 32), (8, 12, 12), (2, 32, 16))
"""About 1024."""
LARGE: tuple[Video, ...] = ((16, 16, 16), (8, 16, 32), (16, 16, 16), (4, 32, 32), (16, 16, 16), (8, 32, 16))
"""4096."""
TIME_MEAN, TIME_SPREAD = -0.6, 1.0
"""Of the logit of t at small grids. What a video shows is decided early, and the earlier the more tokens see it: the
noise of t goes with the square root of their number (arXiv 2403.03206, section 5.3.2)."""
MATRIX_FACTOR = 8.0
"""Muon's rate over AdamW's."""
JUDGED_AT = (0.2, 0.4, 0.6, 0.8)
_SALT, _HELD_OUT = 99001, 99002
"""First numbers of the seeds."""


class MovingShapesRecipe:
    """Flow matching of drawn videos.

    Parameters
    ----------
    options : MovingShapesOptions
    device : torch.device
    """

    score = "psnr"
    stalled_below = ("psnr", 15.0)

    def __init__(self, options: MovingShapesOptions, device: torch.device) -> None:
        self.options, self.device = options, device
        self.net = VideoFlow(VideoShape(options.width, options.layers, options.heads)).to(device)
        self.model: nn.Module = self.net

    def optimizer(self) -> ChainedOptimizer:
        """Muon for the matrices inside the layers, AdamW for the rest."""
        decay = self.options.weight_decay
        return muon_and_adamw(
            self.net, lambda name: name.startswith("layers.") and name.endswith(".weight"), factor=MATRIX_FACTOR,
            weight_decay=decay, matrix_decay=decay,
        )  # fmt: skip

    def stage(self, step: int) -> tuple[Video, int, float]:
        """Grid of a step, how many videos of it, and how much earlier they are decided than small ones."""
        options = self.options
        if step < options.steps:
            return SMALL[step % len(SMALL)], options.batch, 1.0
        step -= options.steps
        if step < options.medium_steps:
            return MEDIUM[step % len(MEDIUM)], max(1, options.batch // 4), 2.0
        return LARGE[(step - options.medium_steps) % len(LARGE)], 1, 4.0

    def loss(self, step: int) -> Tensor:
        """Squared error of the velocity."""
        grid, count, earlier = self.stage(step)
        rng = np.random.default_rng([_SALT, self.options.compute.seed, step])
        mean = TIME_MEAN - math.log(earlier)
        time = torch.sigmoid(mean + TIME_SPREAD * torch.from_numpy(rng.standard_normal(count)).float())
        error = self._error(rng, grid, time)
        return (error / (1 - time).clamp_min(NEAREST).square().to(error.device)).mean()

    def _error(self, rng: np.random.Generator, video: Video, time: Tensor) -> Tensor:
        """Squared error of clean videos as the network sees them through noise, [B]."""
        grid = TokenGrid.of(video, self.net.shape.patch)
        clean = draw_videos(rng, len(time), grid.pixels)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        x, noise, time = (tensor.to(self.device) for tensor in (grid.tokens(clean), grid.tokens(noise), time))
        t = time[:, None, None]
        seen: Tensor = self.net(t * x + (1 - t) * noise, grid.place.to(self.device), time)
        return (seen - x).square().mean((1, 2))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """``psnr`` in dB of clean videos of 4096 tokens as the network sees them through noise, at four times: the
        mean; ``psnr_small`` at 256 tokens."""
        assert model is self.model
        judged = {"psnr": (LARGE[0], self.options.judged), "psnr_small": (SMALL[0], 8 * self.options.judged)}
        found = {}
        for name, (video, count) in judged.items():
            rng = np.random.default_rng([_HELD_OUT, video[0]])
            error = torch.stack([self._error(rng, video, torch.full((count,), time)) for time in JUDGED_AT])
            found[name] = float(10 * (4 / error).log10().mean())  # pixels go from -1 to 1
        return found
