"""Pruning from Python: ``attn.prune``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import UsageError
from . import METHODS
from .engine.hooks import Positions, pruned
from .engine.sites import site_of
from .engine.trace import PruneTrace
from .methods.base import Keep


@contextmanager
def prune(
    model: nn.Module, method: str = "fastv", keep: float | int = 0.25, *, positions: Positions = "keep",
    **settings: Any,
) -> Iterator[PruneTrace]:  # fmt: skip
    """Let a vision-language model run with fewer visual tokens.

    >>> with attn.prune(model, "fastv", keep=0.25) as trace:  # doctest: +SKIP
    ...     answer = model.generate(**inputs)

    Parameters
    ----------
    model : Module
        Of transformers; see ``engine.sites.MODELS``. It is as it was after the block, also after an exception.
    method : str
        A name of ``METHODS``.
    keep : float or int
        Share of each prompt's visual tokens that stays, in (0, 1]; or, as an int, their number.
    positions : {"keep", "compact"}
        Tokens keep their positions, or are numbered anew.
    **settings
        Of the method.

    Yields
    ------
    PruneTrace

    Raises
    ------
    UsageError
        If model, method, setting or budget cannot be used.
    """
    cls = METHODS[method].resolve()
    known = {field.name for field in dataclasses.fields(cls)}
    for name in settings:
        if name not in known:
            raise UsageError(f"{method} has no setting {name!r}. It has {', '.join(sorted(known - {'modifiers'}))}.")
    site = site_of(model)
    with pruned(model, cls(**settings).stages(site, keep_of(keep)), positions=positions, site=site) as trace:
        yield trace


def keep_of(value: float | int) -> Keep:
    """A budget as a value. Raises ``UsageError`` if it is no share in (0, 1] and no number from 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Keep(count=value)
    if isinstance(value, float) and 0 < value <= 1:
        return Keep(share=value)
    raise UsageError(f"keep: {value!r} is no share above 0 and up to 1, and no number of tokens.")
