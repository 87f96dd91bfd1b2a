"""How far attention looks: the mean distance between a patch and the patches it attends to, streamed from q and k.

Paper: "Remedying Target-Domain Astigmatism for Cross-Domain Few-Shot Object Detection", arXiv 2603.18541.
Specification: methods/astigmatism.md, section 3.1, steps 1-3 and 6. The sums over a row are those of
``models/rows.py``, as those of ``probe vit`` are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import UsageError
from ...models.geometry import Geometry
from ...models.hooks import capture
from ...models.images import PreparedImage
from ...models.rows import attention_rows


@dataclass(frozen=True, slots=True)
class Inside:
    """What passes between objects (fg) and background (bg): means over queries; NaN where there are none of the kind.

    Parameters
    ----------
    fg_to_fg, fg_to_bg, bg_to_fg : ndarray, shape (L, H), float32
        Share of the attention of object patches that lies on object patches, on the background; of that of background
        patches that lies on object patches.
    distance : ndarray, shape (L, H), float32
        Mean attention distance of object patches, in patches.
    """

    fg_to_fg: NDArray[np.float32]
    fg_to_bg: NDArray[np.float32]
    bg_to_fg: NDArray[np.float32]
    distance: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the heads of a model look on one picture.

    Parameters
    ----------
    patches, pixels : ndarray, shape (L, H), float32
        Mean attention distance, in patches and in pixels of the picture.
    entropy : ndarray, shape (L, H), float32
        Mean entropy of a row over the patches, in nats; ln N at most.
    dropped : ndarray, shape (L, H), float32
        Mean share of a row that lay on tokens that are nowhere in the picture, and was shared out among the patches.
    rows : ndarray, shape (L, N), float32
        Distance in pixels of each query patch, mean over heads.
    inside : Inside or None
        Where objects were named.
    """

    patches: NDArray[np.float32]
    pixels: NDArray[np.float32]
    entropy: NDArray[np.float32]
    dropped: NDArray[np.float32]
    rows: NDArray[np.float32]
    inside: Inside | None = None


@dataclass(frozen=True, slots=True)
class LayerReach:
    """Of every query of one layer; ``masses``: on the object, on the background.

    Parameters
    ----------
    distance, entropy : Tensor [B, H, N]
        In the unit of the positions; in nats.
    log_total : Tensor [B, H, N]
        Logarithm of the sum over patches of exp(scale q kᵀ).
    masses : Tensor [B, H, N, 2] or None
    """

    distance: Tensor
    entropy: Tensor
    log_total: Tensor
    masses: Tensor | None


def layer_reach(
    q: Tensor, k: Tensor, positions: Tensor, *, scale: float, foreground: Tensor | None = None
) -> LayerReach:
    """Steps 1 and 6 for the patches of one layer: d_i = sum_j A_ij |p_i - p_j|, never the matrix A.

    Parameters
    ----------
    q, k : Tensor [B, H, N, D]
        Of the patches alone: what lies on other tokens is shared out in proportion (step 3).
    positions : Tensor [N, 2]
    scale : float
        Factor on q kᵀ.
    foreground : Tensor of bool [N], optional
        Patches that lie in an object.
    """
    columns = None if foreground is None else torch.stack([foreground, ~foreground])
    rows = attention_rows(q, k, scale=scale, positions=positions, columns=columns)
    assert rows.distance is not None
    return LayerReach(rows.distance, rows.entropy, rows.log_total, rows.mass)


def attention_distance(
    model: nn.Module, prepared: PreparedImage, geometry: Geometry, foreground: NDArray[np.bool_] | None = None
) -> Reach:
    """How far the heads of a model look on one picture.

    Parameters
    ----------
    model : Module
    prepared : PreparedImage
    geometry : Geometry
        Of one grid.
    foreground : ndarray of bool, shape (N,), optional
        Patches that lie in an object, in the order of ``geometry.patches``: for ``Reach.inside``.

    Raises
    ------
    UsageError
        If the model's attention cannot be reached, or is masked.
    """
    weight = next(model.parameters())
    patches = geometry.patches().to(weight.device)
    elsewhere = torch.ones(geometry.count, dtype=torch.bool, device=weight.device)
    elsewhere[patches] = False
    objects = None if foreground is None else torch.from_numpy(foreground).to(weight.device)
    down, across = geometry.patch_size()
    with torch.inference_mode(), capture(model, what=("q", "k")) as seen:
        model(prepared.pixels[None].to(weight.device, weight.dtype))
    layers: list[tuple[NDArray[np.float32], ...]] = []
    for layer in seen:
        if layer.mask is not None or layer.causal:
            raise UsageError(
                f"{type(model).__name__}: layer {layer.layer} masks or biases its attention; distances are measured of "
                "attention among all patches alone."
            )
        assert layer.q is not None
        assert layer.k is not None
        q, k = layer.q[:, :, patches], layer.k[:, :, patches]
        found = layer_reach(q, k, geometry.grid_positions(), scale=layer.scale, foreground=objects)
        square = math.isclose(down, across, rel_tol=1e-9)
        far = found.distance * down if square else layer_reach(q, k, geometry.positions(), scale=layer.scale).distance
        keys = layer.k[:, :, elsewhere].repeat_interleave(q.shape[1] // k.shape[1], 1)
        others = torch.logsumexp(layer.scale * q.float() @ keys.float().mT, -1)
        lost = torch.sigmoid(others - found.log_total)  # the few other tokens beside all patches
        means = [value[0].mean(-1) for value in (found.distance, far, found.entropy, lost)] + [far[0].mean(0)]
        if objects is not None:
            assert found.masses is not None
            on_object, on_ground = found.masses[0].unbind(-1)
            means += [on_object[:, objects].mean(-1), on_ground[:, objects].mean(-1)]
            means += [on_object[:, ~objects].mean(-1), found.distance[0][:, objects].mean(-1)]
        layers.append(tuple(value.float().cpu().numpy() for value in means))
    patches_away, pixels_away, entropy, dropped, rows, *inside = [np.stack(of) for of in zip(*layers, strict=True)]
    return Reach(patches_away, pixels_away, entropy, dropped, rows, Inside(*inside) if inside else None)


def uniform_distance(grid: tuple[int, int], spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Mean distance under uniform attention, in the unit of the spacing: about 0.52 of the side of a square grid.

    Parameters
    ----------
    grid : (h, w)
    spacing : (float, float)
        Between rows, and between columns.
    """
    h, w = grid
    down, across = np.arange(1 - h, h)[:, None], np.arange(1 - w, w)[None]
    pairs = (h - np.abs(down)) * (w - np.abs(across))  # how many pairs of cells are so far apart
    return float((pairs * np.hypot(down * spacing[0], across * spacing[1])).sum() / (h * w) ** 2)


def diagonal(grid: tuple[int, int]) -> float:
    """The longest distance on a grid, in patches; 1 for a single patch, where every distance is 0."""
    return math.hypot(grid[0] - 1, grid[1] - 1) or 1.0
