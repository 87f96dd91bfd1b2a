"""The one form in which grey images of every file kind travel through the program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..options import OptionError
from .place import SlicePlace

UNITS = ("hu",)
"""What a user may say that values are in where a file does not tell."""
Kind = Literal["dicom", "png", "tiff", "npy", "npz", "nifti"]


@dataclass(frozen=True, slots=True)
class GreyImage:
    """One file's grey image or stack of images, in physical units.

    Parameters
    ----------
    path : Path
        Where it was read.
    kind : str
        File kind; ``write_grey`` writes the same kind back.
    pixels : ndarray, shape (Z, H, W), float32 (float64 where the file needs it)
        Intensities in ``unit``; Z = 1 for a single image.
    unit : str
        ``"HU"`` for CT with a rescale, or where the user says so; for other DICOM what its header names (``"Bq/ml"``),
        ``"rescaled"`` where it has a rescale and no unit; else ``"stored"`` (values as in the file).
    valid : ndarray of bool, shape (Z, H, W), or None
        False where the file marks pixels as padding (outside the scanner's field of view). They take no part in any
        statistic and come back unchanged. None means all valid.
    spacing_mm : tuple of float or None
        Row and column spacing in mm.
    modality : str
        ``"CT"``, ``"MR"``, … for DICOM; empty otherwise.
    stored : ndarray, shape (Z, H, W), or None
        The values as stored in the file, in the file's own dtype, where ``pixels`` is a conversion of them.
    source : object
        What the writer of this kind needs to write a file like the one read (a DICOM data set, a NIfTI header, …).
    series : mapping
        For DICOM: ``uid``, ``number``, ``position`` (mm along the slice normal, or None), ``localizer`` (bool).
    warnings : tuple of str
        What the reader noticed and the user should know.
    places : tuple of SlicePlace or None
        Where every slice lies; None, or an empty tuple, where the file does not say.
    """

    path: Path
    kind: Kind
    pixels: NDArray[np.floating[Any]]
    unit: str = "stored"
    valid: NDArray[np.bool_] | None = None
    spacing_mm: tuple[float, float] | None = None
    modality: str = ""
    stored: NDArray[Any] | None = None
    source: Any = None
    series: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    places: tuple[SlicePlace | None, ...] = ()

    @property
    def low_is_white(self) -> bool:
        """Viewers show the lowest value as white: DICOM's MONOCHROME1, TIFF's WhiteIsZero."""
        if isinstance(self.source, dict):
            return self.source.get("photometric") == "miniswhite"
        dataset = getattr(self.source, "dataset", None)
        return dataset is not None and str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width, as viewers show it: 1 where the file says nothing that makes sense."""
        spacing = self.spacing_mm
        if spacing is None and (dataset := getattr(self.source, "dataset", None)) is not None:
            try:
                down, across = (float(number) for number in dataset.get("PixelAspectRatio") or ())
                spacing = down, across
            except (TypeError, ValueError):
                pass
        aspect = spacing[0] / spacing[1] if spacing and spacing[0] > 0 and spacing[1] > 0 else 1.0
        return aspect if 1 / 50 <= aspect <= 50 else 1.0


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a written image came about: what a DICOM file must say about itself, and what other kinds may note.

    Parameters
    ----------
    description : str
        Method, version and parameters in words (DICOM DerivationDescription; cut to 1024 characters).
    suffix : str
        Appended to the series description, e.g. ``"denoised"``.
    series_uid : str
        SeriesInstanceUID of the new series: the same for all slices of one source series.
    """

    description: str
    suffix: str
    series_uid: str


class GreyWriter(Protocol):
    """What ``write_dicom``, ``write_png`` and ``write_tiff`` are: new pixels, like the file that was read."""

    def __call__(
        self,
        image: GreyImage,
        pixels: NDArray[Any],
        path: Path,
        derivation: Derivation | None = None,
        notes: list[str] | None = None,
    ) -> None:
        """Write a file whole or not at all.

        Parameters
        ----------
        image : GreyImage
            As this kind's reader gave it.
        pixels : ndarray, shape (Z, H, W)
            Values in ``image.unit``.
        path : Path
        derivation : Derivation or None
            What the file says of its making.
        notes : list of str or None
            Gains what of the source could not be kept, and how many values did not fit.

        Raises
        ------
        InputError
            If the place cannot be written.
        ValueError
            If the shape or type is not one of such files, or a pixel to be written is NaN or infinite.
        """
        ...


def check_unit(unit: str | None) -> None:
    """Raise ``UsageError`` for a unit that is none of ``UNITS``."""
    if unit is not None and unit not in UNITS:
        raise OptionError(f"{{unit}}: {unit!r} is unknown. Use {' or '.join(UNITS)}, or leave it out.")
