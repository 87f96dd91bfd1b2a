"""What every denoiser shares: the options that reach it and the shape of what fitting returns.

A method's ``home`` is ``fit(image, options, progress=None) -> Filter``. Fitting looks at the noisy image alone (it
trains, or chooses parameters from the estimated noise); the filter can then be applied to that image and to others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from ..bundles import Seed
from ..options import Option, OptionError

if TYPE_CHECKING:
    from torch import Tensor

Quality = Literal["fast", "balanced", "paper"]
PresetName = Literal["default", "full-dose"]
STRONGEST = 1e6
"""The largest factor on a range sigma: float32 holds what it makes of any sigma."""
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of pixels and the factor on the range sigma in it: columns x0..x1-1, rows y0..y1-1."""

    x0: int
    y0: int
    x1: int
    y1: int
    strength: float


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels that the user says is uniform: columns x0..x1-1, rows y0..y1-1."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __str__(self) -> str:
        return f"{self.x0},{self.y0},{self.x1},{self.y1}"


LEAST_BOX = 16
"""Pixels: a smaller rectangle has too few frequencies for a noise power spectrum."""


def parse_box(text: str) -> Box:
    """``X0,Y0,X1,Y1`` as a Box; ``ValueError`` for anything else."""
    try:
        x0, y0, x1, y1 = (int(number) for number in text.split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = -1
    if not (x0 >= 0 and y0 >= 0 and x1 - x0 >= LEAST_BOX and y1 - y0 >= LEAST_BOX):
        raise ValueError(f"{text!r} is no uniform region (use X0,Y0,X1,Y1, at least {LEAST_BOX} pixels wide and high).")
    return Box(x0, y0, x1, y1)


def check_strength(strength: float, regions: Sequence[Region] = ()) -> None:
    """Raise ``ValueError`` if a factor is negative or not finite, or a rectangle is empty."""
    for factor in (strength, *(region.strength for region in regions)):
        if not 0 <= factor < float("inf"):
            raise ValueError(f"a strength must be a finite number of at least 0, got {factor}.")
    for region in regions:
        if not (0 <= region.x0 < region.x1 and 0 <= region.y0 < region.y1):
            raise ValueError(f"a region needs 0 <= x0 < x1 and 0 <= y0 < y1, got {region}.")


def parse_edge_weight(text: str) -> Any:
    """A number, or ``auto``. Raises ``ValueError`` for anything else."""
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text!r} is neither auto nor a number of at least 0.")
    return value


def parse_region(text: str) -> Region:
    """``X0,Y0,X1,Y1=S`` as a Region; ``ValueError`` for anything else."""
    box, equals, strength = text.partition("=")
    try:
        x0, y0, x1, y1 = (int(number) for number in box.split(","))
        region = Region(x0, y0, x1, y1, float(strength))
    except ValueError:
        region = None
    if region is None or not equals or not (0 <= x0 < x1 and 0 <= y0 < y1 and 0 <= region.strength <= STRONGEST):
        raise ValueError(f"{text!r} is no region (use X0,Y0,X1,Y1=S with X0 < X1, Y0 < Y1, S >= 0).")
    return region


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Everything that fitting may depend on. ``None`` means the method's own default (or what ``quality`` says).

    Parameters
    ----------
    preset : {"default", "full-dose"}
        How much noise is taken away (adaptive). ``full-dose`` keeps the grain of a scan at full dose.
    quality : {"fast", "balanced", "paper"}
        How long a trained method trains. ``paper`` is the published recipe.
    steps : int or None
        Optimisation steps; overrides ``quality``.
    stages : int
        Filters in sequence (filter2noise).
    patch_size : int
        Side in pixels of the patches that share one set of sigmas (filter2noise).
    edge_weight : float or None
        Lambda, the weight of the edge term; higher keeps more edges and more noise (filter2noise). None: the published
        400 for ``quality="paper"``, otherwise chosen from the noisy image, which is our addition and what ``"auto"``
        asks for.
    learning_rate : float or None
    sigma : float or None
        Noise standard deviation in units of the image ([0, 1]); estimated from the image when None.
    seed : int
        Seed of everything random.
    """

    preset: Annotated[
        PresetName,
        Option(
            "adaptive: default takes away as much noise as the error that it estimates asks for; full-dose leaves the "
            "grain of a full-dose scan.",
            metavar="default|full-dose",
        ),
    ] = "default"
    quality: Annotated[
        Quality,
        Option(
            "filter2noise, zs-n2n: how long they train; paper is the published recipe.", metavar="fast|balanced|paper"
        ),
    ] = "balanced"
    steps: Annotated[
        int | None,
        Option("filter2noise, zs-n2n: optimisation steps.", metavar="N", least=1, most=1_000_000, shown="by --quality"),
    ] = None
    stages: Annotated[int, Option("filter2noise: filters in sequence.", metavar="N", least=1, most=4)] = 2
    patch_size: Annotated[
        int, Option("filter2noise: pixels that share one set of sigmas.", metavar="N", least=2, most=16)
    ] = 8
    edge_weight: Annotated[
        float | None,
        Option(
            "filter2noise: weight of the edge term; higher keeps more edges and more noise. The published value is "
            "400; auto (ours) lowers it where that leaves the noise in place.",
            name="--lambda", metavar="X|auto", least=0, parse=parse_edge_weight,
            shown="400 with --quality paper, else auto",
        ),
    ] = None  # fmt: skip
    learning_rate: float | None = None
    sigma: Annotated[
        float | None,
        Option(
            "Noise level for the classical methods, in units of the window.",
            metavar="X", least=0, most=1000, shown="estimated",
        ),
    ] = None  # fmt: skip
    seed: Seed = 77

    def __post_init__(self) -> None:
        if isinstance(self.edge_weight, str):
            if self.quality == "paper":
                raise OptionError(
                    "{edge_weight} auto is not part of the published recipe. Leave out {quality} paper, or auto."
                )
            object.__setattr__(self, "edge_weight", None)


class Filter(Protocol):
    """A fitted denoiser.

    One whose method's row names the options has more: ``with_strength(strength, regions)`` for ``strength`` and
    ``regions``, ``save(path, **metadata)`` (and a ``load(path)`` beside the method's ``fit``) for ``save_filter`` and
    ``filter``, ``maps(image)`` or ``sigma_maps(image)`` for ``maps`` (see ``maps.py``). Any may have ``warnings``,
    texts that a user must see; ``shape``, if it is for images of one size; and ``released()``, the same filter without
    what it holds of the image it was fitted on.

    Attributes
    ----------
    parameters : int
        Numbers that were learned (0 for classical methods).
    steps : int
        Optimisation steps that were run (0 for classical methods).
    settings : mapping of str to float
        Chosen parameters under stable lower-case names, for the report.
    """

    @property
    def parameters(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def settings(self) -> Mapping[str, float]: ...

    def __call__(self, image: Tensor) -> Tensor:
        """Denoise ``image`` [H, W], float32, normally within [0, 1]; same shape, dtype and device."""
        ...
