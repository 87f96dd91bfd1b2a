"""A sequence of pictures as a video of Qwen2-VL: pairs of frames share their tokens (arXiv 2409.12191, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...errors import UsageError
from ...models.geometry import Geometry, PatchGrid
from ...models.loaded import Loaded


def video_inputs(
    loaded: Loaded, frames: Sequence[Image.Image], text: str, special: bool
) -> tuple[dict[str, Tensor], tuple[Geometry, ...]]:
    """What a model takes for frames of one video, and where their tokens are.

    Parameters
    ----------
    loaded : Loaded
    frames : sequence of Image
        Of one size, in order; the last one is repeated where the pairs do not come out even.
    text : str
        With one token for the video.
    special : bool
        Whether the tokeniser puts its own tokens around the text.

    Raises
    ------
    UsageError
        If the frames differ in size.

    Notes
    -----
    Qwen2.5-VL takes them for two frames a second, which is the default of its processor as well.
    """
    if len({frame.size for frame in frames}) > 1:
        raise UsageError("the frames of a video must be of one size.")
    processor = loaded.processor.joint
    images = processor.image_processor
    pair, merge = int(images.temporal_patch_size), int(images.merge_size)
    whole = [*frames, *[frames[-1]] * (-len(frames) % pair)]
    assert loaded.processor.frame_pixels is not None
    size_limits = dict(zip(("shortest_edge", "longest_edge"), loaded.processor.frame_pixels, strict=True))
    made: Any = images(images=whole, size=size_limits, return_tensors="pt")
    count, (_, rows, columns) = len(whole) // pair, made["image_grid_thw"][0].tolist()
    width = made["pixel_values"].shape[1]
    channels = width // (pair * int(images.patch_size) ** 2)
    # each picture is its own pair there, [frame, patch, channel, pair, pixels]: its first half is the frame
    alone = made["pixel_values"].view(count, pair, rows * columns, channels, pair, -1)[:, :, :, :, 0]
    pixels = alone.permute(0, 2, 3, 1, 4).reshape(count * rows * columns, width)
    down, across = rows // merge, columns // merge
    token = processor.video_token
    ids = processor.tokenizer(text.replace(token, token * (count * down * across)), add_special_tokens=special)
    kinds = processor.create_mm_token_type_ids([ids["input_ids"]])
    data = {
        "input_ids": torch.tensor([ids["input_ids"]]),
        "attention_mask": torch.tensor([ids["attention_mask"]]),
        "mm_token_type_ids": torch.tensor(kinds),
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor([[count, rows, columns]]),
    }
    size = (frames[0].height, frames[0].width)
    step, total = down * across, count * down * across
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    starts = [number // pair * step for number in range(len(frames))]
    return data, tuple(
        Geometry(size, start, 0, (PatchGrid(start, (down, across), box),), total - start - step) for start in starts
    )
