"""What a filter won and what it lost, as a report shows it: noise power, edges, inserts, and what was taken away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...io.image import GreyImage
from ...report.sections import Curve, Row, Section, Table
from ..base import Box
from ..noise import noise_std
from ..options import DenoiseOptions
from ..phantoms.files import phantom_of
from ..phantoms.phantom import Insert, Phantom
from ..window import Window
from .detection import Detected, Detector
from .edges import LEAST_CNR, edge_response
from .noise_power import NoisePower, Squares, noise_power
from .places import slices_measured, uniform_places, usable
from .removed import edge_correlation
from .together import EDGES, INSERTS, NOISE, TITLES

LOW_CONTRAST = 20.0
"""HU: the strongest insert that counts in ``contrast_kept``."""
SHARES = {"f50": 0.5, "f10": 0.1}
"""Of the transfer function, and what the frequencies are called at which it falls to them."""

Stack = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What an item of a report says of a result."""

    metrics: Mapping[str, float]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...]


NOTHING = Measured({}, (), ())


def wanted_measures(image: GreyImage, window: Window, options: DenoiseOptions) -> Measures | None:
    """The measures of an image where a report, a comparison or named regions ask for them, and there is a window."""
    if window.width <= 0 or not (options.physics or options.compare or options.rois):
        return None
    return Measures(image, window, options.rois, phantom_of(image))


