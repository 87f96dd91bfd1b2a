"""Ctrl-C, SIGTERM and the terminal that goes away: each ends a command so that its report is still written.

The interrupt is raised where the signal arrives, and again at the next step of the work: libraries that are being
imported, and callbacks from C, may swallow an exception.
"""

from __future__ import annotations

import signal
from typing import Any

_asked = False


def listen() -> None:
    """Answer the signals from now on; one that is ignored (``nohup``) stays ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: Any) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def insist() -> None:
    """Raise ``KeyboardInterrupt`` once more if a signal has come."""
    if _asked:
        raise KeyboardInterrupt
