"""An index served within the test's own process, and what a client without any manners gets from it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attn.core.retrieve.options.serve import ServeOptions
from attn.core.retrieve.serve.desk import Desk
from attn.core.retrieve.serve.gate import Limits
from attn.core.retrieve.serve.run import address_of, listening, server_of


@dataclass(frozen=True)
class Got:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """``address`` as `--server` takes it; ``lines``: what the person who runs it was told; ``server``: uvicorn's."""

    address: str
    desk: Desk
    lines: list[str]
    server: Any

    def ask(self, target: str, body: Any = None, method: str | None = None, **headers: str) -> Got:
        """The answer to a request; a body that is no bytes goes as JSON."""
        connection = http.client.HTTPConnection(self.address.split("/")[2], timeout=60)
        try:
            if body is not None and not isinstance(body, bytes):
                body, headers = json.dumps(body).encode(), {"Content_Type": "application/json", **headers}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), target, body, named)
            answer = connection.getresponse()
            return Got(answer.status, answer.headers, answer.read())
        finally:
            connection.close()


@contextlib.contextmanager
def served(index: str, limits: Limits | None = None) -> Iterator[Served]:
    lines: list[str] = []
    with listening(0) as entrance:
        desk = Desk(index, ServeOptions(threads=1), lines.append)
        server = server_of(desk, lines.append, limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [entrance]})
        address = address_of(entrance)
        thread.start()
        try:
            yield Served(address, desk, lines, server)
        finally:
            server.should_exit = True
            thread.join(60)
            desk.close()
        assert not thread.is_alive()
