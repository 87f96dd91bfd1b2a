"""Who waits for the desk: one thread answers, as many requests at a time as have come meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..passages import BATCH
from .desk import Desk, Reply, Wanted

T = TypeVar("T")
_Waiting = tuple[Sequence[Wanted], "asyncio.Future[list[Reply | Exception]]"]


class Line:
    """Requests in the order in which they came. Those that wait together share one pass through model and index.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._waiting = desk, deque[_Waiting]()
        self._thread = ThreadPoolExecutor(1, "attn-desk")
        self._pump: asyncio.Task[None] | None = None

    async def ask(self, wanted: Sequence[Wanted]) -> list[Reply | Exception]:
        """What became of each, in their order."""
        future: asyncio.Future[list[Reply | Exception]] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve())
        return await future

    async def alone(self, function: Callable[[], T]) -> T:
        """The value of ``function`` of the desk, which only its thread may call."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _serve(self) -> None:
        while self._waiting:
            some = [self._waiting.popleft()]
            room = BATCH - len(some[0][0])
            while self._waiting and len(self._waiting[0][0]) <= room:
                some.append(self._waiting.popleft())
                room -= len(some[-1][0])
            whole = [one for wanted, _ in some for one in wanted]
            try:
                replies = await self.alone(lambda whole=whole: self._desk.answer(whole))  # type: ignore[misc]
            except Exception as error:  # a fault of ours: these requests fail, the next ones do not
                replies = [error] * len(whole)
            at = 0
            for wanted, future in some:
                if not future.done():  # whoever asked may be gone
                    future.set_result(replies[at : at + len(wanted)])
                at += len(wanted)

    def close(self) -> None:
        """Wait for what is being answered, and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
