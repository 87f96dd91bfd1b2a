"""How an index is served, and where a search may be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...bundles import Device, Threads
from ...options import Option, OptionError, check
from .encoder import AllowDownload

PORT = 8765
"""Where `attn retrieve serve` is, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How an index is served.

    Parameters
    ----------
    port : int
        Of 127.0.0.1; 0 is any that is free.
    allow_download : bool
        Ask the hub for the model if it is not on this machine.
    device : str
    threads : int, optional
    """

    port: Annotated[
        int,
        Option("Of 127.0.0.1, which other machines do not reach; 0: any free one.", metavar="N", least=0, most=65535),
    ] = PORT
    allow_download: AllowDownload = False
    device: Device = "auto"
    threads: Threads = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search goes through.

    Parameters
    ----------
    index : str, optional
        A folder, or a ``qdrant://`` address.
    server : str, optional
        Where `attn retrieve serve` has one open, ``http://127.0.0.1:8765``.

    Raises
    ------
    OptionError
        If neither is named, or the server's address is none.
    """

    index: Annotated[
        str | None,
        Option("What `attn retrieve index` made; not with --server.", metavar="INDEX", positional=True),
    ] = None
    server: Annotated[
        str | None,
        Option(f"Ask `attn retrieve serve` there: http://127.0.0.1:{PORT}. No model is loaded.", metavar="URL"),
    ] = None

    def __post_init__(self) -> None:
        from urllib.parse import urlsplit

        if self.server is None:
            if self.index is None:
                raise OptionError("{index}: name the index, or with {server} where it is served.")
            return
        try:
            parts = urlsplit(self.server)
            sound = parts.scheme == "http" and parts.hostname and not (parts.query or parts.fragment or parts.username)
            _ = parts.port
        except ValueError:  # a port that is none
            sound = False
        if not sound:
            raise OptionError(f"{{server}}: {self.server!r} is no address of a server, as http://127.0.0.1:{PORT} is.")
