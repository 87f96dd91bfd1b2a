"""A moment at which tokens are chosen: what a method can look at, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .prompts import Prompts
from .rows import LayerInput, attention_of_rows


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What stays of the visual tokens of one prompt.

    Parameters
    ----------
    keep : Tensor of int64 [k]
        Numbers of the tokens that stay, ascending; where tokens are numbered anew, in the order in which they are to
        stand.
    features : Tensor [k, D], optional
        What stands in their places, where tokens were merged.
    score : Tensor [n], optional
        By which they were chosen, of the tokens that were there; for reports.
    """

    keep: Tensor
    features: Tensor | None = None
    score: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """In front of decoder layer ``layer``; 0 is in front of the language model.

    What is chosen at it may call the model itself: it then runs with all of its tokens.

    Parameters
    ----------
    layer : int
    prompts : Prompts
    hidden : Tensor [B, n, D]
        Input of the layer, as it stands.
    numbers : tuple of Tensor of int64 [n_b]
        Of each prompt, its visual tokens that are still there, in the order in which they stand.
    places : tuple of Tensor of int64 [n_b]
        Where these are in ``hidden``.
    positions : Tensor of int64 [B, n]
        Where each row of ``hidden`` was in the prompt.
    alive : Tensor of bool [B, n]
        What is no padding.
    previous, next : LayerInput or None
        Of the layer in front, where the stage asked for it, and of this layer.
    """

    layer: int
    prompts: Prompts
    hidden: Tensor
    numbers: tuple[Tensor, ...]
    places: tuple[Tensor, ...]
    positions: Tensor
    alive: Tensor
    previous: LayerInput | None = None
    next: LayerInput | None = None

    def attention(self, rows: Sequence[Tensor], which: str = "previous") -> list[Tensor]:
        """Attention of rows to the visual tokens that are there, after the softmax over all keys.

        Parameters
        ----------
        rows : sequence of Tensor of int64 [R_b]
            Of each prompt, places in ``hidden``.
        which : {"previous", "next"}
            The layer in front (its input had the same rows), or this one.

        Returns
        -------
        list of Tensor [H, R_b, n_b], float32
        """
        source = self.previous if which == "previous" else self.next
        if source is None:
            raise ValueError(f"the attention of the {which} layer was not asked for by the stage")
        attention = attention_of_rows(source, rows, self.alive)
        return [
            of_prompt[:, : len(wanted), places]
            for of_prompt, wanted, places in zip(attention, rows, self.places, strict=True)
        ]

    def last_rows(self) -> list[Tensor]:
        """Place of the last token of each prompt, [1]."""
        n = self.hidden.shape[1]
        steps = torch.arange(n, device=self.hidden.device)
        return [steps[alive][-1:] for alive in self.alive]


@dataclass(frozen=True, slots=True)
class PruneStage:
    """When a method chooses, and what it needs for it.

    Parameters
    ----------
    layer : int
        In front of this decoder layer; 0: in front of the language model.
    choose : callable (Moment) -> list of TokenChoice
        One for each prompt.
    attention : sequence of "previous", "next"
        Layers whose rows of attention ``choose`` looks at.
    tower : sequence of int, optional
        Layers of the image tower, from 0, that ``choose`` looks at through ``moment.prompts.tower``; empty: only where
        the tokens come from.
    pixels : bool
        ``choose`` looks at ``prompts.pixels``.
    renumber : bool
        At layer 0: what is left is numbered anew once, whatever becomes of positions behind later choices. Models whose
        positions are rows and columns of the picture keep them.
    """

    layer: int
    choose: Callable[[Moment], list[TokenChoice]]
    attention: tuple[str, ...] = ()
    tower: tuple[int, ...] | None = None
    pixels: bool = False
    renumber: bool = False
