"""Augmentation of fundus photographs: one random view of a photo per call, all geometry in a single interpolation.

Specification: methods/fsg-net.md, section 5, for the kinds and ranges of ``PAPER``. The official code resizes, crops,
flips and warps one after the other; here the same changes are composed first and sampled once, which blurs less.
``ROBUST`` is ours: any orientation, other cameras' colours, illumination, blur, noise and JPEG, so that a model trained
on one camera works on another. ``CAMERAS`` goes further, for several sets of photos: see ``appearance``, too.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...segment.prepare import rescale

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly photos are changed; a probability of 0 turns a change off.

    Parameters
    ----------
    resize, aspect : (low, high)
        Factors on the size (drawn on a logarithmic scale), and on height over width where the size changes.
    resize_prob, rotate_prob, perspective_prob : float
        ``rotate`` turns by any angle; otherwise the view stays upright.
    perspective : float
        Tilt: corners move by up to about this share of half the side.
    flip_vertical : bool
        Left and right are always flipped with probability 0.5.
    jitter, jitter_prob, hue : float
        Brightness, contrast and saturation change by up to ``jitter``, hue by ``hue`` of the circle.
    blur_prob, blur : float, (low, high)
        Standard deviation of a Gaussian, pixels.
    gamma, gamma_prob, illumination, illumination_prob : float
        Exponent on intensities, 1 ± gamma; deviation of a smooth random brightness field (logarithmic).
    grey_prob, lose_prob : float
        Replace all channels by the green one; replace red or blue by a constant.
    noise, noise_prob, jpeg, jpeg_prob : float, float, (low, high), float
        Deviation of Gaussian noise, intensities in [0, 1]; JPEG quality.
    cut_mix_prob : float
        Paste a box of another photo.
    coarse, coarse_prob : (low, high), float
        What spoils the photo happens in pixels so many times as many a side as the view has.
    fade_prob, reflex, reflex_prob, spots_prob, narrow_prob : float
        See ``appearance``; ``reflex`` is its greatest brightness over that of the vessel.
    own_prob : float
        Normalise the view by what it shows itself, noise included, as a photo of that field would be.
    soft : bool
        Labels are the share of a pixel that is vessel; otherwise 0 or 1.
    """

    resize: Range = (0.5, 2.0)
    resize_prob: float = 0.8
    aspect: Range = (0.5, 2.0)
    rotate_prob: float = 0.0
    perspective: float = 0.5
    perspective_prob: float = 0.3
    flip_vertical: bool = False
    jitter: float = 0.2
    hue: float = 0.1
    jitter_prob: float = 0.8
    blur: Range = (0.8, 2.0)
    blur_prob: float = 0.5
    gamma: float = 0.0
    gamma_prob: float = 0.0
    illumination: float = 0.0
    illumination_prob: float = 0.0
    grey_prob: float = 0.0
    lose_prob: float = 0.0
    noise: float = 0.0
    noise_prob: float = 0.0
    jpeg: Range = (30, 90)
    jpeg_prob: float = 0.0
    cut_mix_prob: float = 0.8
    coarse: Range = (0.4, 1.0)
    coarse_prob: float = 0.0
    fade_prob: float = 0.0
    reflex: float = 0.0
    reflex_prob: float = 0.0
    spots_prob: float = 0.0
    narrow_prob: float = 0.0
    own_prob: float = 0.0
    soft: bool = False


PAPER = Augmentation()
ROBUST = Augmentation(
    resize=(0.65, 1.9), resize_prob=0.75, aspect=(0.87, 1.15), rotate_prob=1.0, perspective=0.15, perspective_prob=0.3,
    flip_vertical=True, jitter=0.25, hue=0.05, jitter_prob=0.7, blur=(0.4, 1.4), blur_prob=0.25, gamma=0.5,
    gamma_prob=0.4, illumination=0.12, illumination_prob=0.35, grey_prob=0.12, lose_prob=0.08, noise=0.05,
    noise_prob=0.3, jpeg=(20, 90), jpeg_prob=0.3, cut_mix_prob=0.0,
)  # fmt: skip
CAMERAS = replace(
    ROBUST, resize=(0.6, 2.0), noise=0.08, noise_prob=0.35, jpeg=(12, 90), jpeg_prob=0.35, blur_prob=0.3,
    coarse_prob=0.6, fade_prob=0.3, reflex=0.35, reflex_prob=0.3, spots_prob=0.25, narrow_prob=0.2,
    own_prob=0.3, soft=True,
)  # fmt: skip
AUGMENTATIONS = {"robust": ROBUST, "cameras": CAMERAS, "paper": PAPER}


