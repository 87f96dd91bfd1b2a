"""Prototypes of classes and of the background, from a few labelled pictures: methods/astigmatism.md, section 3.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...io.atomic import atomic_path


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Mean features, float32, of every level of feature maps.

    Parameters
    ----------
    foreground : tuple of Tensor [K, C], one of each level
        Of K classes; zeros for a class without a box.
    background : tuple of Tensor [C], one of each level
    known : Tensor of bool [K]
        Classes with at least one box.
    notes : tuple of str
        What was clipped or dropped on the way.
    """

    foreground: tuple[Tensor, ...]
    background: tuple[Tensor, ...]
    known: Tensor
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write NPZ: ``known`` and, of every level s, ``foreground_s`` and ``background_s``."""
        arrays = {"known": self.known.cpu().numpy()}
        for level, (front, back) in enumerate(zip(self.foreground, self.background, strict=True)):
            arrays |= {f"foreground_{level}": front.cpu().numpy(), f"background_{level}": back.cpu().numpy()}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


def read_prototypes(path: Path) -> Prototypes:
    """What ``Prototypes.save`` wrote. Raises ``InputError`` for a file that is something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        levels = range((len(arrays) - 1) // 2)
        front = tuple(arrays[f"foreground_{level}"].float() for level in levels)
        back = tuple(arrays[f"background_{level}"].float() for level in levels)
        known = arrays["known"].bool()
        shaped = all(f.shape == (len(known), len(b)) for f, b in zip(front, back, strict=True))
        if not front or not shaped or not all(value.isfinite().all() for value in (*front, *back)):
            raise ValueError("shapes do not fit each other, or values are not finite")
    except Exception as error:  # np.load raises anything on damaged files
        raise InputError(path, "holds no prototypes", "Name the prototypes.npz of attn train fewshot-detect") from error
    return Prototypes(front, back, known)


def cells_inside(boxes: Tensor, grid: tuple[int, int], stride: float) -> Tensor:
    """Cells whose centre lies in a box, x0 <= cx < x1; where none does, the cell with the box's middle.

    Parameters
    ----------
    boxes : Tensor [n, 4]
        x0, y0, x1, y1 in pixels.
    grid : (int, int)
        Rows and columns of the map.
    stride : float
        Pixels of a cell.

    Returns
    -------
    Tensor of bool [n, h, w]
    """
    h, w = grid
    cy = (torch.arange(h, device=boxes.device) + 0.5) * stride
    cx = (torch.arange(w, device=boxes.device) + 0.5) * stride
    x0, y0, x1, y1 = boxes.T[:, :, None]
    inside = ((y0 <= cy) & (cy < y1))[:, :, None] & ((x0 <= cx) & (cx < x1))[:, None, :]
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride).long()
    column, row = middle[:, 0].clamp(0, w - 1), middle[:, 1].clamp(0, h - 1)
    own = torch.zeros_like(inside)
    own[torch.arange(len(boxes), device=boxes.device), row, column] = True
    return torch.where(inside.any((1, 2), keepdim=True), inside, own)


def sound_boxes(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
    """Boxes clipped to a picture of ``size`` (height, width); which keep an area; and how many were clipped."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.isfinite().all():
        raise ValueError(f"boxes are finite numbers [n, 4], not {list(boxes.shape)}")
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    inside = boxes.clamp(min=0).minimum(limit)
    kept = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    return inside, kept, int(((inside != boxes).any(1) & kept).sum())


def prototypes_of(
    maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor], *, classes: int, strides: Sequence[float]
) -> Prototypes:
    """Steps 8 and 9: the mean over boxes of the mean over a box's cells; for the background, over pictures.

    Parameters
    ----------
    maps : sequence of Tensor [N, C, h, w]
        Of every level.
    boxes : sequence of N Tensor [n, 4]
        x0, y0, x1, y1 in pixels. A picture without boxes counts for the background alone.
    labels : sequence of N Tensor of int64 [n]
    classes : int
    strides : sequence of float
        Pixels of a cell, of every level.

    Raises
    ------
    ValueError
        If lengths or labels do not fit, or boxes cover every cell of every picture.
    """
    pictures = len(maps[0]) if maps else 0
    if len(maps) != len(strides) or not pictures == len(boxes) == len(labels):
        raise ValueError(f"{len(maps)} levels, {len(strides)} strides; {pictures} pictures, {len(boxes)} sets of boxes")
    if any(len(own) != len(named) for own, named in zip(boxes, labels, strict=True)):
        raise ValueError("every box needs one label")
    named = torch.cat(list(labels)).to(maps[0].device)
    if ((named < 0) | (named >= classes)).any():
        raise ValueError(f"labels go from 0 to {classes - 1}")
    size = (round(maps[0].shape[2] * strides[0]), round(maps[0].shape[3] * strides[0]))
    sound = [sound_boxes(own.to(maps[0].device).float(), size) for own in boxes]
    kept = torch.cat([keep for _, keep, _ in sound])
    named = named[kept]
    owner = torch.cat([torch.full((int(keep.sum()),), i) for i, (_, keep, _) in enumerate(sound)]).to(named.device)
    inside = torch.cat([clipped[keep] for clipped, keep, _ in sound])
    known = torch.bincount(named, minlength=classes) > 0
    front, back = [], []
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        f = features.detach().float()
        cells = cells_inside(inside, (f.shape[2], f.shape[3]), stride).flatten(1).to(f.dtype)  # [n, hw]
        of_box = torch.einsum("np,ncp->nc", cells / cells.sum(1, keepdim=True), f.flatten(2)[owner])
        sums = f.new_zeros(classes, f.shape[1]).index_add_(0, named, of_box)
        front.append(sums / torch.bincount(named, minlength=classes).clamp(min=1)[:, None])
        covered = f.new_zeros(pictures, cells.shape[1]).index_add_(0, owner, cells) > 0
        outside = (~covered).to(f.dtype)
        seen = outside.sum(1) > 0
        if not seen.any():
            raise ValueError(f"boxes cover every cell of level {level}: there is no background")
        mean = torch.einsum("np,ncp->nc", outside[seen] / outside[seen].sum(1, keepdim=True), f.flatten(2)[seen])
        back.append(mean.mean(0))
    clipped, dropped = sum(count for _, _, count in sound), int((~kept).sum())
    notes = [f"{clipped} boxes reach out of their pictures and were clipped"] * bool(clipped)
    notes += [f"{dropped} boxes without an area inside their pictures were dropped"] * bool(dropped)
    missing = [str(number) for number in (~known).nonzero().flatten().tolist()]
    notes += [f"no support boxes of classes {', '.join(missing)}: nothing is injected for them"] * bool(missing)
    return Prototypes(tuple(front), tuple(back), known, tuple(notes))
