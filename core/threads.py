"""Who uses the processor's cores: a small pool that runs the kernels over bands of rows."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import torch


@functools.lru_cache(maxsize=2)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads of this process; ``pid`` is in the key because a forked child inherits none of them."""
    return ThreadPoolExecutor(threads, thread_name_prefix="attn")


_threads: ContextVar[int] = ContextVar("threads")
"""What torch was set to before ``kernels_own_the_threads``."""


def thread_count() -> int:
    """As many threads as torch was told to use."""
    return _threads.get(0) or torch.get_num_threads()


@contextlib.contextmanager
def kernels_own_the_threads() -> Iterator[None]:
    """Leave all threads to the kernels: torch's own work within, small by comparison, stays on the calling thread.

    OpenMP's threads spin for a while after each torch operation and would keep the cores from ours; on a machine with
    other work a step on a small image was measured to take 20 times as long.
    """
    count = thread_count()
    token = _threads.set(count)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _threads.reset(token)


def run(function: Callable[..., None], bands: Iterable[tuple[Any, ...]]) -> None:
    """Call ``function(*band)`` for each band, on as many threads as torch would use.

    torch's inference mode counts per thread; the caller's holds in all of them, or they could not write its tensors.
    """
    calls = list(bands)
    threads = min(thread_count(), len(calls))
    if threads <= 1:
        for band in calls:
            function(*band)
        return
    pool = _pool(thread_count(), os.getpid())
    inference = torch.is_inference_mode_enabled()

    def within(*band: Any) -> None:
        with torch.inference_mode(inference):
            function(*band)

    futures = [pool.submit(within, *band) for band in calls[1:]]
    function(*calls[0])  # the calling thread works too
    for future in futures:
        future.result()


def run_in_turns(make: Callable[[], Callable[..., None]], pieces: Iterable[tuple[Any, ...]]) -> None:
    """Call ``worker(*piece)`` for each piece, with a ``worker = make()`` for each thread: threads take pieces in turn.

    Long pieces first, so that no thread is left with one at the end. Inside, torch computes on one thread, so that the
    bits of a product do not depend on how many share it, and records no gradient; both count per thread.
    """
    todo = deque(pieces)

    def work() -> None:
        torch.set_num_threads(1)  # undone for the caller by kernels_own_the_threads
        with torch.no_grad():
            worker = make()
            while True:
                try:
                    piece = todo.popleft()
                except IndexError:
                    return
                worker(*piece)

    with kernels_own_the_threads():
        run(work, [()] * min(thread_count(), len(todo)))


def bands(count: int, at_least: int = 1) -> list[tuple[int, int]]:
    """Split ``range(count)`` into one piece per thread, none shorter than ``at_least`` (but one piece at any rate)."""
    pieces = max(1, min(thread_count(), count // max(1, at_least)))
    edges = [count * i // pieces for i in range(pieces + 1)]
    return list(itertools.pairwise(edges))
