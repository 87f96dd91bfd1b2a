"""The importance of every visual token of a batch (methods/vflowopt.md, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..engine.moment import Moment
from ..engine.tower import Tower
from .importance import Importance, Reduce, grey_of_patches, importance, patch_entropy, patches_of
from .places import TokenPlaces, token_places

END_OF_ROW = 1.0
"""Importance of a token that belongs to no patch: it survives (section 3.2)."""


@dataclass(frozen=True, slots=True)
class FlowMap:
    """What a batch's stages go by.

    Parameters
    ----------
    importance : Importance
        Of the patches of all views.
    tokens : tuple of Tensor [n_b]
        Importance of the visual tokens of each prompt.
    places : tuple of TokenPlaces
    pictures : tuple of Tensor of int64 [n_b]
        The picture that each token is of, from 0, in its prompt.
    left : list of int
        Tokens of each prompt behind stage 1.
    """

    importance: Importance
    tokens: tuple[Tensor, ...]
    places: tuple[TokenPlaces, ...]
    pictures: tuple[Tensor, ...]
    left: list[int] = field(default_factory=list)


def flow_map(
    moment: Moment, vision: int, *, t: float, alpha: float, reduce: Reduce, pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> FlowMap:  # fmt: skip
    """The importance of every visual token of a batch (sections 3.1 and 3.2)."""
    tower = moment.prompts.tower
    assert tower is not None
    entropy = tower_entropy(tower, pixel_mean, pixel_std) if alpha else None
    found = importance(
        partial(tower.among_patches, vision), tower.views, t=t, alpha=alpha, entropy=entropy,
        reduce=reduce,
    )  # fmt: skip
    if bool(found.fallback.any()):
        moment.prompts.note(
            f"vflowopt: no patch receives more than {t:g} times the mean attention; the one that receives most "
            "said what is important"
        )
    values = found.cells
    tokens = tuple(torch.where(cells >= 0, values[cells], END_OF_ROW) for cells in tower.cells)
    places = tuple(token_places(cells, tower.views, tower.grids) for cells in tower.cells)
    pictures = tuple(_pictures(moment, sample, place) for sample, place in enumerate(places))
    return FlowMap(found, tokens, places, pictures)


def tower_entropy(tower: Tower, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Entropy of the true grey values of each patch that the tower saw, [cells, m], bits."""
    found = []
    for call, patches in zip(tower.calls, tower.patches, strict=True):
        pixels = call.pixels
        assert pixels is not None
        of = torch.tensor(mean, device=pixels.device), torch.tensor(std, device=pixels.device)
        if call.grid is not None:  # packed: patches of a cell follow each other
            found.append(patch_entropy(grey_of_patches(pixels.view(len(pixels), 3, -1), *of)).view_as(patches))
            continue
        size: Any = tower.site.tower.config.patch_size
        each = patches_of(pixels, int(size if isinstance(size, int) else size[0]))  # [V, N, 3, P]
        views, count = each.shape[:2]
        bits = patch_entropy(grey_of_patches(each.flatten(0, 1), *of)).view(views, count)
        rows = torch.cat([bits.new_zeros(views, call.shape[1] - count), bits], 1)  # a class token is in front
        found.append(rows.flatten()[patches])
    return torch.cat(found)


def _pictures(moment: Moment, sample: int, places: TokenPlaces) -> Tensor:
    """The picture of each visual token of a prompt, from 0: as the caller says, else one. A video is one."""
    prompts = moment.prompts
    known = prompts.pictures[sample] if prompts.pictures is not None else None
    pictures = torch.zeros_like(places.rows)
    video = prompts.site.tokens[1:]
    if video and len(pictures) and int(prompts.input_ids[sample, prompts.visual[sample][0]]) in video:
        return pictures
    for number, geometry in enumerate(known or ()):
        pictures[geometry.prefix :] = number
    return pictures
