"""Photos with vessel labels, ready for training: cut to the field of view, at the model's scale, and at a finer one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError
from ...io.photo.read import Photo, read_photo
from ...segment.fov import find_fov, fov_from_mask
from ...segment.masks import brightness, darkness, mask_of, read_mask
from ...segment.prepare import Preparation, Prepared, prepare, rescale
from ...segment.settle import HeldOut
from .data import Pair
from .synthetic import RADIUS, draw_photo

SAMPLES = 4096
"""Pixels of the field of view that stand for all of it when a changed photo is normalised."""
FINER = 1.6
"""Views may be magnified up to about twice: photos of many pixels are kept at this many times the scale, too."""


@dataclass(frozen=True, slots=True)
class Example:
    """A photo ready for training: cut to its field of view and at the model's scale.

    Parameters
    ----------
    layers : Tensor, shape (5, h, w), float32
        Red, green, blue in [0, 1], label (the share of a pixel that is vessel), field of view.
    samples : Tensor, shape (3, N)
        Pixels inside the field of view.
    notes : tuple of str
        What was guessed of the label and the mask.
    fine : Tensor, shape (5, h', w'), optional
        The same layers at ``FINER`` times the model's scale, where the photo has that many pixels.
    native : (label, field), two Tensors of bool [H, W], optional
        Label and field of view in the photo's own pixels, cut to the field's box: what a prediction is scored with.
        None: those of ``layers``.
    group : str
        The data set it is of.
    """

    name: str
    layers: Tensor
    samples: Tensor
    notes: tuple[str, ...] = ()
    fine: Tensor | None = None
    native: tuple[Tensor, Tensor] | None = None
    group: str = ""

    @property
    def pixels(self) -> Tensor:
        return self.layers[:3]

    @property
    def fov(self) -> Tensor:
        return self.layers[4] > 0.5

    @property
    def truth(self) -> tuple[Tensor, Tensor]:
        """Label and field of view that a prediction is scored with, bool [H, W]."""
        return (self.layers[3] > 0.5, self.fov) if self.native is None else self.native

    def seen_at(self, scale: float) -> Tensor:
        """The layers whose pixels are nearest to those of a view magnified ``scale`` times: neither blur nor alias."""
        return self.layers if self.fine is None or scale < FINER**0.5 else self.fine


def read_pair(pair: Pair) -> tuple[HeldOut, list[str]]:
    """Photo, label and field of view, and what was guessed. ``InputError`` where label or mask do not fit the photo."""
    photo = read_photo(pair.image)
    notes: list[str] = []
    label = _mask(photo, pair.label, "label", notes, darkness)
    if label.shape != photo.pixels.shape[1:]:
        raise InputError(pair.label, f"is {label.shape[1]} x {label.shape[0]}, its photo {pair.image.name} is not")
    if pair.fov is not None:
        fov = fov_from_mask(_mask(photo, pair.fov, "mask of the field of view", notes, brightness))
        if fov.mask.shape != label.shape:
            raise InputError(pair.fov, f"has another size than its photo {pair.image.name}")
    else:
        try:
            fov = find_fov(photo.pixels)
        except ValueError as error:
            raise InputError(pair.image, str(error)) from None
    if not (label & fov.mask).any():
        raise InputError(pair.label, "marks no vessel inside the field of view", "Check that it is a label")
    return (photo.pixels, label, fov), [f"{pair.image.name}: {note}" for note in notes]


def load_example(pair: Pair, preparation: Preparation) -> Example:
    """A pair, ready for training. Raises ``InputError`` as ``read_pair`` does."""
    shown, notes = read_pair(pair)
    return replace(example_of(pair.name, shown, preparation), group=pair.group, notes=tuple(notes))


def drawn(count: int, seed: int, preparation: Preparation) -> list[HeldOut]:
    """Photos of ``synthetic``, at the model's scale."""
    side = round(preparation.fov_diameter / (2 * RADIUS))
    photos = (draw_photo((seed, number), side) for number in range(count))
    return [(pixels, label, fov_from_mask(pixels.max(0) > 0)) for pixels, label in photos]


def drawn_examples(count: int, seed: int, preparation: Preparation) -> list[Example]:
    """``drawn``, ready for training."""
    return [
        example_of(f"drawn {number:02}", shown, preparation)
        for number, shown in enumerate(drawn(count, seed, preparation))
    ]


def example_of(name: str, shown: HeldOut, preparation: Preparation) -> Example:
    """A photo [3, H, W] with its label [H, W], cut and scaled."""
    pixels, label, fov = shown
    ready = prepare(pixels, fov, preparation)
    top, left, bottom, right = ready.box
    inside = torch.from_numpy(np.ascontiguousarray(fov.mask[top:bottom, left:right]))
    truth = torch.from_numpy(np.ascontiguousarray(label[top:bottom, left:right])) & inside
    samples = ready.pixels[:, ready.mask]  # [3, M]
    spread = torch.linspace(0, samples.shape[1] - 1, min(SAMPLES, samples.shape[1])).long()
    fine = None
    if fov.diameter >= FINER * preparation.fov_diameter:
        finer = replace(preparation, fov_diameter=FINER * preparation.fov_diameter)
        fine = _layers(prepare(pixels, fov, finer), truth)
    return Example(name, _layers(ready, truth), samples[:, spread], fine=fine, native=(truth, inside))


def _layers(ready: Prepared, truth: Tensor) -> Tensor:
    """See ``Example.layers``."""
    share = truth.float()[None]
    if share.shape[1:] != ready.mask.shape:
        share = rescale(share, (ready.mask.shape[0], ready.mask.shape[1])).clamp(0, 1)
    return torch.cat([ready.pixels * ready.mask, share * ready.mask, ready.mask[None].float()])


def _mask(
    photo: Photo, path: Path, what: str, notes: list[str], evidence: Callable[[NDArray[np.float32]], NDArray[Any]]
) -> NDArray[np.bool_]:
    """A label or mask [H, W] as ``attn segment`` reads it, the way up that its photo is."""
    mask = read_mask(path, max_side=None)
    if mask.orientation != photo.orientation:
        return mask_of(photo, path, what, notes, lambda: evidence(photo.pixels), max_side=None).pixels
    notes += [f"its {what} {note}" for note in mask.notes]
    return mask.pixels
