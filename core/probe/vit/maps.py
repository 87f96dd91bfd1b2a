"""What the attention of every head looks like on one picture, from queries and keys; the matrix is never made.

Specification: methods/vit-analytics.md, sections 3.2 and 3.3. a is the attention among the patches, renormalised: what
lies on class token and registers is shared out (``keep_class``: it is not). A is the attention among all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ...models.geometry import Geometry
from ...models.rows import attention_rows, attention_sums
from ...prune.vit.site import BLOCKS
from .kept import Kept
from .patterns import blocks_of
from .restart import HeadSite
from .rings import Metric, by_ring, offsets, ring_cells

EPS = 1e-6
"""Of the reference statistics."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadMaps:
    """L layers of H heads on one picture of N = h * w patches, float32. Of a model without class token, NaN where one
    is meant.

    Parameters
    ----------
    offsets : ndarray, shape (L, H, 2 h - 1, 2 w - 1)
        Attention by rows and columns from query to key, mean over queries.
    ring_sum, ring_mean : ndarray, shape (L, H, K)
        Attention on each ring, and on a patch of it.
    distance, distance_px, entropy : ndarray, shape (L, H)
        Mean distance in patches, in pixels of the file; entropy of a row in nats.
    distance_of : ndarray, shape (L, N)
        Distance in pixels that each query looks, mean over heads.
    received : ndarray, shape (L, H, N)
        What a patch gets from all, as a share; sums to 1.
    class_row : ndarray, shape (L, N)
        What the class token gives the patches, mean over heads.
    shift : ndarray, shape (L, H, 3)
        Rows, columns and share of the commonest offset to the key that a patch attends to most, among patches that are
        not at the border; share 0 where all are.
    cls_to_patch, patch_to_cls, self_mass : ndarray, shape (L, H)
    diagonal, adjusted_diagonal, position_entropy : ndarray, shape (L, H)
        Reference statistics of section 3.3, mean over the patches.
    norm_ratio : ndarray, shape (L, 2)
        Length of what attention adds over that of what it is added to: class token, mean over patches.
    patterns : ndarray, shape (L, H, P, P)
        Means of a over blocks of queries and keys, see ``patterns.blocks_of``.
    """

    offsets: Floats
    ring_sum: Floats
    ring_mean: Floats
    distance: Floats
    distance_px: Floats
    entropy: Floats
    distance_of: Floats
    received: Floats
    class_row: Floats
    shift: Floats
    cls_to_patch: Floats
    patch_to_cls: Floats
    self_mass: Floats
    diagonal: Floats
    adjusted_diagonal: Floats
    position_entropy: Floats
    norm_ratio: Floats
    patterns: Floats


def head_maps(
    site: HeadSite, layers: Sequence[Kept], geometry: Geometry, *, metric: Metric = "chebyshev",
    keep_class: bool = False,
) -> HeadMaps:  # fmt: skip
    """All statistics of one picture.

    Parameters
    ----------
    site : HeadSite
    layers : sequence of Kept
        Of a plain pass over the one picture.
    geometry : Geometry
    metric : {"chebyshev", "manhattan", "euclid"}
        Of the rings.
    keep_class : bool
        Rows are not renormalised: the patches have what class token and registers leave.

    Raises
    ------
    UsageError
        If the attention has a bias or mask that its queries and keys do not show, or there are several tiles.
    """
    found = [_layer(site, number, of, geometry, metric, keep_class) for number, of in enumerate(layers)]
    return HeadMaps(*(np.stack([layer[field.name] for layer in found]) for field in fields(HeadMaps)))


def pattern_maps(site: HeadSite, layers: Sequence[Kept], geometry: Geometry) -> tuple[Floats, int]:
    """Of one picture, ``HeadMaps.patterns`` alone, and the number of patches. Raises as ``head_maps``."""
    places = geometry.patches().to(layers[0].q.device)
    blocks = blocks_of(geometry.tiles[0].grid).to(places.device)
    found = []
    for of in layers:
        _check(site, of, geometry)
        rows = attention_rows(of.q[:, :, places], of.k[:, :, places], scale=of.scale, columns=blocks)
        assert rows.mass is not None
        found.append(_pooled(rows.mass[0], blocks))
    return torch.stack(found).float().cpu().numpy(), len(places)


def _check(site: HeadSite, of: Kept, geometry: Geometry) -> None:
    if len(geometry.tiles) != 1:
        raise UsageError(f"{type(site.model).__name__} looks at {len(geometry.tiles)} tiles: one grid is wanted.")
    if of.mask is not None or of.causal:
        raise UsageError(f"{type(site.model).__name__} has a mask or a bias on its attention: q and k do not show it.")


def _pooled(mass: Tensor, blocks: Tensor) -> Tensor:
    """Means over blocks of queries and keys [H, P, P], of sums over blocks of keys [H, N, P]."""
    sizes = blocks.sum(1, keepdim=True).to(mass)  # [P, 1]
    return (blocks.to(mass) / sizes) @ mass / sizes[:, 0]


