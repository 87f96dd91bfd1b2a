"""Tokens of the pictures of a batch, as a head reads them: from memory where they fit, else from mapped files."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...memory import budget
from ...nets.poolings.contract import TokenShape
from ...options import OptionError
from .features import Features

ALL = "_all"
"""``ep_all``: the class token and the patches."""
SHARE = 3
"""Of the budget of memory, what is kept of tokens: one part in so many."""
ROWS = 256


def reads_of(name: str, features: Features) -> tuple[str, str]:
    """Pooling and tokens that a probe's name means: section 3.4 of methods/efficient-probing.md.

    Returns
    -------
    (pooling, tokens)
        Tokens are ``"cls"``, ``"mean"`` (of the patches), ``"patches"`` or ``"all"``. k-NN has the pooling ``"knn"``.

    Raises
    ------
    OptionError
        If it reads a class token, and the model has none.
    """
    if name == "knn":
        return "knn", "cls" if features.cls else "mean"
    if name == "gap":
        return "gap", "mean"
    whole = name.endswith(ALL)
    if (name == "linear" or whole) and not features.cls:
        raise OptionError(f"{{poolings}}: {name} reads a class token; these features have none. Use gap or ep.")
    if name == "linear":
        return "gap", "cls"
    return name.removesuffix(ALL), "all" if whole else "patches"


def token_shape(features: Features, tokens: str, queries: int = 32, d_out: int = 1) -> TokenShape:
    """What a pooling of such tokens is made for."""
    _, patches, width = next(iter(features.tokens.values())).shape
    count = {"patches": patches, "all": patches + 1}.get(tokens, 1)
    return TokenShape(width, count, features.grid if tokens == "patches" else None, queries, d_out)


class TokenReader:
    """Gives tokens [b, N, C] in float32.

    Parameters
    ----------
    features : Features
    layer : int
    tokens : str
        See ``reads_of``.
    """

    def __init__(self, features: Features, layer: int, tokens: str) -> None:
        self._patches = features.tokens[layer]
        self._cls = features.cls.get(layer)
        self.tokens = tokens
        self._kept: Tensor | None = None
        shape, count = token_shape(features, tokens), len(self._patches)
        if 4 * count * shape.tokens * shape.width <= budget() // SHARE:
            rows = np.arange(count)
            self._kept = torch.cat([self._read(rows[first : first + ROWS]) for first in range(0, count, ROWS)])

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """Tokens of some pictures, in their order."""
        return self._kept[torch.from_numpy(rows)] if self._kept is not None else self._read(rows)

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        if self.tokens == "cls":
            assert self._cls is not None
            return torch.from_numpy(self._cls[rows].astype(np.float32))[:, None]
        patches = torch.from_numpy(self._patches[rows].astype(np.float32))
        if self.tokens == "mean":
            return patches.mean(1, keepdim=True)
        if self.tokens == "all":
            assert self._cls is not None
            return torch.cat([torch.from_numpy(self._cls[rows].astype(np.float32))[:, None], patches], 1)
        return patches
