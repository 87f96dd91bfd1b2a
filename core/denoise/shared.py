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
    """What files share.

    Parameters
    ----------
    fitted : Filter, optional
        Serves several images.
    window : Window, optional
        Of all of them, of which the filter's range sigma is a share.
    volume : InVolume, optional
        The volume around a file.
    fitted_in : Window, optional
        Of a kept filter, where its file says so.
    """

    fitted: Filter | None = None
    window: Window | None = None
    volume: InVolume | None = None
    fitted_in: Window | None = None
