"""What the pictures of a run have left behind, read again: also those of an earlier run with the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.model import Item
from ..frame import result_of


@dataclass(frozen=True, slots=True)
class HeadResults:
    """What the pictures of a run have left.

    Parameters
    ----------
    names : list of str
    facts : list of mapping
    arrays : list of mapping to ndarray
    """

    names: list[str]
    facts: list[Mapping[str, Any]]
    arrays: list[Mapping[str, NDArray[Any]]]

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
        if (data := result_of(item, request)) is not None:
            found.names.append(item.input)
            found.facts.append(data.facts)
            found.arrays.append(data.arrays)
    return found
