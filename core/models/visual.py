"""Where the visual tokens of vision-language models are on the user's picture: after resizing, cropping and tiling.

Each function follows one class of transformers from its image processor to the order in which features replace
placeholders. The tests prove them on these classes: the token that a pixel changes most is the one that holds it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import UsageError
from .geometry import Box, Geometry, PatchGrid, class_tokens, tiled

Size = tuple[int, int]
"""(H, W), in pixels."""
_PLAIN = ("CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor", "BitImageProcessor")
_LONGEST = 4096
"""Side to which Idefics3 reduces every picture."""


def visual_geometry(
    model: Any, images: Any, inputs: Mapping[str, Tensor], sizes: Sequence[Size]
) -> tuple[Geometry, ...]:
    """Where the visual tokens of one prompt are.

    Parameters
    ----------
    model : Module
        A class of ``VISUAL``.
    images
        Its image processor.
    inputs : mapping
        What the processor made of the pictures.
    sizes : sequence of (H, W)
        Of the pictures, in pixels.

    Returns
    -------
    tuple of Geometry
        One for each picture. Tokens are numbered through all pictures, in the order in which features replace
        placeholders; ``count`` of each is that of the prompt.

    Raises
    ------
    UsageError
        If the class, its image processor or a setting of it is not known.
    """
    of = VISUAL.get(model.config.model_type)
    if of is None:
        raise UsageError(f"where the visual tokens of {type(model).__name__} are in a picture is not known.")
    return numbered([of(model.config, images, inputs, number, size) for number, size in enumerate(sizes)])


def numbered(pictures: Sequence[Geometry]) -> tuple[Geometry, ...]:
    """Pictures of one prompt, each with its own tokens counted from 0, as their tokens follow each other."""
    total, before, result = sum(picture.count for picture in pictures), 0, []
    for picture in pictures:
        result.append(picture.moved(before, total - before - picture.count))
        before += picture.count
    return tuple(result)


def shown(geometry: Geometry) -> float:
    """Which share of the picture's area its tiles cover together, where all of them are cut from one box."""
    top, left = (min(tile.box[axis] for tile in geometry.tiles) for axis in (0, 1))
    bottom, right = (max(tile.box[axis] for tile in geometry.tiles) for axis in (2, 3))
    height, width = geometry.size
    return (min(bottom, height) - max(top, 0)) * (min(right, width) - max(left, 0)) / (height * width)


# -- LLaVA-1.5: one square, cut from the middle or padded


