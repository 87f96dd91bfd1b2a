"""Who comes in: this machine's own programs and pages, as many at a time as there is room for.

A page of another site may send requests to 127.0.0.1, and by DNS rebinding even under a name of its own and read the
answers. So the name that was asked for (``Host``) must be this machine's, and so must the page (``Origin``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""What this machine calls itself."""
SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Headers of every answer: pages of others may neither show nor read it, and ours runs nothing that is not ours."""
RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken in.

    Parameters
    ----------
    requests : int
        At a time; more are sent away with 503 and may come again.
    photos : int
        Uploads of photos at a time.
    photo_bytes, json_bytes : int
        Of one body.
    hits : int
        Of one query.
    texts : int
        In one request.
    seconds : float
        Within which a body must have arrived.
    connections : int
        Open at a time, idle ones, too.
    """

    requests: int = 64
    photos: int = 4
    photo_bytes: int = 32 << 20
    json_bytes: int = 1 << 20
    hits: int = 1_000
    texts: int = 64
    seconds: float = 30.0
    connections: int = 256


class Refused(Exception):
    """A request that is not answered.

    Parameters
    ----------
    status : int
        Of HTTP.
    text : str
        One line for who asked.
    template : str
        The same with the names of options in braces, where it is about one.
    """

    def __init__(self, status: int, text: str, template: str = "") -> None:
        super().__init__(text)
        self.status, self.text, self.template = status, text, template

    def response(self) -> Response:
        """As JSON: ``{"error": ...}``."""
        more = {"template": self.template} if self.template else {}
        headers = {"Retry-After": str(RETRY_SECONDS)} if self.status == 503 else None
        return as_json({"error": self.text, **more}, self.status, headers)


def as_json(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON, in ASCII: only escapes can hold the names of files that are no UTF-8."""
    return Response(json.dumps(value, allow_nan=False) + "\n", status, headers, "application/json")


class Gatekeeper:
    """The outermost layer: sends strangers away, and whoever comes when the house is full.

    Parameters
    ----------
    app : ASGI application
    limits : Limits
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits, self._inside = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAFE)
            await send(message)

        full = self._inside >= self._limits.requests and scope["path"] != "/health"
        if refused := _stranger(Headers(scope=scope)) or (_busy() if full else None):
            return await refused.response()(scope, receive, safely)
        self._inside += 1
        try:
            await self._app(scope, receive, safely)
        finally:
            self._inside -= 1


def _busy() -> Refused:
    return Refused(503, "too many requests at once. Ask again in a second.")


def _stranger(headers: Headers) -> Refused | None:
    """The answer to who asks for another machine, or on behalf of another site's page."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if _name(f"//{host}") not in NAMES:
        return Refused(403, f"this is no server of {host!r}. Ask 127.0.0.1 or localhost.")
    if origin is not None and (urlsplit(origin).scheme != "http" or _name(origin) not in NAMES):
        return Refused(403, f"pages of {origin!r} may not ask here.")
    return None


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # brackets that do not close
        return ""
