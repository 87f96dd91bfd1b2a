"""`attn retrieve search --server`: the same search, asked of who has index and model open."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ...errors import AttnError, InputError, UsageError
from ...io.kinds import open_regular
from ...memory import read_within
from ...options import OptionError
from ...report.model import Item
from ..data.queries import Content
from ..options.find import SearchOptions
from ..options.serve import Searched
from ..places import from_here, index_folder
from ..score.results import Result
from ..store import Hit, is_index
from ..verbs.found import Found, blank_queries, found_of

SECONDS = 120.0
"""How long an answer may take."""
PATIENCE = 60.0
"""How long to go on asking a server that is busy, in s."""
ITS_OWN = ("model", "temperature", "explain", "allow_download", "device", "threads")
"""Options of a search that the server decides."""


def asked(searched: Searched, words: tuple[str, ...], given: frozenset[str]) -> tuple[str | None, tuple[str, ...]]:
    """The index that is named beside a server, if any, and the sentences: the first word is one unless it is an index.

    Raises
    ------
    OptionError
        If an option was given that is the server's.
    """
    for field in ITS_OWN:
        if field in given:
            raise OptionError(f"{{{field}}}: the server has chosen it. Leave it out, or leave {{server}} out.")
    if searched.index is None or is_index(searched.index):
        return searched.index, words
    return None, (searched.index, *words)


def search_served(
    server: str, queries: Mapping[str, Content], options: SearchOptions, *, index: str | None = None,
    arguments: Mapping[str, Any],
) -> Found:  # fmt: skip
    """As ``verbs.search.search``, by a server.

    Parameters
    ----------
    server : str
        ``http://127.0.0.1:8765``.
    queries : mapping of str to str or Path
    options : SearchOptions
        Of which ``top``, ``where`` and ``exact`` count.
    index : str, optional
        What the server must have open.
    arguments : mapping
        What the report records as the call's arguments.

    Raises
    ------
    UsageError
        If the server has another index open, or does not take such queries or options.
    InputError
        If nobody answers, or nobody that is `attn retrieve serve`.
    """
    start = time.perf_counter()
    with _told(server):
        about = _ask(server, "GET", "/info")
        if index is not None and (index_folder(index) or index) != about["index"]:
            raise OptionError(f"{{index}}: {server} has {about['index']} open, not {index}.")
        texts = [(key, text) for key, text in queries.items() if isinstance(text, str) and text.strip()]
        asks = {"k": options.top, "where": options.where, "exact": options.exact}
        found: dict[str, Result] = {}
        warnings: dict[str, None] = {}
        for at in range(0, len(texts), most := int(about["limits"]["texts"])):
            block = texts[at : at + most]
            answer = _ask(server, "POST", "/search", {"texts": [text for _, text in block], **asks})
            warnings |= dict.fromkeys(answer["warnings"])
            for (key, text), result in zip(block, answer["results"], strict=True):
                found[key] = _result(key, text, result, sentence=True)
        failed = blank_queries(queries)
        for key, path in queries.items():
            if isinstance(path, str):
                continue
            try:
                answer = _ask(server, "POST", "/similar", _photo(path, about["limits"]["photo_bytes"]), asks)
            except InputError as error:
                if error.path == server:
                    raise
                failed.append(Item(str(path), None, "failed", 0.0, error=error.reason))
                continue
            warnings |= dict.fromkeys(answer["warnings"])
            found[key] = _result(key, str(path), answer["results"][0])
        return found_of(
            [found[key] for key in queries if key in found], failed, index=about["index"], entries=about["entries"],
            model=about["model"], start=start, device=about["device"], engine=about["engine"], arguments=arguments,
            warnings=tuple(warnings),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer of HTTP: its status, its JSON, and after how long to come again, in s."""

    status: int
    values: dict[str, Any]
    retry: float


def _ask(
    server: str, method: str, path: str, body: Mapping[str, Any] | bytes | None = None,
    query: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the server answers; one that is busy is asked again. Raises as ``search_served``."""
    typed = {name: _typed(value) for name, value in (query or {}).items() if value is not None}
    target = path + (f"?{urlencode(typed)}" if typed else "")
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    until = time.monotonic() + PATIENCE
    while (answer := _request(server, method, target, data, kind)).status == 503 and time.monotonic() < until:
        time.sleep(answer.retry)
    text = str(answer.values.get("error", ""))
    match answer.status:
        case 200:
            return answer.values
        case 422:
            raise InputError("photo", text.removeprefix("photo: "))
        case 400 | 403 if text:
            template = answer.values.get("template")
            raise OptionError(str(template)) if template else UsageError(text)
    raise InputError(server, text or f"answers with status {answer.status}", "Is it `attn retrieve serve`?")


def _request(server: str, method: str, target: str, body: bytes | None, kind: str) -> _Answered:
    parts = urlsplit(server)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        headers = {"Content-Type": kind} if body is not None else {}
        connection.request(method, quote(parts.path.rstrip("/"), safe="/%") + target, body, headers)
        response = connection.getresponse()
        data = read_within(response, server, what="answers with")
        values = json.loads(data) if response.status != 503 else {}  # with too many connections it is no JSON
        if not isinstance(values, dict):
            raise ValueError("no object")
        retry = response.headers.get("Retry-After", "1")
        return _Answered(response.status, values, min(float(retry), 10.0) if retry.isdecimal() else 1.0)
    finally:
        connection.close()


@contextmanager
def _told(server: str) -> Iterator[None]:
    """What may go wrong on the way to a server, in our words."""
    try:
        yield
    except (AttnError, KeyboardInterrupt):
        raise
    except TimeoutError as error:
        raise InputError(server, f"did not answer within {SECONDS:g} s", "Ask again, or start it anew") from error
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(server, f"nobody answers there ({reason})", "Start it: attn retrieve serve INDEX") from error
    except (http.client.HTTPException, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(server, "answers, but not as `attn retrieve serve` does", "Check the address") from error


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _photo(path: Path, most: int) -> bytes:
    """The bytes of a photo's file. Raises ``InputError`` that names it if it cannot be read."""
    with open_regular(path) as file:
        return read_within(file, path, most, what="holds")


def _result(key: str, query: str, values: Mapping[str, Any], sentence: bool = False) -> Result:
    """Hits as the server gave them, with paths from the current folder."""
    hits = [
        Hit(
            str(hit["id"]), float(hit["score"]),
            dict(hit["meta"]) | ({} if hit["path"] is None else {"path": from_here(str(hit["path"]))}),
        )
        for hit in values["hits"]
    ]  # fmt: skip
    return Result(key, query, hits, float(values["ms"]), sentence)
