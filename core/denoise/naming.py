"""What lies beside a result, by its name."""

from __future__ import annotations

from pathlib import Path

from ..io.kinds import SUFFIXES
from ..io.walk import split_suffix

MAPS = (("sigma", ".npy"), ("maps", ".npz"))
"""Word and suffix of the maps of each kind of filter: see ``maps.py``."""


def side_path(output: Path, word: str, suffix: str | None = None, *, whole: bool = False) -> Path:
    """``out/scan.denoised.dcm`` and word ``sigma``, suffix ``.npy`` → ``out/scan.sigma.npy``; None keeps the suffix.

    ``whole``, and a suffix that is no kind's own (``s0.MR``): ``out/s0.MR.sigma.npy``, since others share the rest.
    """
    stem, tail = split_suffix(output.name.removesuffix(".denoised"))
    stem = stem.removesuffix(".denoised")
    if suffix is None:
        return output.with_name(f"{stem}.{word}{tail}")
    return output.with_name(f"{stem}{tail if whole or tail.lower() not in SUFFIXES else ''}.{word}{suffix}")
