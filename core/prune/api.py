"""Pruning from Python: ``attn.prune``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import UsageError
from ..models.loaded import Loaded
from .engine.checks import Positions
from .engine.hooks import pruned
from .engine.prompts import Pictured
from .engine.sites import site_of
from .engine.trace import PruneTrace
from .methods.base import Keep
from .named import pruner_of


@contextmanager
def prune(
    model: nn.Module | Loaded, method: str = "fastv", keep: float | int = 0.25, *, positions: Positions = "keep",
    pictures: Pictured | None = None, ids: Sequence[str] | None = None, **settings: Any,
) -> Iterator[PruneTrace]:  # fmt: skip
    """Let a vision-language model run with fewer visual tokens.

    >>> with attn.prune(model, "fastv", keep=0.25) as trace:  # doctest: +SKIP
    ...     answer = model.generate(**inputs)

    Parameters
    ----------
    model : Module or Loaded
        Of transformers; see ``engine.sites.MODELS``. It is as it was after the block, also after an exception.
    method : str
        A name of ``METHODS``, modifiers behind it: ``"fastv+debias"``; see ``named``.
    keep : float or int
        Share of each prompt's visual tokens that is left, averaged over the decoder layers behind the method's first
        choice, in (0, 1]; or, as an int, their number.
    positions : {"keep", "compact"}
        Tokens keep their positions, or are numbered anew.
    pictures : tuple of (tuple of Geometry) or None, optional
        Of each prompt of the batch, where its visual tokens are in its pictures: what debiasing of padding needs.
    ids : sequence of str, optional
        A name of each prompt of the batch, by which what is random is drawn: a prompt gets the same in any batch.
        Default: prompts are numbered through the block.
    **settings
        Of the method and its modifiers.

    Yields
    ------
    PruneTrace

    Raises
    ------
    UsageError
        If model, method, setting or budget cannot be used.
    """
    site = site_of(model)
    stages = pruner_of(method, settings).stages(site, keep_of(keep))
    with pruned(site.model, stages, positions=positions, site=site, pictures=pictures, ids=ids) as trace:
        yield trace


def keep_of(value: float | int) -> Keep:
    """A budget as a value. Raises ``UsageError`` if it is no share in (0, 1] and no number from 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Keep(count=value)
    if isinstance(value, float) and 0 < value <= 1:
        return Keep(share=value)
    raise UsageError(f"keep: {value!r} is no share above 0 and up to 1, and no number of tokens.")
