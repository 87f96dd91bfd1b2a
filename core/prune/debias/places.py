"""The pictures of a prompt among its visual tokens: each has an origin and a length of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.prompts import Prompts

_TILED = ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration")
"""Classes that put text between the tiles of one picture: a gap does not say that another picture begins."""


def pictures_of(prompts: Prompts, sample: int) -> list[range]:
    """Visual tokens of each picture of a prompt, tiles and line ends together; all frames of a video are one picture.

    By the geometry where it is known, else by the gaps between runs of visual tokens.
    """
    visual = prompts.visual[sample]
    known = prompts.pictures[sample] if prompts.pictures is not None else None
    video = torch.isin(prompts.input_ids[sample, visual], torch.tensor(prompts.site.tokens[1:], device=visual.device))
    if known and not video.any():
        starts = [0, *(min(tile.tokens.start for tile in picture.tiles) for picture in known[1:])]
    elif type(prompts.site.model).__name__ in _TILED:
        starts = [0]
        if len(visual) and (visual.diff() > 1).any():
            prompts.note(
                "debias: where one picture ends and the next begins is not known: all tiles are taken for one picture."
            )
    else:
        starts = [0, *((visual.diff() > 1).nonzero().flatten() + 1).tolist()]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(visual)], strict=True)]


def raster(pictures: list[range], numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Of each visual token, its index in its picture and that picture's length L, both [n] float32."""
    index = torch.zeros(len(numbers), device=numbers.device)
    length = torch.ones(len(numbers), device=numbers.device)
    for picture in pictures:
        inside = (numbers >= picture.start) & (numbers < picture.stop)
        index = torch.where(inside, (numbers - picture.start).float(), index)
        length = length.masked_fill(inside, float(len(picture)))
    return index, length
