"""The smooth trend of attention over the positions of visual tokens (methods/attention-debias.md, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Domain = Literal["linear", "log", "cubic"]


@dataclass(frozen=True, slots=True)
class Trend:
    """f(x), x = i / L in [0, 1): attention that comes from the position alone.

    Parameters
    ----------
    mu, sigma : float
        Of mu exp(sigma x); sigma is the strength of the bias: 0 none, above 0 later tokens are favoured. Of a cubic,
        ``sigma`` is that of the exponential that fits the same values.
    cubic : tuple of 3 float, optional
        f(x) = mu (1 + c1 x + c2 x^2 + c3 x^3) instead.
    residual : float
        Root mean square of what the fit leaves of the values, in units of their mean.
    """

    mu: float
    sigma: float
    cubic: tuple[float, ...] | None = None
    residual: float = 0.0

    def shape(self, x: Any) -> Any:
        """f(x) / mu, of a float, an array or a tensor: 1 at x = 0."""
        if self.cubic is not None:
            first, second, third = self.cubic
            return 1 + x * (first + x * (second + x * third))
        return np.e ** (self.sigma * x)


def fit_trend(values: ArrayLike, domain: Domain = "linear") -> Trend:
    """The trend of attention that was averaged over many samples.

    Parameters
    ----------
    values : array_like, shape (L,)
        Mean attention of each position, not negative.
    domain : {"linear", "log", "cubic"}
        ``linear``: non-linear least squares, started from the straight line through the logarithms; ``log``: that line
        itself; ``cubic``: a polynomial, the form of the file that was released for FastV.

    Raises
    ------
    ValueError
        If there are too few values, or none that is above 0.
    """
    y = np.asarray(values, np.float64)
    least = 4 if domain == "cubic" else 2
    if y.ndim != 1 or len(y) < least or not np.isfinite(y).all() or not (y > 0).any():
        raise ValueError(f"a trend needs {least} or more finite values, some above 0")
    x = np.arange(len(y)) / len(y)
    mu, sigma = _line(x, y)
    if domain != "log":
        mu, sigma = _exponential(x, y, mu, sigma)
    cubic: tuple[float, ...] | None = None
    if domain == "cubic":
        coefficients = np.polynomial.polynomial.polyfit(x, y, 3)
        mu, cubic = float(coefficients[0]), tuple(float(c) for c in coefficients[1:] / coefficients[0])
        if mu <= 0 or (Trend(mu, sigma, cubic).shape(x) <= 0).any():
            raise ValueError("the cubic is not above 0 at every position; fit an exponential")
    trend = Trend(mu, sigma, cubic)
    left = y - mu * trend.shape(x)
    return Trend(mu, sigma, cubic, float(np.sqrt(np.mean(left**2)) / y.mean()))


def bias_strength(values: ArrayLike) -> float:
    """Sigma of values over positions, such as how often each position was kept (sigma_freq; sections 3.2 and 6)."""
    y = np.asarray(values, np.float64)
    return fit_trend(y / y.mean()).sigma


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """mu and sigma of the straight line through log y; zeros have no logarithm and are left out."""
    above = y > 0
    if above.sum() < 2:
        return float(y[above].mean()), 0.0
    start, slope = np.polynomial.polynomial.polyfit(x[above], np.log(y[above]), 1)
    return float(np.exp(start)), float(slope)


def _exponential(x: NDArray[np.float64], y: NDArray[np.float64], mu: float, sigma: float) -> tuple[float, float]:
    """mu and sigma of least squares on y itself."""
    from scipy.optimize import curve_fit

    model: Callable[..., Any] = lambda x, mu, sigma: mu * np.exp(sigma * x)  # noqa: E731
    scale = y.mean()  # attention is some 1e-3: a step of that size would end the search at once
    (mu, sigma), _ = curve_fit(model, x, y / scale, p0=(mu / scale, sigma))
    return float(mu * scale), float(sigma)
