"""Nothing leaves the machine unasked: packages that would ask a hub are told that there is none.

Model folders may name further parts by a hub's id (the tokeniser of an open_clip model), and packages report who uses
them. So whatever loads models or data sets does it inside ``network(allowed)``. ``HF_HUB_OFFLINE`` stays in force where
a download is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
os.environ.setdefault("DISABLE_TELEMETRY", "1")


@contextmanager
def network(allowed: bool = False) -> Iterator[None]:
    """What runs inside reaches a hub only if that is allowed; it never reports anything to it."""
    try:
        from huggingface_hub import constants
    except ImportError:  # then nothing can ask it
        yield
        return
    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = before[0] or not allowed, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = before