def _llava(config: Any, images: Any, inputs: Mapping[str, Tensor], number: int, size: Size) -> Geometry:
    h, w = inputs["pixel_values"].shape[-2:]
    patch = int(config.vision_config.patch_size)
    prefix = _class_tokens(config)
    return Geometry(size, prefix, 0, (PatchGrid(prefix, (h // patch, w // patch), _square(images, size)),))


def resized(images: Any, size: Size) -> Size:
    """What CLIP's and LLaVA's image processors make of a picture before they crop it."""
    if _name(images) == "LlavaImageProcessor" and images.do_pad:
        size = (max(size), max(size))
    if not images.do_resize:
        return size
    if side := images.size.get("shortest_edge"):
        height, width = size
        longer = int(side * max(size) / min(size))
        return (longer, side) if width <= height else (side, longer)
    return int(images.size["height"]), int(images.size["width"])


def _square(images: Any, size: Size) -> Box:
    """What these processors show of a picture; beyond its edges where it is padded."""
    padded = _name(images) == "LlavaImageProcessor" and images.do_pad
    if _name(images) not in (*_PLAIN, "LlavaImageProcessor") or (images.do_pad and not padded):
        raise UsageError(f"{type(images).__name__}: what it shows of a picture is not known.")
    canvas = (max(size), max(size)) if padded else size
    edges = []
    for axis, (length, result) in enumerate(zip(canvas, resized(images, size), strict=True)):
        scale, before = length / result, (length - size[axis]) // 2
        crop = images.crop_size[("height", "width")[axis]] if getattr(images, "do_center_crop", False) else result
        first = (result - crop) // 2  # below 0 where there is less than is cut out
        edges.append((first * scale - before, (first + crop) * scale - before))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def _class_tokens(config: Any) -> int:
    """Visual tokens in front of the patches of a LLaVA."""
    tower, strategy = config.vision_config.model_type, config.vision_feature_select_strategy
    count = class_tokens(str(tower)) - int(strategy == "default")
    if count < 0:
        raise UsageError(
            f"vision_feature_select_strategy 'default' takes a patch from {tower}, which has no class token."
        )
    return count


# -- LLaVA-NeXT: the whole, then tiles without what was padded, a token behind each row


def _llava_next(config: Any, images: Any, inputs: Mapping[str, Tensor], number: int, size: Size) -> Geometry:
    side, patch = inputs["pixel_values"].shape[-1], int(config.vision_config.patch_size)
    asked = images.size.get("shortest_edge") or images.size.get("height")
    if (_name(images), asked) != ("LlavaNextImageProcessor", side):
        raise UsageError(
            f"{type(images).__name__} with tiles of {side} pixels: what it shows of a picture is not known."
        )
    height, width = size
    grid = side // patch
    prefix = _class_tokens(config)
    tiles = [PatchGrid(prefix, (grid, grid), (0.0, 0.0, float(height), float(width)))]
    canvas = sys.modules[type(images).__module__].select_best_resolution(size, config.image_grid_pinpoints)
    scale = min(canvas[0] / height, canvas[1] / width)
    fitted = [min(math.ceil(length * scale), most) for length, most in zip(size, canvas, strict=True)]
    narrow = canvas[1] / width < canvas[0] / height  # it fills the canvas from side to side
    fitted[narrow] = canvas[narrow]
    rows, columns = canvas[0] // patch, canvas[1] // patch
    cut = [0, 0]  # rows and columns left out on each side: padding alone is in them
    if width / height > columns / rows:
        cut[0] = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        cut[1] = (columns - int(round(width * (rows / height), 7))) // 2
    rows, columns = rows - 2 * cut[0], columns - 2 * cut[1]

    def edge(axis: int, patches: int) -> float:
        """Patches of the canvas in pixels of the picture."""
        return float((patches * patch - (canvas[axis] - fitted[axis]) // 2) * size[axis] / fitted[axis])

    left, right = edge(1, cut[1]), edge(1, cut[1] + columns)
    start = prefix + grid * grid
    for row in range(rows if columns else 0):
        box = (edge(0, cut[0] + row), left, edge(0, cut[0] + row + 1), right)
        tiles.append(PatchGrid(start + row * (columns + 1), (1, columns), box))
    last = tiles[-1].tokens.stop
    return Geometry(size, prefix, 0, tuple(tiles), suffix=start + rows * (columns + 1) - last)


# -- Qwen2-VL: the whole at its own aspect ratio


def _qwen(config: Any, images: Any, inputs: Mapping[str, Tensor], number: int, size: Size) -> Geometry:
    merge = int(config.vision_config.spatial_merge_size)
    _, rows, columns = inputs["image_grid_thw"][number].tolist()
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    return Geometry(size, 0, 0, (PatchGrid(0, (rows // merge, columns // merge), whole),))


# -- Idefics3: tiles, then the whole


def _idefics(config: Any, images: Any, inputs: Mapping[str, Tensor], number: int, size: Size) -> Geometry:
    side = inputs["pixel_values"].shape[-1]
    grid = side // int(config.vision_config.patch_size) // int(config.scale_factor)
    cells = _idefics_cells(images, size)
    return tiled(size, cells or (1, 1), (grid, grid), overview=cells is not None)


def _idefics_cells(images: Any, size: Size) -> Size | None:
    """Rows and columns of tiles; None where the whole is looked at once."""
    if not images.do_image_splitting:
        return None
    tile = int(images.max_image_size["longest_edge"])
    height, width = size
    if images.do_resize:
        longest = images.size.get("longest_edge")
        height, width = _longest_side(size, longest) if longest else (images.size["height"], images.size["width"])
        height, width = _at_most(height, width) if longest else (height, width)
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / tile)
        rows = math.ceil(int(columns * tile / ratio) / tile)
    else:
        rows = math.ceil(height / tile)
        columns = math.ceil(int(rows * tile * ratio) / tile)
    rows, columns = max(rows, 1), max(columns, 1)
    return (rows, columns) if rows * columns > 1 else None


def _longest_side(size: Size, longest: int) -> Size:
    """A picture resized so that its longer side is ``longest`` and the other one even."""
    height, width = size
    ratio = width / height
    if width >= height:
        shorter = int(longest / ratio)
        return max(shorter + shorter % 2, 1), longest
    shorter = int(longest * ratio)
    return longest, max(shorter + shorter % 2, 1)


def _at_most(height: int, width: int) -> Size:
    ratio = width / height
    if width >= height and width > _LONGEST:
        return max(int(_LONGEST / ratio), 1), _LONGEST
    if height > width and height > _LONGEST:
        return _LONGEST, max(int(_LONGEST * ratio), 1)
    return height, width


# -- InternVL: tiles, then the whole


def _internvl(config: Any, images: Any, inputs: Mapping[str, Tensor], number: int, size: Size) -> Geometry:
    if _name(images) != "GotOcr2ImageProcessor":
        raise UsageError(f"{type(images).__name__}: what it shows of a picture is not known.")
    tile = inputs["pixel_values"].shape[-2:]
    patch = config.vision_config.patch_size
    h, w = (round(int(length) // int(step) * config.downsample_ratio) for length, step in zip(tile, patch, strict=True))
    cells = (1, 1)
    if images.max_patches > 1:
        choose = sys.modules[type(images).__module__].get_optimal_tiled_canvas
        columns, rows = choose(size, tuple(tile), images.min_patches, images.max_patches)
        cells = (rows, columns)
    return tiled(size, cells, (h, w), overview=cells != (1, 1))


VISUAL: Mapping[str, Callable[[Any, Any, Mapping[str, Tensor], int, Size], Geometry]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "smolvlm": _idefics,
    "idefics3": _idefics,
    "internvl": _internvl,
}
"""``model_type`` -> where the tokens of one picture are, counted from 0."""
FRAMES = ("qwen2_vl", "qwen2_5_vl")
"""Those that take frames of a video as pairs."""


def _name(images: Any) -> str:
    """Class of an image processor, whatever it computes with."""
    return type(images).__name__.removesuffix("Pil").removesuffix("Fast")
