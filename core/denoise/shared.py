"""What the task of one file carries beside its paths: small things that others of the batch know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .adaptive.neighbours import Shift
from .base import Filter
from .window import Window


@dataclass(frozen=True, slots=True)
class Beside:
    """A file whose slice is a neighbour, what the user calls it, and its shift in whole pixels."""

    path: Path
    name: str
    shift: Shift


@dataclass(frozen=True, slots=True)
class InVolume:
    """What the task of a file must know of its volume.

    Parameters
    ----------
    beside : tuple of Beside
        In order of position.
    request : str
        Identity of the call and of the volume's members.
    lost : tuple of str
        Names of files that would be neighbours and cannot be used.
    """

    beside: tuple[Beside, ...]
    request: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shared:
    """A filter that serves several images, the window that its range sigma is a share of, the volume around a file."""

    fitted: Filter | None = None
    window: Window | None = None
    volume: InVolume | None = None
