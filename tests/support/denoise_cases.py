"""The evaluation sets of methods/adaptive-denoise.md, section 5, and which half of each chose what was chosen.

phantom    noise-free truth: 4 kinds x 3 doses x 3 kernels in a Latin square, other seeds for dev and test
decimated  CT slices smoothed and thinned, so that most of their own noise is gone, then scanned at a low dose
real       CT slices with the noise of a quarter of their dose added; the truth is the noisy full-dose slice
mayo       the low-dose and full-dose pair (one slice, test half)

Everything is [0, 1]: what an automatic window shows of the noisy slice. Options are chosen on the dev half alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SETS = ("mayo", "phantom", "decimated", "real")
SPLITS = ("dev", "test")
DOSES = (0.1, 0.25, 0.5)
PIXEL_MM = 0.7
FIRST_SEED = {"dev": 0, "test": 100}
"""Of the phantoms: three anatomies a kind follow, and as many seeds of noise."""

REAL = {
    "ct/ge_hispeed_chest_400x512_jpegll.dcm": "dev",
    "ct/ge_lightspeed_vct_abdomen.dcm": "test",
    "ct/ge_rhapsode_128_small.dcm": "dev",
    "ct/hitachi_supria_j2k_pixelrep_mismatch.dcm": "test",
    "ct/philips_ingenuity_phantom_noext": "dev",
    "ct/siemens_sensation64_heart_b25f_j2k_lossy.dcm": "test",
    "ct/toshiba_aquilion_one_chest_1mm.dcm": "dev",
    "series_ge_head_tilt/11.dcm": "test",
    "series_ge_head_tilt/12.dcm": "dev",
    "series_ge_head_tilt/13.dcm": "test",
    "series_ge_head_tilt/14.dcm": "dev",
    "series_ge_head_tilt/15.dcm": "test",
    "series_ge_head_tilt/16.dcm": "dev",
    "series_ge_head_tilt/17.dcm": "test",
    "series_ge_head_tilt/18.dcm": "dev",
}
"""Slices below ``DATA/dicom``; their order is part of the simulated noise."""

DECIMATED = {
    "ct/ge_hispeed_chest_400x512_jpegll.dcm": 0.1,
    "ct/philips_ingenuity_phantom_noext": 0.1,
    "ct/siemens_sensation64_heart_b25f_j2k_lossy.dcm": 0.1,
}
"""Of these, the large ones without padding; at which share of the dose they are scanned."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case, before anything is drawn or read.

    Parameters
    ----------
    name : str
        The set's name and what is special to the case.
    group : str
        One of `SETS`.
    split : str
        ``"dev"`` or ``"test"``.
    source : str
        A file below the data folder, or a phantom's kind.
    dose : float
        Of the simulated scan, as a share of the source's, or of the automatic exposure for a phantom.
    kernel : str
        Of a phantom.
    seeds : tuple of int
        Of the anatomy and of the noise.
    """

    name: str
    group: str
    split: str
    source: str
    dose: float
    kernel: str
    seeds: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Scaled:
    """Noisy slice and truth [H, W], float32 in [0, 1], with where they are no padding; and a digest of the three."""

    noisy: NDArray[np.float32]
    truth: NDArray[np.float32]
    valid: NDArray[np.bool_] | None

    @property
    def digest(self) -> str:
        parts = (self.noisy, self.truth, *(() if self.valid is None else (self.valid,)))
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


def cases(split: str = "all", groups: tuple[str, ...] = SETS) -> list[Case]:
    """The cases of one half, or of both."""
    halves = SPLITS if split == "all" else (split,)
    return [case for case in _all() if case.split in halves and case.group in groups]


def _all() -> Iterator[Case]:
    from attn.core.denoise.phantoms.phantom import KERNELS, KINDS

    yield Case("mayo", "mayo", "test", "ct/mayo_slice_pair.npz", 0.0, "", (0, 0))
    for split in SPLITS:
        first = FIRST_SEED[split]
        for k, kind in enumerate(KINDS):
            for i, dose in enumerate(DOSES):
                kernel = list(KERNELS)[(i + k) % 3]
                seeds = first + i, first + 10 * k + i
                yield Case(f"phantom-{kind}-{dose:g}-{kernel}", "phantom", split, kind, dose, kernel, seeds)
    for n, (file, split) in enumerate(REAL.items()):
        if file in DECIMATED:
            dose = DECIMATED[file]
            yield Case(f"decimated-{Path(file).stem}-{dose:g}", "decimated", split, file, dose, "standard", (0, n))
        yield Case(f"real-{Path(file).stem}", "real", split, file, 0.25, "", (0, 77))


def make(case: Case, data: Path) -> Scaled:
    """Draw or read a case. ``data``: the folder of shared data, which phantoms do without."""
    from attn.core.denoise.phantoms.phantom import KERNELS
    from attn.core.denoise.phantoms.scan import scan
    from attn.core.denoise.phantoms.single import draw_slice
    from attn.core.denoise.simulate import simulate_low_dose

    if case.group == "mayo":
        with np.load(data / case.source) as pair:
            return _scaled(pair["noisy"], pair["clean"], None, hu=False)
    if case.group == "phantom":
        anatomy, noise = case.seeds
        phantom = draw_slice(case.source, anatomy, pixel_mm=PIXEL_MM, cutoff_per_mm=KERNELS[case.kernel])
        return _scaled(scan(phantom, case.dose, seed=noise)[0], phantom.truth[0], None)
    hu, valid, mm = _slice(data / "dicom" / case.source)
    if case.group == "decimated":
        thinned = _thinned(hu, mm, KERNELS[case.kernel])
        return _scaled(scan(thinned, case.dose, seed=case.seeds[1])[0], thinned.truth[0], None)
    noisy = simulate_low_dose(hu, dose=case.dose, pixel_mm=mm, seed=case.seeds[1], valid=valid)
    return _scaled(noisy.astype(hu.dtype), hu, valid)


def _slice(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, float]:
    """First slice [H, W] of a file in HU, where it is no padding, and its pixels' mean side in mm."""
    from attn.core.io import read_grey

    image = read_grey(path)
    if image.unit != "HU":
        raise ValueError(f"{path.name} is not in HU")
    mm = float(np.mean(image.spacing_mm)) if image.spacing_mm else 1.0
    return np.asarray(image.pixels[0], np.float32), None if image.valid is None else image.valid[0], mm


def _thinned(hu: NDArray[np.float32], mm: float, cutoff_per_mm: float):  # -> Phantom
    """A slice smoothed (Gaussian, 1.5 pixels), and every second pixel of it: its own noise is mostly gone."""
    from scipy.ndimage import gaussian_filter

    from attn.core.denoise.phantoms.phantom import Phantom

    return Phantom("decimated", 0, gaussian_filter(hu, 1.5)[None, ::2, ::2], 2 * mm, cutoff_per_mm)


def _scaled(noisy: NDArray, truth: NDArray, valid: NDArray[np.bool_] | None, *, hu: bool = True) -> Scaled:
    """As an automatic window maps the noisy slice to [0, 1]."""
    seen = noisy if valid is None else noisy[valid]
    low, high = float(seen.min()), float(seen.max())
    if hu:
        low, high = max(low, -1024.0), min(high, 3071.0)
    x, y = (np.clip((pixels - low) / (high - low), 0, 1).astype(np.float32) for pixels in (noisy, truth))
    if valid is not None:
        x[~valid] = y[~valid] = 0
    return Scaled(x, y, valid)
