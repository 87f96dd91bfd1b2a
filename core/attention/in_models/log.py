"""Which operator really ran in which layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Stage = Literal["prefill", "extend", "decode"]


@dataclass(frozen=True, slots=True)
class Ran:
    """One call of one layer.

    Parameters
    ----------
    layer : int or str
        Its index, or the class of a module without one.
    operator : str
        What ran: the operator asked for, or ``dense`` or ``window+sink`` where ``why`` says so.
    phase : {"prefill", "extend", "decode"}
        As many queries as keys; fewer, but several; one query and a cache.
    batch, len_q, len_k : int
        Rows, queries and keys of the call, padding included.
    formulation : str
        The kernels or forms that were chosen, such as "tree search, numba + attention, numba".
    why : str
        Why another operator ran than the one asked for; empty where it is that one.
    """

    layer: int | str
    operator: str
    phase: Stage
    batch: int
    len_q: int
    len_k: int
    formulation: str
    why: str = ""


_OPEN: list[list[Ran]] = []


@contextlib.contextmanager
def attention_log() -> Iterator[list[Ran]]:
    """Collect what runs in the layers of every model with an ``attn:`` implementation, in whichever thread.

    Examples
    --------
    >>> from attn.core.attention.in_models import attention_log
    >>> with attention_log() as ran:
    ...     pass  # model(...) or model.generate(...)
    >>> ran
    []
    """
    ran: list[Ran] = []
    _OPEN.append(ran)
    try:
        yield ran
    finally:
        _OPEN[:] = [other for other in _OPEN if other is not ran]


def log(ran: Ran) -> None:
    """Tell all who want to know."""
    for collected in list(_OPEN):
        collected.append(ran)
