"""What the pictures of a run have left behind, read again: also those of an earlier run with the same settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AttnError
from ...report.model import Item
from ..panel import read_document


@dataclass(frozen=True, slots=True)
class HeadResults:
    """What the pictures of a run have left.

    Parameters
    ----------
    names : list of str
    facts : list of dict
    arrays : list of dict of ndarray
    """

    names: list[str]
    facts: list[dict[str, Any]]
    arrays: list[dict[str, NDArray[Any]]]

    def stack(self, name: str) -> NDArray[Any]:
        """An array of all pictures, [B, ...]."""
        return np.stack([one[name] for one in self.arrays])

    @property
    def measures(self) -> list[str]:
        return [str(name) for name in self.facts[0]["measures"]]


def pictures_of(items: Sequence[Item], request: str) -> HeadResults:
    """Of the items whose results are there and were made with these settings."""
    found = HeadResults([], [], [])
    for item in items:
        if item.output is None or item.status not in ("ok", "skipped"):
            continue
        facts = Path(item.output).with_suffix(".json")
        try:
            document = read_document(facts)
            with np.load(facts.with_suffix(".npz"), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (AttnError, OSError, ValueError):
            continue  # its own item says so
        if document["origin"].get("request") == request:
            found.names.append(item.input)
            found.facts.append(document["facts"])
            found.arrays.append(arrays)
    return found
