"""Zero-Shot Noise2Noise: a small convolutional network trained on two half-size views of the one noisy image.

Paper: Mansour and Heckel, CVPR 2023, arXiv 2303.11253. Specification: methods/filter2noise.md, section 6, "Peers".
``quality="paper"`` is the published recipe (2000 steps on the whole image). ``balanced`` and ``fast`` are ours: each
step sees one small random crop and costs a sixtieth of a published one at 512x512, at a higher learning rate that
falls along a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import FitOptions, Progress, Quality
from .filter2noise.fitted import check_image
from .filter2noise.method import downsample_pair

CHANNELS = 48
REACH = 2  # pixels that the network sees on each side
BAND_ROWS = 128  # rows filtered at a time: 48 channels of a large image at once would fill the memory


@dataclass(frozen=True, slots=True)
class ZSN2NRecipe:
    """How long to train, on what and how fast.

    Parameters
    ----------
    steps : int
        Optimisation steps.
    learning_rate : float
        Adam's, at the start.
    crop : int or None
        Side in pixels of the random crop that a step sees; None is the whole image.
    cosine : bool
        Let the learning rate fall along a cosine.
    halve_after : float
        Else halve it after this share of the steps: 1500 of 2000 as published.
    """

    steps: int
    learning_rate: float
    crop: int | None = None
    cosine: bool = False
    halve_after: float = 0.75


RECIPES: Mapping[Quality, ZSN2NRecipe] = {
    "paper": ZSN2NRecipe(2000, 1e-3),
    "balanced": ZSN2NRecipe(4000, 3e-3, crop=64, cosine=True),
    "fast": ZSN2NRecipe(1500, 3e-3, crop=48, cosine=True),
}


class Network(nn.Module):
    """Predicts the noise in an image [B, C, H, W]: two 3x3 convolutions and a 1x1, 21,313 parameters if C = 1."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv3 = nn.Conv2d(CHANNELS, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.2)  # [B, 48, H, W]
        x = F.leaky_relu(self.conv2(x), 0.2)
        noise: Tensor = self.conv3(x)  # [B, C, H, W]
        return noise


def objective(network: nn.Module, x: Tensor) -> Tensor:
    """L_res + L_cons of ``x`` [B, C, H, W]: the views predict each other and agree with the views of the result."""
    n1, n2 = downsample_pair(x)  # [B, C, H/2, W/2]
    d1, d2 = n1 - network(n1), n2 - network(n2)
    residual = (F.mse_loss(n1, d2) + F.mse_loss(n2, d1)) / 2
    c1, c2 = downsample_pair(x - network(x))
    consistency = (F.mse_loss(d1, c1) + F.mse_loss(d2, c2)) / 2
    return residual + consistency


def random_crop(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A window of at most ``size`` pixels a side of ``x`` [B, C, H, W], starting anywhere."""
    starts = [int(torch.randint(max(side - size, 0) + 1, (), generator=generator)) for side in x.shape[-2:]]
    return x[..., starts[0] : starts[0] + size, starts[1] : starts[1] + size]


def train(
    network: nn.Module, x: Tensor, recipe: ZSN2NRecipe, seed: int, progress: Progress | None = None
) -> list[float]:
    """Fit ``network`` to ``x`` [1, C, H, W] in place; gives the loss before each step."""
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(recipe.steps):
        done = step / recipe.steps
        factor = (1 + math.cos(math.pi * done)) / 2 if recipe.cosine else 0.5 if done >= recipe.halve_after else 1.0
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * factor
        optimiser.zero_grad(set_to_none=True)
        loss = objective(network, x if recipe.crop is None else random_crop(x, recipe.crop, generator))
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, recipe.steps)
    return losses


@torch.no_grad()
def apply(network: nn.Module, x: Tensor) -> Tensor:
    """clamp(D(x), 0, 1) of ``x`` [1, C, H, W], in bands of rows that overlap by what the network sees."""
    height = x.shape[-2]
    bands = []
    for top in range(0, height, BAND_ROWS):
        first = max(top - REACH, 0)
        band = x[..., first : min(top + BAND_ROWS + REACH, height), :]
        bands.append((band - network(band))[..., top - first :, :][..., :BAND_ROWS, :])
    return torch.cat(bands, dim=-2).clamp(0, 1)


class ZeroShotFilter:
    """A trained network; see `attn.core.denoise.base.Filter`. ``losses`` holds the loss before each step."""

    def __init__(self, network: Network, recipe: ZSN2NRecipe, losses: Sequence[float]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.steps, self.losses = recipe.steps, list(losses)
        self.parameters = sum(p.numel() for p in network.parameters())
        settings = {"learning_rate": recipe.learning_rate, "crop": float(recipe.crop or 0)}
        if losses:
            settings |= {"loss_first": self.losses[0], "loss_last": self.losses[-1]}
        self.settings: Mapping[str, float] = settings

    def __call__(self, image: Tensor) -> Tensor:
        """Denoise ``image`` [H, W] or [C, H, W] of floats in [0, 1]; same shape, dtype and device, clamped to [0, 1].

        Raises
        ------
        ValueError
            If it has not as many channels as the image that was trained on.
        """
        channels, trained = _channels(image), self.network.conv1.in_channels
        if len(channels) != trained:
            raise ValueError(f"the image has {len(channels)} channels, the filter was made for {trained}.")
        device = next(self.network.parameters()).device
        return apply(self.network, channels.float().to(device)[None])[0].view(image.shape).to(image)


def _channels(image: Tensor) -> Tensor:
    """[H, W] or [C, H, W] as [C, H, W]. Raises ``ValueError`` for anything else, and for values that are not finite."""
    channels = image if image.ndim == 3 else image[None]
    if not len(channels):
        raise ValueError(f"the image has no channels: {list(image.shape)}.")
    for channel in channels:
        check_image(channel)
    return channels


def fit(image: Tensor, options: FitOptions, progress: Progress | None = None) -> ZeroShotFilter:
    """Train on one image.

    Parameters
    ----------
    image : Tensor, shape (H, W) or (C, H, W), float32
        Noisy intensities in [0, 1]; both sides at least 4. Channels are denoised together, by one
        network. The last row or column of an odd side is not trained on.
    options : FitOptions
        ``quality``, ``steps``, ``learning_rate`` and ``seed`` matter.
    progress : callable, optional
        Called after each step with (steps done, steps in all).

    Returns
    -------
    ZeroShotFilter

    Raises
    ------
    ValueError
        If the image is neither [H, W] nor [C, H, W], has a side below 4, or values that are not finite.

    Notes
    -----
    The method assumes noise that is independent from pixel to pixel, which reconstructed CT violates.

    References
    ----------
    arXiv 2303.11253; methods/filter2noise.md, section 6.
    """
    channels = _channels(image)
    height, width = channels.shape[1:]
    if min(height, width) < 4:
        raise ValueError(f"zs-n2n needs at least 4 x 4 pixels, got {height} x {width}.")
    recipe = RECIPES[options.quality]
    recipe = replace(
        recipe,
        steps=recipe.steps if options.steps is None else options.steps,
        learning_rate=recipe.learning_rate if options.learning_rate is None else options.learning_rate,
    )
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialisation draws from the global generator
        torch.random.manual_seed(options.seed)
        network = Network(len(channels)).to(image.device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time on CPUs
    even = channels.float()[:, : height // 2 * 2, : width // 2 * 2]
    losses = train(network, even[None], recipe, options.seed, progress)
    return ZeroShotFilter(network, recipe, losses)
