"""`attn retrieve serve` and `search --server` as users type them: output and exit codes are those of a plain search."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from encoder_folders import dual_folder
from served import Served, served
from small_models import photo

URL = "http://127.0.0.1:9"
"""Where nobody is."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A model, three photos and their index, which a server has open."""
    folder = tmp_path_factory.mktemp("home")
    dual_folder(folder / "clip")
    for number in range(3):
        photo(folder / "photos" / f"{number}.png", seed=number)
    (folder / "none.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (folder / "q.jsonl").write_text('{"_id": "7", "text": "a dog"}\n{"_id": "8", "text": " "}\n')
    return folder


@pytest.fixture
def here(cli, home):
    def run(*args: Any, **more: Any):
        return cli(*args, cwd=home, **more)

    return run


@pytest.fixture(scope="module")
def there(home):
    from attn.core.retrieve.options.encoder import EncoderOptions
    from attn.core.retrieve.options.index import IndexOptions
    from attn.core.retrieve.verbs.index import index

    index([str(home / "photos")], str(home / "i"), IndexOptions(EncoderOptions(str(home / "clip"))))
    with served(str(home / "i")) as server:
        yield server


def untimed(text: str) -> str:
    """Output without the times in it."""
    text = re.sub(r"[\d.]+ s on", "s on", text)
    return re.sub(r'"ms": [\d.e-]+', "ms", text)


@pytest.mark.parametrize(
    "asked",
    [
        ["a red dog"],
        ["a red dog", "blue", "--format", "jsonl", "-k", "2"],
        ["--queries", "q.jsonl", "--format", "trec"],
        ["--image", "photos/1.png", "--format", "paths0", "--where", "id <> '0.png'"],
        ["--image", "none.jpg", "--image", "photos/1.png", "--format", "tsv"],
        ["--image", "missing.png"],
        ["dog", "--where", "colour = 1"],
        ["dog", "--where", "id = 'nobody'", "--format", "tsv"],
        ["dog", "--top", "0"],
        [" "],
        ["-", "--format", "jsonl"],
    ],
)
def test_the_output_is_that_of_a_search_without_a_server(here, there: Served, asked):
    plain = here("retrieve", "search", "i", *asked, "--threads", "1", stdin="cat\n")
    for place in ([], ["i"]):
        through = here("retrieve", "search", *place, *asked, "--server", there.address, stdin="cat\n")
        assert through.code == plain.code, through.stderr
        assert untimed(through.stdout) == untimed(plain.stdout)
        assert through.stderr == plain.stderr


def test_files_that_are_gone_are_told_as_without_a_server(here, there: Served, home):
    names = [home / "photos" / "0.png", home / "photos" / "2.png"]
    kept = [path.read_bytes() for path in names]
    times = [path.stat() for path in names]
    for path in names:
        path.unlink()
    plain, through = (
        here("retrieve", "search", *place, "a dog", "blue", "-k", "2", "--format", "tsv")
        for place in (["i", "--threads", "1"], ["--server", there.address])
    )
    for path, data, state in zip(names, kept, times, strict=True):
        path.write_bytes(data)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert "not there any more" in plain.stderr
    assert through == plain


def test_json_and_sheet(here, there: Served, home):
    ran = here("retrieve", "search", "--server", there.address, "dog", "--json", "--sheet", "hits.html")
    assert ran.code == 0, ran.stderr
    plain = here("retrieve", "search", "i", "dog", "--json", "--threads", "1").report
    assert {name for name in plain if ran.report[name] != plain[name]} <= {"seconds", "arguments", "items", "summary"}
    assert [item["details"] for item in ran.report["items"]] == [item["details"] for item in plain["items"]]
    summary = ran.report["summary"]
    assert {name for name in plain["summary"] if summary.get(name) != plain["summary"][name]} <= {"index", "mean_ms"}
    assert set(summary) == set(plain["summary"])
    assert (summary["index"], summary["entries"]) == (str(home / "i"), 3)
    assert (home / "hits.html").read_text().count("<img") == 3


def test_what_cannot_be_asked_of_a_server(here, there: Served, home):
    here("retrieve", "index", "q.jsonl", "-o", "other", "--model", "clip")
    ran = here("retrieve", "search", "other", "dog", "--server", there.address)
    assert (ran.code, "has " in ran.stderr and " open, not other" in ran.stderr) == (2, True)
    for option in (["--device", "cpu"], ["--model", "clip"], ["-T", "0.9"], ["--explain"], ["--threads", "1"]):
        ran = here("retrieve", "search", "dog", "--server", there.address, *option)
        assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
        assert "the server has chosen it" in ran.stderr
    for address in ("127.0.0.1:1", "https://localhost", "http://", "http://a:b", "http://a/?q=1", "ftp://a"):
        ran = here("retrieve", "search", "dog", "--server", address)
        assert (ran.code, "--server: " in ran.stderr) == (2, True), address
    ran = here("retrieve", "search")
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1)
    assert "--server" in ran.stderr


def answering(*answers: bytes) -> str:
    """Address of a server that says these things, whatever it is asked."""
    entrance = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with entrance:
            for answer in answers:
                line = entrance.accept()[0]
                line.recv(65536)
                line.sendall(answer)
                line.close()

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{entrance.getsockname()[1]}"


def said(status: str, body: Any, *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


def test_servers_that_are_none(here):
    for address, reason in (
        (URL, "nobody answers there"),
        (answering(said("200 OK", b"<html>")), "not as `attn retrieve serve` does"),
        (answering(said("200 OK", {})), "not as `attn retrieve serve` does"),
        (answering(said("200 OK", [1])), "not as `attn retrieve serve` does"),
        (answering(b"SSH-2.0\r\n"), "not as `attn retrieve serve` does"),
        (answering(b""), "nobody answers there"),
        (answering(said("404 Not Found", {"error": "no"})), "no. Is it `attn retrieve serve`?"),
        (answering(said("500 Oh", {"error": "the index is damaged"})), "the index is damaged"),
    ):
        ran = here("retrieve", "search", "dog", "--server", address)
        assert (ran.code, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
        assert reason in ran.stderr, ran.stderr


def test_a_busy_server_is_asked_again(here, there: Served):
    about = said("200 OK", there.ask("/info").json)
    answer = said("200 OK", there.ask("/search", {"texts": ["dog"]}).json)
    busy = said("503 Busy", {"error": "busy"}, "Retry-After: 0")
    ran = here("retrieve", "search", "dog", "--server", answering(busy, about, busy, busy, answer), "--format", "tsv")
    assert ran.code == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 4


def test_serving_needs_an_index_and_a_port(here, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # which the command sets for its process, here ours
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = here("retrieve", "serve", "i", "--port", taken.getsockname()[1])
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1)
    assert "--port: " in ran.stderr
    ran = here("retrieve", "serve", "nowhere", "--port", "0")
    assert (ran.code, len(ran.stderr.splitlines())) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_when_it_is_told_to(home, there, number):
    command = [sys.executable, "-m", "attn", "retrieve", "serve", "i", "--port", "0"]
    server = subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert server.stdout is not None
        about, address = server.stdout.readline(), server.stdout.readline().strip()
        assert "3 entries" in about
        search = [sys.executable, "-m", "attn", "retrieve", "search", "--server", address, "dog", "--format", "tsv"]
        done = subprocess.run(search, cwd=home, capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) == 4
        server.send_signal(number)
        out, err = server.communicate(timeout=120)
        assert (server.returncode, out, err) == (130, "", "attn: interrupted\n")
    finally:
        server.kill()
        server.wait()
