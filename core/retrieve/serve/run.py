"""The server itself: an address of this machine, the index behind it, and how it ends."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...options import OptionError
from ...registry import Need
from ..options.serve import ServeOptions

if TYPE_CHECKING:
    import uvicorn

    from .desk import Desk
    from .gate import Limits

HOST = "127.0.0.1"
NEEDS = (Need("starlette", "starlette", "serve"), Need("uvicorn", "uvicorn", "serve"))
GRACE_SECONDS = 5
"""How long requests may take to end once the server is told to."""


def serve(
    index: str, options: ServeOptions, *, ready: Callable[[str, Mapping[str, Any]], None], told: Callable[[str], None]
) -> None:
    """Answer searches of an index until the process is interrupted, then end what is being answered.

    Parameters
    ----------
    index : str
    options : ServeOptions
    ready : callable
        Is given the address and what is served there (``Desk.info``) once everything is loaded.
    told : callable
        Is given a line about every fault.

    Raises
    ------
    KeyboardInterrupt
        In the end, always: by SIGINT or SIGTERM.
    UsageError
        If the port is taken, a package is missing, or the model cannot be had.
    InputError
        If there is no such index, or it is damaged.
    """
    for need in NEEDS:
        if need.missing:
            raise UsageError(f"serving needs {need.package}, which is not installed: {need.get}")
    from .desk import Desk

    with listening(options.port) as entrance:  # before anything is loaded: who asks meanwhile waits
        desk = Desk(index, options, told)
        try:
            server = server_of(desk, told)
            ready(address_of(entrance), desk.info())
            server.run(sockets=[entrance])
        finally:
            desk.close()


def server_of(desk: Desk, told: Callable[[str], None], limits: Limits | None = None) -> uvicorn.Server:
    """The server around a desk, for ``run(sockets=[...])``."""
    import uvicorn

    from .app import SearchServer
    from .gate import Limits

    limits = limits or Limits()
    config = uvicorn.Config(
        SearchServer(desk, told, limits).application(), loop="asyncio", http="h11", ws="none", lifespan="on",
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=limits.connections, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    return uvicorn.Server(config)


def address_of(entrance: socket.socket) -> str:
    """``http://127.0.0.1:8765/``."""
    return f"http://{HOST}:{entrance.getsockname()[1]}/"


def listening(port: int) -> socket.socket:
    """A socket that listens on a port of this machine; 0: any free one. Raises ``OptionError`` if it cannot be had."""
    entrance = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        entrance.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        entrance.bind((HOST, port))
        entrance.listen(128)
    except OSError as error:
        entrance.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "is in use by another program" if taken else f"cannot be had ({error.strerror})"
        raise OptionError(f"{{port}}: {port} {reason}. Name another, or 0 for any that is free.") from None
    return entrance
