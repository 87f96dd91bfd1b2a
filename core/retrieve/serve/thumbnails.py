"""Thumbnails of photos, made by a thread of their own; the last ones are kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..places import file_stamp
from ..verbs.thumbnail import thumbnail

KEPT_BYTES = 64 << 20


class Thumbnails:
    """JPEGs by file; a file that has changed since is read again."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "attn-thumbnails")
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    async def jpeg(self, path: Path) -> bytes:
        """A small JPEG of a photo. Raises ``InputError`` if it cannot be read."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._jpeg, path)

    def _jpeg(self, path: Path) -> bytes:
        key = (str(path), file_stamp(path))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._kept[key] = thumbnail(path)
        self._bytes += len(made)
        while self._bytes > KEPT_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1])
        return made

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
