"""Hooks that note what an image tower does, in the few layers that a method asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from ...errors import UsageError
from ...models.family import Place, attention_places, layout_of
from .sites import VisionLanguageSite


@dataclass(slots=True)
class TowerCall:
    """One run of the tower.

    Parameters
    ----------
    grid : Tensor of int64 [pictures, 3] or None
        Frames, rows and columns of patches, where pictures are packed one behind the other.
    inputs : dict, layer -> (args, kwargs)
        What the attention of a layer got.
    shape : tuple of int
        Of the last layer's output: views and rows, or rows alone where they are packed; and the width.
    features : Tensor or None
        What the projector got.
    packing : partial or None
        How the model laid tiles together to pictures.
    pixels : Tensor or None
        What the tower got: views [V, 3, H, W], or packed patches [N, 3 * frames * p * p].
    """

    grid: Tensor | None = None
    inputs: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    features: Tensor | None = None
    packing: partial[Any] | None = None
    pixels: Tensor | None = None


class TowerWatch:
    """Notes what a tower does, for the layers that methods ask for.

    Parameters
    ----------
    site : VisionLanguageSite
    layers : sequence of int
        From 0.

    Raises
    ------
    UsageError
        If a layer does not exist, or its attention is of an unknown class.
    """

    def __init__(self, site: VisionLanguageSite, layers: Sequence[int]) -> None:
        self.site, self.calls = site, list[TowerCall]()
        places = attention_places(site.tower)
        for layer in layers:
            if not 0 <= layer < len(places):
                raise UsageError(f"layer {layer}: {type(site.tower).__name__} has layers 0 to {len(places) - 1}.")
            layout_of(places[layer].module)
        self.layers: list[Place] = [places[layer] for layer in sorted(set(layers))]

    def hooks(self) -> Iterator[Any]:
        """Handles of hooks, each with ``remove``."""
        yield self.site.tower.register_forward_pre_hook(self._begin, with_kwargs=True)
        for place in self.layers:
            yield place.module.register_forward_pre_hook(partial(self._attention, place.number), with_kwargs=True)
        yield projection_of(self.site).register_forward_pre_hook(self._features)
        yield attention_places(self.site.tower)[-1].block.register_forward_hook(self._shape)
        if hasattr(self.site.model.model, "pack_image_features"):
            yield _Packing(self.site.model.model, self.calls)

    def taken(self) -> list[TowerCall]:
        """What was noted since the last time."""
        calls = self.calls[:]
        self.calls.clear()
        return calls

    # -- hooks

    def _begin(self, tower: Any, args: Any, kwargs: Any) -> None:
        pixels = args[0] if args else kwargs.get("pixel_values")
        self.calls.append(TowerCall(grid=kwargs.get("grid_thw"), pixels=pixels))

    def _attention(self, layer: int, module: Any, args: Any, kwargs: Any) -> None:
        if self.calls and layer not in self.calls[-1].inputs:  # not when it runs again to be looked at
            self.calls[-1].inputs[layer] = (args, kwargs)

    def _shape(self, block: Any, args: Any, out: Any) -> None:
        if self.calls:
            self.calls[-1].shape = tuple((out[0] if isinstance(out, tuple) else out).shape)

    def _features(self, projection: Any, args: Any) -> None:
        if self.calls and self.calls[-1].features is None:
            self.calls[-1].features = args[0].detach()


class _Packing:
    """Notes how a model lays tiles together, until ``remove``."""

    def __init__(self, model: Any, calls: list[TowerCall]) -> None:
        self.model, pack = model, model.pack_image_features

        def noted(*args: Any, **kwargs: Any) -> Any:
            if calls:
                calls[-1].packing = partial(pack, *args, **kwargs)
            return pack(*args, **kwargs)

        model.pack_image_features = noted

    def remove(self) -> None:
        del self.model.pack_image_features


def projection_of(site: VisionLanguageSite) -> Any:
    """The module that gets one row per visual token."""
    return getattr(site.projector, "modality_projection", site.projector)
