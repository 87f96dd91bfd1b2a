"""Of which rows of an image tower each visual token is made, in every class of model.

Source: methods/pruning-peers.md, section 8.1. Where a model merges or lays tokens out, its own function is run on the
numbers of the rows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from .sites import VisionLanguageSite
from .watch import TowerCall


def layout_of_call(site: VisionLanguageSite, call: TowerCall) -> tuple[Tensor, list[tuple[int, int]]]:
    """The rows of the tower that make each cell [cells, m], and the grids of its views."""
    if call.grid is not None:
        return _packed(site.tower, call.grid)
    assert call.features is not None
    views, rows = call.shape[0], call.shape[1]
    index = torch.arange(views * rows, device=call.features.device).view(views, rows)
    if shuffle := getattr(site.projector, "pixel_shuffle", None):  # Idefics: the projector itself merges
        patches = shuffle(index[..., None], site.projector.scale_factor)
    elif hasattr(site.model.model, "pixel_shuffle"):  # InternVL
        side = math.isqrt(rows - 1)
        square = index[:, rows - side * side :].view(views, side, side, 1)
        patches = site.model.model.pixel_shuffle(square, scale_factor=site.model.config.downsample_ratio)
    else:
        patches = index[:, rows - call.features.shape[1] :, None]
    patches = patches.reshape(views, -1, patches.shape[-1])
    count = patches.shape[1]
    side = math.isqrt(count)
    return patches.flatten(0, 1), [(side, side) if side * side == count else (1, count)] * views


def _packed(tower: Any, grid: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """The same of pictures packed one behind the other: every frame is a view, and windows change the order of rows."""
    merge = int(tower.spatial_merge_size)
    grids = [(h // merge, w // merge) for t, h, w in grid.tolist() for _ in range(t)]
    count = sum(h * w for h, w in grids)
    patches = torch.arange(count * merge * merge, device=grid.device).view(count, -1)
    if getattr(tower, "window_size", None):
        if hasattr(tower, "get_window_index"):  # transformers before 5.20
            index, _ = tower.get_window_index(grid)
        else:
            from transformers.vision_utils import get_vision_window_index

            index, _ = get_vision_window_index(grid, merge, tower.window_size, tower.patch_size)
        patches = patches[torch.argsort(index.to(grid.device))]
    return patches, grids


def order_of_call(site: VisionLanguageSite, call: TowerCall, cells: int, views: int) -> Tensor:
    """The cells of a call in the order of the visual tokens; -1 for tokens that are made of none."""
    index = torch.arange(cells, device=site.model.device)
    if call.packing is None:
        return index
    pack = call.packing.func
    packing = inspect.signature(pack).bind(*call.packing.args, **call.packing.keywords).arguments
    tiles = index.view(views, -1, 1).split(  # type: ignore[no-untyped-call]
        [len(features) for features in packing["image_features"]]
    )
    packing["image_features"] = tiles
    if packing.get("image_newline") is not None:
        packing["image_newline"] = index.new_full((1,), -1)
    packed, _ = pack(**packing)
    return torch.cat(packed)[:, 0]


def handed_out(input_ids: Tensor, kinds: Sequence[int], orders: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Cells in the order of the tokens of each kind, handed out to the prompts."""
    cells = torch.full(input_ids.shape, -1, device=input_ids.device)
    for kind, order in zip(kinds, orders, strict=True):
        where = input_ids == kind
        copies = int(where.sum()) // len(order)  # of every prompt, where several beams or samples are drawn
        if copies * len(order) != int(where.sum()) or len(input_ids) % copies:
            raise UsageError(f"the prompts have {int(where.sum())} visual tokens, the image tower made {len(order)}.")
        once = where[::copies]
        own = torch.full_like(cells[::copies], -1)
        own[once] = order.to(own.device)
        cells = torch.where(where, own.repeat_interleave(copies, 0), cells)
    is_visual = torch.isin(input_ids, torch.tensor(kinds, device=input_ids.device))
    return tuple(row[visual] for row, visual in zip(cells, is_visual, strict=True))
