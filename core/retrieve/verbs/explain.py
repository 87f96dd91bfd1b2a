"""Why a picture matched a sentence: scores of the words, and how well each patch fits (``search --explain``).

GA-DMS models give both (methods/ga-dms.md, section 3.3), PriorCLIP models their belief map, which does not depend on
the sentence (methods/priorclip.md, section 3B).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.photo.read import PHOTO_SUFFIXES
from ...io.tables import read_picture
from ...options import OptionError
from ..encoders.base import Encoder
from ..encoders.kept import MAX_SIDE
from ..score.results import Result
from .found import Explained


def explain(result: Result, encoder: Any) -> Explained:
    """Ask a model that can explain itself about every picture among the hits of a sentence."""
    words: list[tuple[str, float]] = []
    patches: dict[str, NDArray[np.float32]] = {}
    for hit in result.ranked:
        path = Path(str(hit.meta.get("path") or ""))
        if path.suffix.lower() not in PHOTO_SUFFIXES:
            continue
        try:
            pixels = read_picture(path, MAX_SIDE)
        except InputError:  # gone or damaged since it was indexed
            continue
        if hasattr(encoder, "explain"):
            explanation = encoder.explain(pixels, result.query)
            words = words or [
                (word, float(score)) for word, score in zip(explanation.words, explanation.scores, strict=True)
            ]
            fits = explanation.patches
        else:
            fits = encoder.belief_map(pixels)
        spread = float(fits.max() - fits.min()) or 1.0
        patches[hit.id] = (fits - fits.min()) / spread
    return Explained(words, patches)


def check_explains(encoder: Encoder) -> None:
    """Raise ``UsageError`` for a model that cannot say why a picture matched."""
    if not hasattr(encoder, "explain") and not hasattr(encoder, "belief_map"):
        raise OptionError(
            f"{{explain}}: {encoder.fingerprint.model} cannot explain a match; models of attn train ga-dms (words and "
            "patches) and priorclip (patches) can."
        )
