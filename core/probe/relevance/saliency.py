"""Context-aware saliency: which patches of a picture are unlike all others, and what lies near them.

Source: Goferman, Zelnik-Manor, Tal, "Context-Aware Saliency Detection", CVPR 2010, TPAMI 2012. Specification:
methods/salient-relevance.md, section 3.4, whose steps the functions name. The picture here is a heat map of relevance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

SMALLEST_SCALE = 0.2
"""Candidates of smaller scales are left out, the own scale's never."""
ROWS = 512
"""Patches whose distances to all candidates are held at once."""


@dataclass(frozen=True, slots=True)
class SaliencySettings:
    """Sizes and weights; the paper's.

    Parameters
    ----------
    max_side : int
        Longer side that the picture is brought to, in pixels.
    patch, stride : int
        In pixels of each scale.
    nearest : int
        K: most similar patches that a patch is compared to.
    position : float
        c: how much distance in the picture makes of distance in colour.
    scales : sequence of float
    focus : float
        Share of the largest saliency above which a pixel is a focus of attention.
    """

    max_side: int = 250
    patch: int = 7
    stride: int = 3
    nearest: int = 64
    position: float = 3.0
    scales: Sequence[float] = (1.0, 0.8, 0.5, 0.3)
    focus: float = 0.8


@dataclass(frozen=True, slots=True)
class Saliency:
    """What was found, on the resized picture of (H, W) pixels.

    Parameters
    ----------
    patch_maps : tuple of Tensor [h_r, w_r]
        Step 6, one value per patch of each scale.
    scale_maps : tuple of Tensor [H, W]
        Step 7.
    mean, final : Tensor [H, W]
        Of step 7, and of step 8 in [0, 1].
    """

    patch_maps: tuple[Tensor, ...]
    scale_maps: tuple[Tensor, ...]
    mean: Tensor
    final: Tensor


def context_saliency(rgb: Tensor, settings: SaliencySettings | None = None) -> Saliency:
    """Saliency of a picture.

    Parameters
    ----------
    rgb : Tensor, shape (3, h, w), in [0, 1]
    settings : SaliencySettings, optional
    """
    s = settings or SaliencySettings()
    height, width = rgb.shape[1:]
    scale = s.max_side / max(height, width)
    size = (max(s.patch, round(height * scale)), max(s.patch, round(width * scale)))  # step 1
    lab = lab_of(resized(rgb, size))  # step 2
    lab = lab - lab.mean((1, 2), keepdim=True)  # distances stay; small ones are not lost among large norms
    patch_maps, scale_maps = [], []
    for r in s.scales:
        patches, centres, grid = patches_of(lab, r, s)  # step 3
        parts = [patches_of(lab, q, s)[:2] for q in _candidates(r, size, s)]  # step 4
        values = dissimilarity(patches, centres, torch.cat([p for p, _ in parts]), torch.cat([c for _, c in parts]), s)
        patch_maps.append(values.view(grid))
        scale_maps.append(resized(values.view(1, *grid), size)[0])  # step 7
    mean = torch.stack(scale_maps).mean(0)
    return Saliency(tuple(patch_maps), tuple(scale_maps), mean, with_context(scale_maps, s.focus))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, h, w] to [C, H, W], bilinear with antialiasing."""
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", antialias=True, align_corners=False)[0]


def lab_of(rgb: Tensor) -> Tensor:
    """sRGB [3, H, W] as CIE L*a*b* (D65, 2 degrees), scaled: L / 100, (a + 128) / 255, (b + 128) / 255."""
    from skimage.color import rgb2lab

    lab = torch.from_numpy(rgb2lab(rgb.permute(1, 2, 0).cpu().numpy())).to(rgb).permute(2, 0, 1)
    return torch.stack([lab[0] / 100, (lab[1] + 128) / 255, (lab[2] + 128) / 255])


def patches_of(lab: Tensor, scale: float, s: SaliencySettings) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Patches [P, 147] of the picture at a scale, their middles [P, 2], and how many there are down and across.

    A middle is in units of the picture's longer side.
    """
    height, width = lab.shape[1:]
    size = (max(s.patch, round(height * scale)), max(s.patch, round(width * scale)))
    small = resized(lab, size)
    patches = F.unfold(small[None], s.patch, stride=s.stride)[0].mT.contiguous()
    grid = tuple((side - s.patch) // s.stride + 1 for side in size)
    y, x = (
        (torch.arange(count).to(lab) * s.stride + s.patch / 2) / side * whole / max(height, width)
        for count, side, whole in zip(grid, size, (height, width), strict=True)
    )
    return patches, torch.cartesian_prod(y, x).view(-1, 2), (grid[0], grid[1])  # type: ignore[no-untyped-call]


def _candidates(scale: float, size: tuple[int, int], s: SaliencySettings) -> list[float]:
    """Scales whose patches are compared to those of a scale."""
    halves = [q for q in (scale / 2, scale / 4) if q >= SMALLEST_SCALE and min(round(n * q) for n in size) >= s.patch]
    return [scale, *halves]


def dissimilarity(patches: Tensor, centres: Tensor, others: Tensor, theirs: Tensor, s: SaliencySettings) -> Tensor:
    """Steps 5 and 6: 1 - exp(-mean of the K smallest d), d = d_color / (1 + c d_pos), of every patch [P].

    Blocks of patches against all candidates as one matrix product; the whole table is never held.
    """
    nearest = min(s.nearest, len(others))
    squares = others.square().sum(1)
    out = []
    for block, middle in zip(patches.split(ROWS), centres.split(ROWS), strict=True):  # type: ignore[no-untyped-call]
        apart = torch.addmm(squares, block, others.mT, alpha=-2) + block.square().sum(1, keepdim=True)
        colour = (apart.clamp_(min=0) / patches.shape[1]).sqrt_()
        d = colour / (1 + s.position * torch.cdist(middle, theirs, compute_mode="donot_use_mm_for_euclid_dist"))
        out.append(1 - torch.exp(-d.topk(nearest, 1, largest=False, sorted=False).values.mean(1)))
    return torch.cat(out)


def with_context(scale_maps: Sequence[Tensor], focus: float) -> Tensor:
    """Step 8: what lies near a focus keeps its saliency, what lies far loses it; mean over scales, in [0, 1]."""

    def lessened(values: Tensor) -> Tensor:
        foci = to_unit(values) > focus
        if not bool(foci.any()):
            return values  # all alike: there is nothing to be near to
        away = torch.from_numpy(distance_transform_edt(~foci.cpu().numpy())).to(values) / max(values.shape)
        return values * (1 - away / away.max().clamp(min=1e-12))

    return to_unit(torch.stack([lessened(values) for values in scale_maps]).mean(0))


def to_unit(values: Tensor) -> Tensor:
    """Lowest to 0, highest to 1; zeros where all are alike."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
