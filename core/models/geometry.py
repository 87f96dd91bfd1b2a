"""Where the tokens of an image tower are in the picture: to lay any vector over tokens onto the pixels of a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from .images import PreparedImage

Box = tuple[float, float, float, float]
_ONE = ("vit", "beit", "dinov2", "clip_vision_model", "internvl_vision")
_OURS = ("VisionTransformer", "AdaptiveViT", "SparsifinerViT")
_PREFIX = {**dict.fromkeys((*_ONE, *_OURS), 1), "deit": 2, "siglip_vision_model": 0}
"""``model_type``, or the class of a network of ours -> class and distillation tokens in front of the patches."""
_REGISTERS = {"dinov2_with_registers": 1, "dinov3_vit": 1}
"""``model_type`` -> class tokens in front of the registers, whose number the configuration gives."""


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """One grid of patches.

    Parameters
    ----------
    start : int
        Its first token; the others follow row by row.
    grid : (h, w)
        Patches down and across.
    box : (top, left, bottom, right)
        What it covers of the picture, in pixels; beyond the picture's edges where it was padded.
    """

    start: int
    grid: tuple[int, int]
    box: Box

    @property
    def tokens(self) -> range:
        return range(self.start, self.start + self.grid[0] * self.grid[1])


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the tokens of one picture are.

    Parameters
    ----------
    size : (H, W)
        Of the picture, in pixels of the user's file.
    prefix : int
        Tokens in front of the patches: class, distillation, registers, those of pictures before this one. They are
        nowhere in the picture.
    registers : int
        How many of the prefix are registers, the last ones.
    tiles : tuple of PatchGrid
        Normally one; several where a model looks at parts of a picture, and at all of it.
    suffix : int
        Tokens behind the last patch: the end of a line, those of further pictures of the prompt.
    """

    size: tuple[int, int]
    prefix: int
    registers: int
    tiles: tuple[PatchGrid, ...]
    suffix: int = 0

    @property
    def count(self) -> int:
        """Tokens in all."""
        return max(tile.tokens.stop for tile in self.tiles) + self.suffix

    def of(self, size: tuple[int, int]) -> Geometry:
        """The same in pixels of the whole picture, of which a reduced one was looked at; ``size`` is its (H, W)."""
        down, across = size[0] / self.size[0], size[1] / self.size[1]
        scale = (down, across, down, across)
        boxes = [tuple(edge * factor for edge, factor in zip(tile.box, scale, strict=True)) for tile in self.tiles]
        tiles = tuple(replace(tile, box=box) for tile, box in zip(self.tiles, boxes, strict=True))  # type: ignore[arg-type]
        return replace(self, size=size, tiles=tiles)

    def moved(self, before: int, after: int) -> Geometry:
        """The same with further tokens in front of and behind all of these."""
        tiles = tuple(replace(tile, start=tile.start + before) for tile in self.tiles)
        return replace(self, prefix=self.prefix + before, tiles=tiles, suffix=self.suffix + after)

    def patches(self) -> Tensor:
        """The tokens that are somewhere in the picture, [N] int64, ascending."""
        return torch.tensor([token for tile in self.tiles for token in tile.tokens])

    def patch_size(self) -> tuple[float, float]:
        """Height and width of a patch of the first tile, in pixels of the picture."""
        tile = self.tiles[0]
        top, left, bottom, right = tile.box
        return (bottom - top) / tile.grid[0], (right - left) / tile.grid[1]

    def positions(self) -> Tensor:
        """Middles of the patches in pixels of the picture, (y, x), [N, 2] float64, in the order of ``patches``."""
        return torch.cat([_middles(tile.grid, tile.box) for tile in self.tiles])

    def boxes(self) -> Tensor:
        """What each patch covers of the picture, in pixels: (top, left, bottom, right), [N, 4] float64, in the order of
        ``patches``; beyond the picture's edges where it was padded."""
        middles = self.positions()
        halves = []
        for tile in self.tiles:
            half = torch.tensor(
                [(tile.box[axis + 2] - tile.box[axis]) / tile.grid[axis] / 2 for axis in range(2)], dtype=torch.float64
            )
            halves.append(half.expand(len(tile.tokens), 2))
        half = torch.cat(halves)
        return torch.cat([middles - half, middles + half], 1)

    def padding(self) -> Tensor:
        """Which share of each patch lies beyond the picture's edges, [N] float64, in the order of ``patches``."""
        boxes = self.boxes()
        edge = torch.tensor(self.size, dtype=torch.float64)
        low, high = boxes[:, :2], boxes[:, 2:]
        inside = (high.minimum(edge) - low.clamp(min=0)).clamp(min=0).prod(1)
        share = 1 - inside / (high - low).prod(1)
        return torch.where(share < 1e-9, 0.0, share)  # no rounding where a patch ends at the edge

    def grid_positions(self) -> Tensor:
        """Row and column of the patches of the only tile, [N, 2] float64. Raises ``ValueError`` for several."""
        if len(self.tiles) != 1:
            raise ValueError(f"{len(self.tiles)} tiles have no common rows and columns")
        h, w = self.tiles[0].grid
        return _middles((h, w), (-0.5, -0.5, h - 0.5, w - 0.5))

    def on_pixels(self, values: NDArray[Any], *, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """A value per token laid onto the picture.

        Parameters
        ----------
        values : ndarray, shape (T,)
            T is ``count``: one of every token, or the number of ``patches``.
        size : (H, W), optional
            Of the result, where the picture is to be shown reduced; default: that of the file.

        Returns
        -------
        ndarray, shape (H, W), float32
            Each pixel has the value of the patch that covers it, the mean where several tiles do, NaN where none does.

        Raises
        ------
        ValueError
            If there are as many values as neither.
        """
        values = np.asarray(values, np.float64)
        total = sum(len(tile.tokens) for tile in self.tiles)
        if values.shape == (self.count,):
            values = values[self.patches().numpy()]
        elif values.shape != (total,):
            raise ValueError(f"values are {list(values.shape)}; the picture has {self.count} tokens, {total} patches")
        height, width = size or self.size
        down, across = height / self.size[0], width / self.size[1]
        summed, covered, start = np.zeros((height, width)), np.zeros((height, width), np.int64), 0
        for tile in self.tiles:
            of = values[start : start + len(tile.tokens)].reshape(tile.grid)
            start += len(tile.tokens)
            rows, row_of = _cover(height, tile.box[0] * down, tile.box[2] * down, tile.grid[0])
            columns, column_of = _cover(width, tile.box[1] * across, tile.box[3] * across, tile.grid[1])
            summed[np.ix_(rows, columns)] += of[np.ix_(row_of, column_of)]
            covered[np.ix_(rows, columns)] += 1
        with np.errstate(invalid="ignore", divide="ignore"):
            return (summed / covered).astype(np.float32)


def geometry_of(model: Any, prepared: PreparedImage) -> Geometry:
    """Where the tokens are that an image tower makes of a prepared picture.

    Parameters
    ----------
    model : Module
        ViT, DeiT, BEiT, DINOv2 (with registers), DINOv3, CLIP, SigLIP or InternVL's tower of transformers; a
        transformer of timm or open_clip.
    prepared : PreparedImage

    Raises
    ------
    UsageError
        If the model is none of them, or the picture is no multiple of its patches.
    """
    prefix, registers, patch = token_layout(model)
    h, w = prepared.pixels.shape[-2:]
    if h % patch[0] or w % patch[1]:
        raise UsageError(f"a picture of {h} x {w} pixels is no multiple of patches of {patch[0]} x {patch[1]}.")
    tile = PatchGrid(prefix, (h // patch[0], w // patch[1]), prepared.box)
    return Geometry(prepared.size, prefix, registers, (tile,))


def tiled(
    size: tuple[int, int], cells: tuple[int, int], grid: tuple[int, int], *, box: Box | None = None, start: int = 0,
    between: int = 0, overview: bool = True,
) -> Geometry:  # fmt: skip
    """A picture cut into cells that a model looks at one by one, row by row, and then, smaller, as a whole.

    Parameters
    ----------
    size : (H, W)
        Of the picture, in pixels.
    cells : (rows, columns)
    grid : (h, w)
        Patches of each cell, and of the overview.
    box : (top, left, bottom, right), optional
        What the cells cover together; default: the picture.
    start : int
        Tokens in front of the first cell.
    between : int
        Tokens between two cells that are nowhere in the picture (line ends, marks).
    overview : bool
        The whole picture follows as one more tile.
    """
    top, left, bottom, right = box or (0.0, 0.0, float(size[0]), float(size[1]))
    down, across = (bottom - top) / cells[0], (right - left) / cells[1]
    boxes = [
        (top + row * down, left + column * across, top + (row + 1) * down, left + (column + 1) * across)
        for row in range(cells[0])
        for column in range(cells[1])
    ] + [(top, left, bottom, right)] * overview
    step = grid[0] * grid[1] + between
    tiles = tuple(PatchGrid(start + number * step, grid, of) for number, of in enumerate(boxes))
    return Geometry(size, start, 0, tiles)


def class_tokens(family: str) -> int:
    """Class and distillation tokens in front of the patches of a tower. Raises ``UsageError`` for an unknown one."""
    if family not in _PREFIX:
        raise UsageError(f"where the tokens of {family} are in a picture is not known. Known: {_known()}.")
    return _PREFIX[family]


def _known() -> str:
    return ", ".join(sorted([*_PREFIX, *_REGISTERS, "timm", "open_clip"]))


def token_layout(model: Any) -> tuple[int, int, tuple[int, int]]:
    """Tokens in front of the patches, registers among them, and the size of a patch.

    Raises
    ------
    UsageError
        If it is none of the models of ``geometry_of``.
    """
    if hasattr(model, "num_prefix_tokens") and hasattr(model, "patch_embed"):  # timm
        return (
            int(model.num_prefix_tokens),
            int(getattr(model, "num_reg_tokens", 0)),
            _pair(model.patch_embed.patch_size),
        )
    if hasattr(model, "class_embedding") and hasattr(model, "patch_size"):  # open_clip
        return 1, 0, _pair(model.patch_size)
    config = getattr(model, "config", None)
    family = getattr(config, "model_type", type(model).__name__)
    if family in _REGISTERS:
        registers = int(config.num_register_tokens)  # type: ignore[union-attr]
        return _REGISTERS[family] + registers, registers, _pair(config.patch_size)  # type: ignore[union-attr]
    return class_tokens(family), 0, _pair(config.patch_size)  # type: ignore[union-attr]


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _middles(grid: tuple[int, int], box: Box) -> Tensor:
    """Middles of the cells of a grid over a box, row by row, [h * w, 2]."""
    y, x = (
        low + (torch.arange(count, dtype=torch.float64) + 0.5) * (high - low) / count
        for count, low, high in zip(grid, box[:2], box[2:], strict=True)
    )
    return torch.cartesian_prod(y, x).view(-1, 2)  # type: ignore[no-untyped-call,no-any-return]


def _cover(length: int, low: float, high: float, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels whose middles lie between ``low`` and ``high``, and in which of ``count`` cells each is."""
    pixels = np.arange(length)
    cell = np.floor((pixels + 0.5 - low) / (high - low) * count).astype(np.int64)
    inside = (cell >= 0) & (cell < count)
    return pixels[inside], cell[inside]
