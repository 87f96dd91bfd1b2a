"""A batch on several processes or machines: dask.distributed, the one engine (PACKAGING.md, section 5).

A task is small (paths and options; arrays never travel), writes its own output atomically and returns its item, so
running one twice is harmless. Workers must see the same paths.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster, get_worker, wait
from distributed.scheduler import KilledWorker

import attn

from ..bundles import Placement
from ..device import available_cores, set_threads
from ..errors import UsageError
from ..memory import budget, set_budget
from ..options import OptionError
from ..report.model import Item
from .task import Task, Work, do_task

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "DASK_LOGGING__DISTRIBUTED": "critical",  # a connection that is closed at the end is no error of the user's
}
"""Of our worker processes: dask's own without MALLOC_TRIM_THRESHOLD_, which hands memory back to the system after every
tensor; photos took twice as long with it, most of that in the kernel."""
GATHER = 10.0
"""Seconds that an item, which is small, may take from its worker to us."""
RETRIES = 2
"""How often a file whose worker died is tried again."""


STARTED = "attn-started"
"""Topic under which a worker says that it begins a task."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A submitted task, its future, when that was, the worker whose turn it is, and whether it is to go there."""

    index: int
    future: Any
    since: float
    worker: str
    pinned: bool


class Runs:
    """The tasks still to do, as one run of neighbours for each worker.

    Who is through with its own takes from the end of the longest run, so that nobody waits and little is made twice.
    """

    def __init__(self, todo: Sequence[int], workers: Sequence[str]) -> None:
        ends = [round(k * len(todo) / len(workers)) for k in range(len(workers) + 1)]
        self._of = {worker: deque(todo[low:high]) for worker, low, high in zip(workers, ends, ends[1:], strict=False)}

    def __bool__(self) -> bool:
        return any(self._of.values())

    def next_for(self, worker: str) -> int:
        """The next task of a worker; there must be one left."""
        if own := self._of[worker]:
            return own.popleft()
        return max(self._of.values(), key=len).pop()


def run_distributed(
    work: Work,
    tasks: Sequence[Task],
    todo: Sequence[int],
    placement: Placement,
    record: Callable[[int, Item], None],
) -> None:
    """Run the tasks numbered ``todo`` on the cluster that ``placement`` names and ``record`` each item as it arrives.

    Raises
    ------
    UsageError
        If no scheduler answers, a worker has another version of attn, or a worker does not see the first input.
    """
    # a killed worker or a closed connection is expected here and becomes an item, so it is not also a log line
    for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler", "distributed.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = {"distributed.scheduler.allowed-failures": RETRIES, "distributed.nanny.pre-spawn-environ": ENVIRONMENT}
    with dask.config.set(settings):
        cluster, client = _connect(placement, len(todo))
        try:
            if cluster is None:
                _check(client, str(tasks[todo[0]].source.absolute()))
            _pump(client, work, tasks, todo, placement, record, local=cluster is not None)
        finally:
            client.close()
            if cluster is not None:
                cluster.close()


def _connect(placement: Placement, count: int) -> tuple[LocalCluster | None, Client]:
    if placement.cluster is None:
        with _deaf_children():
            cluster = LocalCluster(
                n_workers=min(placement.workers, count),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,  # the operating system's limit is the one that counts; dask's would pause workers
            )
        return cluster, Client(cluster)
    try:
        return None, Client(placement.cluster, timeout=placement.connect_timeout)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"{{cluster}}: no dask scheduler answers at {placement.cluster} ({reason})") from None


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal's group: workers that are started here leave it to us to end them.

    Threads and processes inherit what the thread that starts them blocks. What comes meanwhile is answered at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which, where it is started later, unblocks the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _describe(path: str) -> tuple[str, str, bool]:
    """Runs on a worker: its host, its version of attn, and whether it sees ``path``."""
    return socket.gethostname(), attn.__version__, os.path.exists(path)


def _check(client: Client, first_input: str) -> None:
    answers = client.run(_describe, first_input)
    if not answers:
        raise OptionError("{cluster}: the scheduler has no workers. Start some: dask worker ADDRESS --nthreads 1")
    for host, version, sees in answers.values():
        if version != attn.__version__:
            raise OptionError(
                f"{{cluster}}: worker on {host} has attn {version}, this is {attn.__version__}. Install the same"
            )
        if not sees:
            raise OptionError(
                f"{{cluster}}: worker on {host} does not see {first_input}. Inputs must be on shared storage"
            )


