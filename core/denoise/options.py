"""What `attn denoise` can be told, as one frozen value that travels to the workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .base import FitOptions, Region


@dataclass(frozen=True, slots=True)
class DenoiseOptions:
    """Everything but where the batch runs.

    Parameters
    ----------
    method : str
        A name in ``attn.core.denoise.METHODS``.
    fit : FitOptions
        What fitting depends on.
    fit_on : str
        ``"each"`` fits every slice; ``"first"``, ``"middle"`` or an index fits one slice of a series or stack and
        applies the filter to all of it.
    window : str
        ``"auto"``, a preset, or ``"CENTER,WIDTH"``: what is mapped to [0, 1].
    strength : float
        Factor on the range sigma after the fit; 1 leaves it (filter2noise).
    regions : tuple of Region
        Further factors inside rectangles (filter2noise).
    maps, figure, compare : bool
        Write the sigma maps; write a before/after picture; run every method side by side.
    reference : Path or None
        Clean image, or a directory with files of the inputs' names: adds psnr, ssim, rmse.
    simulate_dose : float or None
        Fraction of the dose to simulate first; the input itself is then the reference.
    save_filter, filter : Path or None
        Where to keep the fitted filter; a kept filter to use instead of fitting.
    device, dtype : str
    luma : bool
        Turn colour images into grey instead of refusing them.
    fill : float or None
        Replaces NaN and infinities in floating-point input instead of refusing them; in physical units.
    unit : "hu" or None
        What the values of files are in that do not say (all kinds but DICOM).
    """

    method: str = "filter2noise"
    fit: FitOptions = field(default_factory=FitOptions)
    fit_on: str = "each"
    window: str = "auto"
    strength: float = 1.0
    regions: tuple[Region, ...] = ()
    maps: bool = False
    figure: bool = False
    compare: bool = False
    reference: Path | None = None
    simulate_dose: float | None = None
    save_filter: Path | None = None
    filter: Path | None = None
    device: str = "auto"
    dtype: str = "float32"
    luma: bool = False
    fill: float | None = None
    unit: str | None = None