def _layer(
    site: HeadSite, number: int, of: Kept, geometry: Geometry, metric: Metric, keep_class: bool
) -> dict[str, Floats]:
    _check(site, of, geometry)
    grid, places = geometry.tiles[0].grid, geometry.patches().to(of.q.device)
    n, rings, blocks = len(places), ring_cells(grid, metric), blocks_of(grid).to(of.q.device)
    q, k = of.q[:, :, places], of.k[:, :, places]
    rows = attention_rows(q, k, scale=of.scale, columns=blocks, positions=geometry.positions())
    whole = _whole(of, places, site.has_class)
    assert rows.mass is not None
    assert rows.distance is not None
    left = whole["patches"][:, :, places] if keep_class else torch.ones_like(rows.entropy)  # mass on the patches
    total = rows.log_total - left.log()
    sums = attention_sums(q, k, total, scale=of.scale, grid=grid, weigh=partial(rings.weights, width=grid[1]))
    assert sums.offsets is not None
    assert sums.weighted is not None
    found, steps = sums.offsets[0].cpu() / n, offsets(grid)
    sizes = torch.tensor(geometry.patch_size(), dtype=torch.float64)
    made = {
        "offsets": found, "ring_sum": by_ring(found, rings),
        "ring_mean": by_ring(sums.weighted[0].cpu(), rings) / rings.queries,
        "distance": (found * steps.norm(dim=-1)).sum((-2, -1)),
        "distance_px": (found * (steps * sizes).norm(dim=-1)).sum((-2, -1)),
        "entropy": rows.entropy[0].mean(-1), "distance_of": rows.distance[0].mean(0), "received": sums.received[0] / n,
        "class_row": whole["class_row"], "shift": _shift(rows.where[0].cpu(), grid),
        "cls_to_patch": whole["patches"][0, :, 0] if site.has_class else torch.full((site.heads,), torch.nan),
        "patch_to_cls": whole["class"][0][:, places].mean(-1),
        "self_mass": whole["diagonal"][0][:, places].mean(-1),
        "diagonal": whole["diagonal"][0][:, places].mean(-1),
        "adjusted_diagonal": whole["adjusted"][0][:, places].mean(-1),
        "position_entropy": whole["entropy"][0][:, places].mean(-1), "norm_ratio": _ratio(site, number, of, places),
        "patterns": _pooled(rows.mass[0] * left[0, ..., None], blocks),
    }  # fmt: skip
    return {name: value.detach().float().cpu().numpy() for name, value in made.items()}


def _whole(of: Kept, places: Tensor, has_class: bool) -> dict[str, Tensor]:
    """Of the attention among all tokens: reference statistics of each query, and the row of the class token."""
    tokens = of.q.shape[2]
    columns = torch.zeros(2, tokens, dtype=torch.bool, device=of.q.device)
    columns[0, 0], columns[1, places] = has_class, True
    rows = attention_rows(of.q, of.k, scale=of.scale, columns=columns)
    assert rows.mass is not None
    diagonal, adjusted, entropy = reference_statistics(of, rows.log_total, rows.mass[..., 1], places)
    k = of.k.repeat_interleave(of.q.shape[1] // of.k.shape[1], 1)
    row = ((of.q[:, :, :1] @ k.mT * of.scale) - rows.log_total[:, :, :1, None]).exp()[0, :, 0, places].mean(0)
    nothing = torch.full_like(rows.mass[..., 0], torch.nan)
    return {
        "class": rows.mass[..., 0] if has_class else nothing, "patches": rows.mass[..., 1], "diagonal": diagonal,
        "adjusted": adjusted, "entropy": entropy, "class_row": row if has_class else torch.full_like(row, torch.nan),
    }  # fmt: skip


def reference_statistics(of: Kept, log_total: Tensor, patches: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Section 3.3, of each query [B, H, T]: A_ii, A_ii / (S + eps), and -sum of w ln(w + eps) over the patches.

    S is the mass on the patches, w = A / (S + eps). ``log_total`` is that of all keys, ``patches`` is S.
    """
    k = of.k.repeat_interleave(of.q.shape[1] // of.k.shape[1], 1)
    diagonal = ((of.q * k).sum(-1) * of.scale - log_total).exp()
    total = log_total + (patches + EPS).log()
    sums = attention_sums(of.q, of.k[:, :, places], total, scale=of.scale, eps=EPS)
    assert sums.entropy is not None
    return diagonal, diagonal / (patches + EPS), sums.entropy


def _shift(where: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rows, columns and share of the commonest step to the strongest key, [H, 3]; ``where`` [H, N]."""
    h, w = grid
    patch = torch.arange(h * w).view(h, w)[1:-1, 1:-1].flatten()
    found = torch.zeros(len(where), 3)
    if not len(patch):
        return found
    for head, keys in enumerate(where[:, patch]):
        step = torch.stack([keys // w - patch // w, keys % w - patch % w], 1)
        kinds, counts = torch.unique(step, dim=0, return_counts=True)
        best = int(counts.argmax())
        found[head] = torch.tensor([*kinds[best].tolist(), float(counts[best]) / len(patch)])
    return found


def _ratio(site: HeadSite, number: int, of: Kept, places: Tensor) -> Tensor:
    """|attention branch| / (|residual| + 1e-6): class token, mean over patches."""
    block = site.places[number].block
    parts = BLOCKS.get(type(block).__name__)
    branch = of.out
    if parts is not None and parts.scale1 and hasattr(block, parts.scale1):
        branch = getattr(block, parts.scale1)(branch)
    ratio = branch[0].norm(dim=-1) / (of.hidden[0].norm(dim=-1) + EPS)
    first = ratio[0] if site.has_class else torch.tensor(torch.nan)
    return torch.stack([first.cpu(), ratio[places].mean().cpu()])
