"""A fitted trend as a file: what `attn prune calibrate debias` writes and ``+debias`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from ..calibrated import read_calibration, write_calibration
from ..engine.sites import VisionLanguageSite
from .trend import Trend

NAME = "debias"


@dataclass(frozen=True, slots=True)
class FittedTrend:
    """A trend and what it was fitted to.

    Parameters
    ----------
    trend : Trend
    model : str
        As the user named it.
    fingerprint : str
        Of its weights; empty where it is not known.
    shape : str
        Class, decoder layers and width.
    method : str
        Whose scores they were.
    layer : int
        The scores were asked for in front of this decoder layer.
    length : int
        L, visual tokens of a picture.
    domain : str
        See ``trend.fit_trend``.
    samples : int
    data, split : str
        What was read.
    marks : tuple of str
        Of the samples (``data.marks.mark_of``): none of them may be evaluated on.
    """

    trend: Trend
    model: str
    fingerprint: str
    shape: str
    method: str
    layer: int
    length: int
    domain: str
    samples: int
    data: str
    split: str
    marks: tuple[str, ...]

    def differences(self, site: VisionLanguageSite, layer: int, lengths: Sequence[int], method: str = "") -> list[str]:
        """What is not as it was when the trend was fitted, each a line for the user; no ``method``: not known."""
        texts = []
        if (shape := shape_of(site)) != self.shape:
            texts.append(f"the trend was fitted to {self.shape}, this model is {shape}.")
        elif site.fingerprint and self.fingerprint and site.fingerprint != self.fingerprint:
            texts.append(f"the trend was fitted to other weights, those of {self.model}.")
        if method and method != self.method:
            texts.append(f"the trend was fitted to the scores of {self.method}, not of {method}.")
        if layer != self.layer:
            texts.append(f"the trend was fitted in front of layer {self.layer}, tokens are chosen in front of {layer}.")
        if others := [length for length in lengths if length != self.length]:
            counts = ", ".join(str(length) for length in others[:4])
            texts.append(f"the trend of {self.length} visual tokens is stretched to {counts}.")
        return texts


def shape_of(site: VisionLanguageSite) -> str:
    """Class, depth and width of a model, for people."""
    width = site.model.get_input_embeddings().weight.shape[1]
    return f"{type(site.model).__name__} with {site.depth} layers of width {width}"


def write_trend(path: str | PathLike[str], fitted: FittedTrend) -> None:
    """Write a trend as JSON."""
    write_calibration(path, NAME, fitted)


def read_trend(path: str | PathLike[str]) -> FittedTrend:
    """The trend in a file. Raises ``InputError`` if it cannot be read or is something else."""
    return read_calibration(path, NAME, _trend_of)


def _trend_of(values: dict[str, Any]) -> FittedTrend:
    trend = Trend(**values.pop("trend"))
    if trend.cubic is not None:
        trend = replace(trend, cubic=tuple(float(c) for c in trend.cubic))
    marks = tuple(map(str, values.pop("marks")))
    fitted = FittedTrend(trend, **values, marks=marks)
    float(fitted.trend.sigma), int(fitted.layer), int(fitted.length)
    return fitted