class Draw:
    """Random numbers of one view, from a NumPy generator: the same seed gives the same view."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def chance(self, probability: float) -> bool:
        return bool(self.generator.random() < probability)

    def uniform(self, low: float, high: float) -> float:
        return float(self.generator.uniform(low, high))

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.generator.standard_normal(shape, dtype=np.float32))


def homography(draw: Draw, augmentation: Augmentation, crop: int, size: tuple[int, int]) -> Tensor:
    """Maps crop coordinates in [-1, 1] to photo coordinates in [-1, 1]: a random view, [3, 3]."""
    h, w = size
    scale = draw.log_uniform(*augmentation.resize) if draw.chance(augmentation.resize_prob) else 1.0
    aspect = math.sqrt(draw.log_uniform(*augmentation.aspect)) if scale != 1.0 else 1.0
    angle = draw.uniform(0, 2 * math.pi) if draw.chance(augmentation.rotate_prob) else 0.0
    flip_x = -1.0 if draw.chance(0.5) else 1.0
    flip_y = -1.0 if augmentation.flip_vertical and draw.chance(0.5) else 1.0
    warp = torch.eye(3, dtype=torch.float64)
    if draw.chance(augmentation.perspective_prob):
        warp[2, :2] = torch.tensor([draw.uniform(-1, 1), draw.uniform(-1, 1)]) * augmentation.perspective * 0.5
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
    half = torch.diag(
        torch.tensor([flip_x * crop / 2 / scale * aspect, flip_y * crop / 2 / scale / aspect, 1.0]).double()
    )
    # the centre lies anywhere in the round field of view from which most of the crop falls on it
    reach = max(0.0, min(h, w) / 2 - crop / 4 / scale) * math.sqrt(draw.uniform(0, 1))
    place = draw.uniform(0, 2 * math.pi)
    move = torch.eye(3, dtype=torch.float64)
    move[0, 2], move[1, 2] = reach * math.cos(place), reach * math.sin(place)
    to_unit = torch.diag(torch.tensor([2 / w, 2 / h, 1.0], dtype=torch.float64))
    return to_unit @ move @ turn @ half @ warp


def magnification(view: Tensor, crop: int, size: tuple[int, int]) -> float:
    """Pixels of the crop per pixel of a photo of ``size``, in the middle of a view: the root of the ratio of areas."""
    # of (x, y) / w at the origin, where w is 1 and (x, y) is the last column
    jacobian = view[:2, :2] - view[:2, 2:] * view[2:, :2]
    return crop / math.sqrt(float(jacobian.det().abs()) * size[0] * size[1])


def sample(layers: Tensor, view: Tensor, crop: int) -> Tensor:
    """See ``layers`` [C, H, W] through a homography: [C, crop, crop], zero outside the photo."""
    line = (torch.arange(crop, dtype=torch.float64) + 0.5) / crop * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1) @ view.T  # [crop, crop, 3]
    grid = (places[..., :2] / places[..., 2:]).float()
    return F.grid_sample(layers[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def recolour(draw: Draw, augmentation: Augmentation, images: list[Tensor]) -> list[Tensor]:
    """Change the colours of several pixel sets [3, ...] of one photo alike: pointwise changes only."""
    if augmentation.jitter_prob and draw.chance(augmentation.jitter_prob):
        j = augmentation.jitter
        bright, contrast, saturation = (draw.uniform(1 - j, 1 + j) for _ in range(3))
        mixing = hue_rotation(draw.uniform(-augmentation.hue, augmentation.hue))
        gains = 1 + 0.2 * j * draw.normal(3)
        middle = images[0].mean()
        images = [_jitter(x, bright, contrast, saturation, mixing, gains, middle) for x in images]
    if draw.chance(augmentation.gamma_prob):
        exponent = draw.log_uniform(1 / (1 + augmentation.gamma), 1 + augmentation.gamma)
        images = [x.clamp(min=0) ** exponent for x in images]
    if draw.chance(augmentation.grey_prob):
        images = [x[1:2].expand_as(x).clone() for x in images]
    elif draw.chance(augmentation.lose_prob):
        channel, level = (0, 1.0) if draw.chance(0.5) else (2, 0.0)
        images = [x.clone() for x in images]  # where nothing was changed before, they are the photo's own
        for x in images:
            x[channel] = level
    return [x.clamp(0, 1) for x in images]


def _jitter(
    x: Tensor, bright: float, contrast: float, saturation: float, mixing: Tensor, gains: Tensor, middle: Tensor
) -> Tensor:
    flat = (mixing @ x.reshape(3, -1)) * gains[:, None]
    grey = flat.mean(0, keepdim=True)
    flat = (grey + (flat - grey) * saturation) * bright
    return ((flat - middle) * contrast + middle).reshape(x.shape)


def hue_rotation(turns: float) -> Tensor:
    """Rotation of colours about the grey axis by ``turns`` of the circle, [3, 3]."""
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    third, root = (1 - cos) / 3, math.sqrt(1 / 3) * sin
    return torch.tensor(
        [[cos + third, third - root, third + root], [third + root, cos + third, third - root],
         [third - root, third + root, cos + third]], dtype=torch.float32,
    )  # fmt: skip


def degrade(draw: Draw, augmentation: Augmentation, image: Tensor) -> Tensor:
    """``worsen``, perhaps in the larger pixels of a camera that has fewer of them: [3, H, W] -> the same."""
    if not (augmentation.coarse_prob and draw.chance(augmentation.coarse_prob)):
        return worsen(draw, augmentation, image)
    size = (image.shape[1], image.shape[2])
    share = draw.log_uniform(*augmentation.coarse)
    return rescale(worsen(draw, augmentation, rescale(image, (round(size[0] * share), round(size[1] * share)))), size)


def worsen(draw: Draw, augmentation: Augmentation, image: Tensor) -> Tensor:
    """What optics, sensor and storage do to a photo [3, H, W]: uneven light, blur, noise, JPEG."""
    if draw.chance(augmentation.illumination_prob):
        coarse = draw.normal(1, 1, 3, 3) * augmentation.illumination
        field = F.interpolate(coarse, size=image.shape[-2:], mode="bicubic", align_corners=True)[0]
        image = image * field.exp()
    if draw.chance(augmentation.blur_prob):
        image = gaussian_blur(image, draw.uniform(*augmentation.blur))
    if draw.chance(augmentation.noise_prob):
        image = image + draw.normal(*image.shape) * draw.uniform(0, augmentation.noise)
    image = image.clamp(0, 1)
    if draw.chance(augmentation.jpeg_prob):
        image = through_jpeg(image, round(draw.uniform(*augmentation.jpeg)))
    return image


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """[C, H, W] with a separable kernel of three standard deviations; the border is reflected."""
    radius = max(1, math.ceil(3 * sigma))
    line = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(image.shape[0], 1, -1)
    padded = F.pad(image[None], (radius,) * 4, mode="reflect")
    out = F.conv2d(F.conv2d(padded, kernel[..., None], groups=len(image)), kernel[:, :, None], groups=len(image))
    return out[0]


def through_jpeg(image: Tensor, quality: int) -> Tensor:
    """[3, H, W] in [0, 1] as JPEG of a quality of 1 to 95 gives it back."""
    from PIL import Image

    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=quality)
    with Image.open(memory) as back:
        return torch.from_numpy(np.array(back)).permute(2, 0, 1).float() / 255
