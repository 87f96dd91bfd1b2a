"""What is known of a batch of prompts before any token is taken out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.geometry import Geometry
from .sites import VisionLanguageSite
from .tower import Tower

Pictured = tuple[tuple[Geometry, ...] | None, ...]
"""Of each prompt, the geometry of its pictures."""
ENCODED = "mm_encoder_outputs"
"""What ``generate`` gives a model instead of pixels."""


@dataclass(frozen=True, slots=True)
class OfferedAnswer:
    """An answer that a smaller model gives to a prompt, and whether it will do.

    Parameters
    ----------
    text : str
    decision : float
        How safe it looks.
    threshold : float
        It is taken where it looks as safe as this, or safer.
    """

    text: str
    decision: float
    threshold: float

    @property
    def taken(self) -> bool:
        return self.decision >= self.threshold


@dataclass(slots=True)
class Prompts:
    """A batch at prefill.

    Parameters
    ----------
    site : VisionLanguageSite
    inputs : mapping
        What the model was called with: ``input_ids``, ``attention_mask``, ``pixel_values``, … without a cache. Inside
        ``generate`` the image tower has run before: ``mm_encoder_outputs`` stands for the pixels then.
    input_ids : Tensor of int64 [B, N]
    valid : Tensor of bool [B, N]
        What is no padding.
    visual : tuple of Tensor of int64 [V_b]
        Of each prompt, where its visual tokens are, ascending. Token j of a prompt is always called j, wherever it has
        moved to.
    embeds : Tensor [B, N, D] or None
        Input of the first decoder layer; None before it is known.
    pictures : tuple of (tuple of Geometry) or None, optional
        Of each prompt, where its visual tokens are in the pictures that the user gave, picture by picture; tokens are
        numbered through all of them. None where nobody said.
    ids : tuple of str
        A name of each prompt, for what is drawn at random.
    compact : bool
        Tokens that are left are numbered anew.
    tower : Tower or None
        What the image tower made of the pictures, where a stage asked for it.
    again : callable
        Runs the language model on the prompts as they came, without a cache: for methods that look at a whole pass.
    pixels : dict of str to Tensor
        What the pictures were encoded from, for a stage that asks for it; see ``pixels.seen_pixels``.
    cache : dict
        For pruners: what is found once for the batch.
    notes : list of str
        What the user must know of what a method did, or could not do.
    offers : list of OfferedAnswer
        Of each prompt, where a method makes any.
    """

    site: VisionLanguageSite
    inputs: Mapping[str, Any]
    input_ids: Tensor
    valid: Tensor
    visual: tuple[Tensor, ...]
    embeds: Tensor | None = None
    pictures: Pictured | None = None
    ids: tuple[str, ...] = ()
    compact: bool = False
    tower: Tower | None = None
    again: Callable[[], Any] = lambda: None
    pixels: dict[str, Tensor] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    offers: list[OfferedAnswer] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return len(self.input_ids)

    @property
    def counts(self) -> tuple[int, ...]:
        """Visual tokens of each prompt."""
        return tuple(len(positions) for positions in self.visual)

    def note(self, text: str) -> None:
        """Tell the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def text_after(self, sample: int) -> Tensor:
        """Positions behind the last visual token of a prompt: the text that has seen all of the picture, [R] int64."""
        visual = self.visual[sample]
        start = int(visual[-1]) + 1 if len(visual) else 0
        rows = torch.arange(start, self.input_ids.shape[1], device=self.input_ids.device)
        return rows[self.valid[sample, start:]]


def prompts_of(site: VisionLanguageSite, inputs: Mapping[str, Any], pictures: Pictured | None = None) -> Prompts:
    """The prompts that a model is called with, its visual tokens found by their ids."""
    ids: Tensor = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    visual = tuple(row.nonzero().flatten() for row in is_visual(site, ids))
    if pictures is not None:
        if not pictures or len(ids) % len(pictures):
            raise UsageError(f"pictures: of {len(pictures)} prompts, and the model is given {len(ids)}.")
        pictures = tuple(of for of in pictures for _ in range(len(ids) // len(pictures)))  # beams of one prompt
    own = {name: value for name, value in inputs.items() if isinstance(value, Tensor) or (name == ENCODED and value)}
    return Prompts(site, own, ids, valid, visual, pictures=pictures)


def is_visual(site: VisionLanguageSite, ids: Tensor) -> Tensor:
    """Which ids stand for visual tokens, bool of their shape."""
    return torch.isin(ids, torch.tensor(site.tokens, device=ids.device))


def same_rows(input_ids: Tensor, embeds: Tensor) -> list[int]:
    """Of each row of a batch, the first of those in a row that are the same: beams of one prompt."""
    rows = [0]
    for row in range(1, len(input_ids)):
        same = torch.equal(input_ids[row], input_ids[row - 1]) and torch.equal(embeds[row], embeds[row - 1])
        rows.append(rows[-1] if same else row)
    return rows