def _on_worker(work: Work, task: Task, threads: int, memory: int | None) -> Item:
    set_threads(threads)
    if memory is not None:  # on other machines: what their own environment says
        set_budget(memory)
    worker = get_worker()
    worker.log_event(STARTED, worker.get_current_task())
    return do_task(work, task, lambda done, total: None)


def _pump(
    client: Client,
    work: Work,
    tasks: Sequence[Task],
    todo: Sequence[int],
    placement: Placement,
    record: Callable[[int, Item], None],
    *,
    local: bool,
) -> None:
    """Keep every worker busy until all tasks have an item."""
    workers = sorted(client.ncores()) or [""]
    slots = len(workers)
    threads = placement.threads or (max(1, available_cores() // slots) if local else 1)
    memory = budget() // slots if local else None
    began: dict[Any, float] = {}  # a time limit is for the file: starting a process and importing torch do not count
    client.subscribe_topic(STARTED, lambda event: began.update({event[1]: time.monotonic()}))
    # with a limit one task per worker, so that none waits behind one that hangs; two hide the scheduler's latency
    in_flight = 1 if placement.item_timeout else 2
    queue, running = Runs(todo, workers), list[_Running]()

    def submit(index: int, worker: str, *, pinned: bool) -> _Running:
        where = {"workers": [worker], "allow_other_workers": True} if pinned else {}
        task = _absolute(tasks[index])
        future = client.submit(_on_worker, work, task, threads, memory, pure=False, retries=RETRIES, **where)
        return _Running(index, future, time.monotonic(), worker, pinned)

    alive, looked = client.ncores(), time.monotonic()
    while queue or running:
        if time.monotonic() - looked > 1:
            alive, looked = client.ncores(), time.monotonic()
        running = [_unstuck(client, entry, alive, submit) for entry in running]
        for worker in workers:
            while queue and sum(entry.worker == worker for entry in running) < in_flight:
                running.append(submit(queue.next_for(worker), worker, pinned=worker in alive))
        try:
            wait([entry.future for entry in running], timeout=0.5, return_when="FIRST_COMPLETED")
        except TimeoutError:
            pass
        for entry in [entry for entry in running if entry.future.done()]:
            if (item := _collect(entry, tasks[entry.index])) is not None:
                running.remove(entry)
                record(entry.index, item)
        limit = placement.item_timeout
        now = time.monotonic()
        for entry in [entry for entry in running if limit and now - began.get(entry.future.key, now) > limit]:
            running.remove(entry)
            _abandon(client, entry.future)
            text = f"gave up after {limit:g} s (--item-timeout)"
            record(entry.index, _failed(tasks[entry.index], now - began[entry.future.key], text))


def _unstuck(client: Client, entry: _Running, alive: Collection[str], submit: Callable[..., _Running]) -> _Running:
    """The task, submitted again for any worker if the one it was meant for is gone and nobody else has taken it.

    distributed forgets that other workers are allowed where none was there at that moment.
    """
    if not entry.pinned or entry.worker in alive or entry.future.done():
        return entry
    taken = any(entry.future.key in keys for keys in client.processing().values())
    if taken or time.monotonic() - entry.since < 1:
        return entry
    entry.future.cancel(force=True)
    return submit(entry.index, entry.worker, pinned=False)


def _absolute(task: Task) -> Task:
    output = task.output.absolute() if task.output is not None else None
    return replace(task, source=task.source.absolute(), output=output)


def _collect(entry: _Running, task: Task) -> Item | None:
    """The item of a task that is done; None where it was lost with its worker, so that the task is done again."""
    error = entry.future.exception() if entry.future.status != "cancelled" else TimeoutError("the task was cancelled")
    if error is None:
        try:
            item: Item = entry.future.result(timeout=GATHER)
        except TimeoutError:
            return None
        if task.output is not None and item.output is not None:
            return replace(item, output=str(task.output))  # as the user named it, not as the worker saw it
        return item
    if isinstance(error, UsageError):
        raise error
    seconds = time.monotonic() - entry.since
    if isinstance(error, KilledWorker):
        return _failed(task, seconds, f"worker died {RETRIES + 1} times on this file (out of memory?)")
    return _failed(task, seconds, f"lost by the cluster ({type(error).__name__}: {error})")


def _failed(task: Task, seconds: float, text: str) -> Item:
    return Item(input=task.name, output=None, status="failed", seconds=seconds, error=text)


def _abandon(client: Client, future: Any) -> None:
    """Cancel a task that hangs; its worker is restarted, since a running function cannot be stopped."""
    workers = [address for address, keys in client.processing().items() if future.key in keys]
    future.cancel(force=True)
    if workers:
        client.restart_workers(workers, timeout=30, raise_for_error=False)
