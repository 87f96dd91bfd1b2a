"""What is spoken: JSON for programs, one page for people.

GET  /search?text=a+bear&k=5&where=...     POST /search   {"text": "a bear", "k": 5}, or "texts": [...]
GET  /similar?id=bear.jpg&k=5              POST /similar  {"id": "bear.jpg"}, or a photo as the body, ?k=5
GET  /thumbnail?id=bear.jpg                GET  /info     GET  /health     GET  /
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import AttnError, InputError, UsageError, did_you_mean, shortened
from ...options import OptionError
from ..data.queries import is_unicode
from ..options.find import SimilarOptions
from ..places import Places
from ..score.results import as_object
from .desk import PHOTO, Desk, Reply, UnknownEntry, Wanted, in_json, is_photo
from .gate import Gatekeeper, Limits, Refused, as_json
from .line import Line
from .thumbnails import Thumbnails

PAGE = Path(__file__).parent / "page"
ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
OPTIONS = ("k", "where", "exact")
Endpoint = Callable[[Request], Awaitable[Response]]


class SearchServer:
    """The application around a desk.

    Parameters
    ----------
    desk : Desk
    told : callable
        Is given a line about every fault of ours.
    limits : Limits
    """

    def __init__(self, desk: Desk, told: Callable[[str], None], limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._desk, self._told, self._limits = desk, told, limits
        self._line, self._thumbnails, self._uploads = Line(desk), Thumbnails(), 0

    def application(self) -> Gatekeeper:
        """As ASGI servers take it."""
        routes = [
            *(Route(path, self._guarded(_asset(*asset))) for path, asset in ASSETS.items()),
            Route("/health", self._guarded(self._health)),
            Route("/info", self._guarded(self._info)),
            Route("/search", self._guarded(self._search), methods=["GET", "POST"]),
            Route("/similar", self._guarded(self._similar), methods=["GET", "POST"]),
            Route("/thumbnail", self._guarded(self._thumbnail)),
        ]
        known = ", ".join(route.path for route in routes)

        async def unknown(request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            what = "no such address" if error.status_code == 404 else f"{request.method} is not for this address"
            return Refused(error.status_code, f"{what}. There are: {known}").response()

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            self._line.close()
            self._thumbnails.close()

        app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: unknown})
        return Gatekeeper(app, self._limits)

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, whose faults become answers of one line."""

        async def run(request: Request) -> Response:
            try:
                return await endpoint(request)
            except Refused as refused:
                return refused.response()
            except Exception as error:
                return self._refusal(error).response()

        return run

    def _refusal(self, error: Exception) -> Refused:
        match error:
            case OptionError():
                return Refused(400, in_json(error), error.text)
            case UnknownEntry():
                return Refused(404, str(error))
            case UsageError():
                return Refused(400, str(error))
            case InputError() if error.path == PHOTO:
                return Refused(422, str(error))
            case AttnError():
                return Refused(500, str(error))
        text = f"internal error, {type(error).__name__}: {shortened(str(error))}. Please report it"
        self._told(text)
        return Refused(500, text)

    async def _health(self, request: Request) -> Response:
        return as_json({"status": "ok"})

    async def _info(self, request: Request) -> Response:
        limits = self._limits
        most = {"k": limits.hits, "texts": limits.texts, "photo_bytes": limits.photo_bytes}
        return as_json({**await self._line.alone(self._desk.info), "limits": most})

    async def _search(self, request: Request) -> Response:
        values = await self._values(request, ("text", "texts"))
        texts = values.get("texts", [values["text"]] if "text" in values else None)
        if not isinstance(texts, list) or not texts or ("text" in values and "texts" in values):
            raise Refused(400, 'text: say what to look for, as {"text": "a bear"} or {"texts": ["a bear", "a dog"]}.')
        if len(texts) > self._limits.texts:
            raise Refused(400, f"texts: {len(texts)} are too many at once. They are at most {self._limits.texts}.")
        for text in texts:
            if not isinstance(text, str) or not text.strip() or not is_unicode(text):
                raise Refused(400, f"text: {shortened(repr(text), 60)} is no sentence.")
        options = self._options(values)
        return await self._found("text", texts, options)

    async def _similar(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and (kind.startswith("image/") or kind == "application/octet-stream"):
            options = self._options(_typed(request, ()))
            if self._uploads >= self._limits.photos:
                raise Refused(503, "too many photos at once. Ask again in a second.")
            self._uploads += 1
            try:
                photo = await self._body(request, self._limits.photo_bytes)
                return await self._found("photo", [photo], options)
            finally:
                self._uploads -= 1
        values = await self._values(request, ("id",))
        if not isinstance(name := values.get("id"), str) or not is_unicode(name) or "\0" in name:
            raise Refused(400, 'id: say like which entry, as {"id": "bear.jpg"}, or send a photo (image/...).')
        return await self._found("entry", [name], self._options(values))

    async def _thumbnail(self, request: Request) -> Response:
        name = request.query_params.get("id", "")
        path = self._desk.remembered(name) or await self._line.alone(lambda: self._desk.photo_of(name))
        if path is None:
            raise Refused(404, f"{shortened(name, 200)}: no photo of the index has that id.")
        try:
            return Response(await self._thumbnails.jpeg(Path(path)), media_type="image/jpeg")
        except InputError as error:
            raise Refused(404, f"{shortened(name, 200)}: {error.reason}") from None

    async def _found(
        self, kind: Literal["text", "photo", "entry"], contents: Sequence[str | bytes], options: SimilarOptions
    ) -> Response:
        """The answer to all that is wanted; to the first fault where there is one."""
        places = Places(self._desk.index)
        results, faults = [], dict[str, None]()
        for reply in await self._line.ask([Wanted(kind, content, options, places) for content in contents]):
            if not isinstance(reply, Reply):
                raise reply
            faults |= {reply.fault: None} if reply.fault else {}
            result = as_object(reply.result)
            for hit in result["hits"]:
                hit["thumbnail"] = f"/thumbnail?{urlencode({'id': hit['id']})}" if is_photo(hit["path"]) else None
            results.append(result)
        return as_json({"results": results, "warnings": [*faults, *places.warnings()]})

    async def _values(self, request: Request, names: Sequence[str]) -> dict[str, Any]:
        """What is asked, of the address or of the body; ``names`` and ``OPTIONS`` may be there."""
        if request.method != "POST":
            return _typed(request, names)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "the body is JSON: send it as Content-Type: application/json.")
        try:
            values = json.loads(await self._body(request, self._limits.json_bytes))
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise Refused(400, "the body is no JSON object.")
        _check_names(values, names)
        return {name: value for name, value in values.items() if value is not None}

    def _options(self, values: Mapping[str, Any]) -> SimilarOptions:
        if not isinstance(values.get("where", ""), str):
            raise OptionError("{where}: it is a text, as \"width > 800 AND lang = 'en'\".")
        given = {{"k": "top"}.get(name, name): values[name] for name in OPTIONS if values.get(name) not in (None, "")}
        options = SimilarOptions(**given)
        if options.top > self._limits.hits:
            raise OptionError(
                f"{{top}}: {options.top} is more than this server gives. It is at most {self._limits.hits}."
            )
        return options

    async def _body(self, request: Request, most: int) -> bytes:
        """All of it. Raises ``Refused`` as soon as it is too long, or takes too long."""
        too_long = Refused(413, f"the body is too long. It may have {most} bytes.")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_long
        except ClientDisconnect:
            raise Refused(400, "the body was cut short.") from None
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self._limits.seconds:g} s.") from None
        return bytes(body)


def _asset(name: str, kind: str) -> Endpoint:
    content = (PAGE / name).read_bytes()

    async def give(request: Request) -> Response:
        return Response(content, media_type=kind)

    return give


def _typed(request: Request, names: Sequence[str]) -> dict[str, Any]:
    """What stands behind the address's question mark, with numbers and truth values as such."""
    values: dict[str, Any] = dict(request.query_params)
    _check_names(values, names)
    if text := values.get("k"):
        if not text.isdecimal() or len(text) > 9:
            raise OptionError(f"{{top}}: {shortened(text, 40)!r} is no whole number.")
        values["k"] = int(text)
    if (text := values.get("exact")) is not None:
        if text not in ("true", "false", "1", "0"):
            raise OptionError(f"{{exact}}: {shortened(text, 40)!r} is neither true nor false.")
        values["exact"] = text in ("true", "1")
    return values


def _check_names(values: Mapping[str, Any], names: Sequence[str]) -> None:
    known = (*names, *OPTIONS)
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known) or f"Known: {', '.join(known)}."
            raise Refused(400, f"nothing here is called {shortened(name, 40)!r}. {hint}")