class Measures:
    """What can be measured on a noisy image: prepared once, for every result of it.

    Parameters
    ----------
    image : GreyImage
        The noisy image.
    window : Window
        Not empty.
    rois : sequence of Box
        What the user says is uniform.
    phantom : Phantom, optional
        Whose scan the image is.
    """

    def __init__(
        self, image: GreyImage, window: Window, rois: Sequence[Box] = (), phantom: Phantom | None = None
    ) -> None:
        self.image, self.window, self.phantom = image, window, phantom
        self.warnings: list[str] = []
        self.squares: Squares | None = None
        self.chosen_by, self.why_not = "", ""
        truth = None if phantom is None else phantom.truth
        try:
            self.squares, self.chosen_by = uniform_places(image, window, rois, truth)
        except ValueError as error:
            self.why_not = str(error)
            if rois:  # who asked for it is told at once, others by the report
                self.warnings.append(f"noise power is not measured: {error}")
        self.before = self._power(image.pixels)
        self.detectors: list[Detector] = []
        self.detected: list[Detected] = []
        self.edges: list[Insert] = []
        if phantom is None:
            return
        for disc in phantom.inserts:
            try:
                self.detectors.append(Detector(phantom.truth[0], disc))
            except ValueError as error:
                self.warnings.append(f"an insert is not measured: {error}")
        self.detected = [detector(image.pixels) for detector in self.detectors]
        noise = self.before.std if self.before else noise_std(image.pixels[0], level=2)
        scans = len(image.pixels)
        self.edges = [
            disc
            for disc in (*phantom.rods, *phantom.inserts)
            if abs(disc.contrast) * disc.radius * math.sqrt(math.pi * scans) >= LEAST_CNR * noise
        ]

    def tell(self, denoised: Stack) -> Measured:
        """Metrics, tables and curves for the result ``denoised`` [Z, H, W]."""
        inserts = list(self._insert_rows(denoised))
        edges = list(self._edge_rows(denoised))
        sections: list[Section] = []
        if (after := self._power(denoised)) is not None:
            assert self.before is not None
            sections += self._noise(self.before, after)
        else:
            sections.append(_table(NOISE, [{"note": f"not measured: {self.why_not}"}]))
        sections += [_table(name, rows) for name, rows in ((INSERTS, inserts), (EDGES, edges)) if rows]
        return Measured(self._numbers(denoised, after, inserts, edges), tuple(sections), tuple(self.warnings))

    def numbers(self, denoised: Stack) -> dict[str, float]:
        """One row of a comparison: shares of 1 that were kept, and what was removed."""
        rows = list(self._insert_rows(denoised)), list(self._edge_rows(denoised))
        return self._numbers(denoised, self._power(denoised), *rows)

    def _power(self, pixels: Stack) -> NoisePower | None:
        return None if self.squares is None else noise_power(pixels, self.squares, self.image.spacing_mm or (1.0, 1.0))

    def _noise(self, before: NoisePower, after: NoisePower) -> Iterator[Section]:
        length = "mm" if self.image.spacing_mm else "px"
        rows = [
            {
                "image": name,
                "noise_sd": power.std,
                f"peak_per_{length}": power.peak_frequency,
                f"mean_per_{length}": power.mean_frequency,
                "regions": power.regions,
                "region_px": len(power.spectrum),
                "chosen_by": self.chosen_by,
            }
            for name, power in (("before", before), ("after", after))
        ]
        yield _table(NOISE, rows)
        lines = {"before": before.radial.tolist(), "after": after.radial.tolist()}
        unit = f"{'' if self.image.unit == 'stored' else self.image.unit}² {length}²".lstrip("² ")
        title = f"noise power spectrum, {unit}"
        xlabel = f"cycles/{length}"
        yield Curve("noise_power_spectrum", lines, before.frequency.tolist(), xlabel, title=title, printed=False)

    def _insert_rows(self, denoised: Stack) -> Iterator[Row]:
        for detector, before in zip(self.detectors, self.detected, strict=True):
            after = detector(denoised)
            yield {
                **self._place(detector.disc),
                "contrast_truth_hu": detector.contrast,
                "contrast_before_hu": before.contrast,
                "error_before_hu": before.error,
                "contrast_after_hu": after.contrast,
                "error_after_hu": after.error,
                "cnr_before": before.cnr,
                "cnr_after": after.cnr,
                "d_prime_before": before.d_prime,
                "d_prime_after": after.d_prime,
            }

    def _edge_rows(self, denoised: Stack) -> Iterator[Row]:
        if self.phantom is None:
            return
        images = {"truth": self.phantom.truth[0], "before": self.image.pixels.mean(0), "after": denoised.mean(0)}
        for disc in self.edges:
            seen = {name: self._falls(image, disc) for name, image in images.items()}
            values = {f"{word}_{name}_per_mm": falls[word] for word in SHARES for name, falls in seen.items()}
            yield {**self._place(disc), "contrast_hu": disc.contrast, **values}

    def _falls(self, image: NDArray[np.floating[Any]], disc: Insert) -> dict[str, float]:
        """Frequencies at which the response at a disc's edge falls to ``SHARES``; NaN where it cannot be measured."""
        assert self.phantom is not None
        try:
            response = edge_response(image, disc.row, disc.column, disc.radius, pixel_mm=self.phantom.pixel_mm)
        except ValueError:  # at the rim of the image, or blurred away
            return dict.fromkeys(SHARES, math.nan)
        return {word: response.falls_to(share) for word, share in SHARES.items()}

    def _place(self, disc: Insert) -> Row:
        assert self.phantom is not None
        return {
            "scans": len(self.image.pixels),
            "row": round(disc.row, 1),
            "column": round(disc.column, 1),
            "radius_mm": disc.radius * self.phantom.pixel_mm,
        }

    def _numbers(
        self, denoised: Stack, after: NoisePower | None, inserts: Sequence[Row], edges: Sequence[Row]
    ) -> dict[str, float]:
        """What can be said of: mean frequency of the noise after over before, contrast and f50 kept, edges removed."""
        values = {"removed_edge_correlation": self._removed(denoised)}
        if after is not None and self.before is not None:
            values["noise_frequency_kept"] = after.mean_frequency / self.before.mean_frequency
        low = [row for row in inserts if abs(row["contrast_truth_hu"]) <= LOW_CONTRAST]
        seen = [
            sum(row["contrast_truth_hu"] * row[f"contrast_{when}_hu"] for row in low) for when in ("before", "after")
        ]
        if low and seen[0] > 0:
            values["contrast_kept"] = seen[1] / seen[0]
        rods = [] if self.phantom is None else [rod.contrast for rod in self.phantom.rods]
        sharp = [row["f50_after_per_mm"] / row["f50_truth_per_mm"] for row in edges if row["contrast_hu"] in rods]
        if sharp:  # of the rods alone: whether an insert is among the edges depends on the noise
            values["f50_kept"] = float(np.mean(sharp))
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _removed(self, denoised: Stack) -> float:
        """Mean over the slices that have edges; NaN where none has."""
        found = []
        for z in slices_measured(len(denoised)):
            noisy, valid = self.image.pixels[z], None if self.image.valid is None else self.image.valid[z]
            level = noise_std(noisy, valid, level=2)
            found.append(edge_correlation(noisy, denoised[z], level, usable(self.image, self.window, z)))
        known = [value for value in found if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan


def _table(name: str, rows: Sequence[Row]) -> Table:
    """Of one item: a terminal and tables have those of all items together."""
    return Table(name, rows, title=TITLES[name], detail=True)
