"""Golden vectors of the attention operators: what `attn bench --selftest` and the parity tests both run.

An operator's ``golden`` names its vectors and the function that compares ours with them, which yields a ``Check`` per
quantity, at the tolerance of the method's specification.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import attn

from ..errors import InputError, decoding, shortened
from ..io.kinds import open_regular
from .contract import Golden
from .registry import OPERATORS

REINSTALL = "Install attn again"
Arrays = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: ``error`` (largest difference, or the number of rows that differ) against its ``tolerance``."""

    quantity: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # NaN fails


def golden_dir() -> Path:
    """Where the vectors are: inside the installed package, or tests/golden of a checkout."""
    return Path(attn.__file__).parent / "golden"


def vectors() -> dict[str, Golden]:
    """Every folder of vectors, in the order of the operators; two operators may share one."""
    known = (row.resolve().golden for row in OPERATORS.values() if not row.missing())
    return {golden.folder: golden for golden in known if golden is not None}


def files() -> list[tuple[str, str]]:
    """All (folder, file stem), in order."""
    return [(golden.folder, stem) for golden in vectors().values() for stem in golden.files]


def check(folder: str, stem: str) -> Iterator[Check]:
    """Compare ours with one golden file. Raises ``InputError`` where the vectors are missing or damaged."""
    data = stored(folder, stem)
    compare = pkgutil.resolve_name(vectors()[folder].check)
    try:
        yield from compare(stem, data)
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:  # arrays missing or of other shapes
        what = shortened(f"does not hold what it should ({type(error).__name__}: {error})", 200)
        raise InputError(golden_dir() / folder / f"{stem}.npz", what, REINSTALL) from error


def stored(folder: str, stem: str) -> Arrays:
    """The arrays of one golden file. Raises ``InputError`` where it is missing or damaged."""
    path = golden_dir() / folder / f"{stem}.npz"
    if not path.exists():
        raise InputError(path, "is missing", REINSTALL)
    with decoding(path, "golden vectors", REINSTALL), open_regular(path) as file, np.load(file) as archive:
        return {name: archive[name] for name in archive.files}


def max_error(ours: Any, golden: Any) -> float:
    """Largest absolute difference; infinite where shapes differ, NaN where either holds one."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(golden, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max()) if a.size else 0.0


def rows_that_differ(ours: Any, golden: Any) -> float:
    """Number of last-axis rows whose entries are not the same set."""
    a, b = np.asarray(ours), np.asarray(golden)
    if a.shape != b.shape:
        return float("inf")
    return float((np.sort(a, -1) != np.sort(b, -1)).any(-1).sum())
