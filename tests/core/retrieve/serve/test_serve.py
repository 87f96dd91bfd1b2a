"""`attn retrieve serve`: what it answers, whom it answers, and how much of it."""

from __future__ import annotations

import io
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from encoder_folders import dual_folder
from PIL import Image
from served import Got, Served, served

from attn.core.options import OptionError
from attn.core.retrieve.data.queries import Content
from attn.core.retrieve.options.encoder import EncoderOptions
from attn.core.retrieve.options.find import SearchOptions
from attn.core.retrieve.options.index import IndexOptions
from attn.core.retrieve.serve.desk import Desk
from attn.core.retrieve.serve.gate import Limits
from attn.core.retrieve.serve.run import listening
from attn.core.retrieve.verbs.index import index
from attn.core.retrieve.verbs.search import search

JPEG = {"Content_Type": "image/jpeg"}


def photo(path: Path, seed: int) -> Path:
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(blocks).resize((80, 60), Image.Resampling.NEAREST).save(path)
    return path


def indexed(folder: Path, model: Path) -> str:
    options = IndexOptions(EncoderOptions(str(model)))
    assert index([str(folder / "photos")], str(folder / "i"), options).exit_code == 0
    return str(folder / "i")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return dual_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def home(tmp_path_factory, model) -> Path:
    """Six photos and their index ``i``; of one the file is gone, one is called like a place outside."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "photos").mkdir()
    for number in range(5):
        photo(folder / "photos" / f"{number}.png", number)
    photo(folder / "photos" / "gone.png", 9)
    indexed(folder, model)
    (folder / "photos" / "gone.png").unlink()
    return folder


@pytest.fixture(scope="module")
def there(home):
    with served(str(home / "i")) as server:
        yield server


def local(home: Path, *texts: Content, **options) -> list:
    """What `attn retrieve search` finds: ids and scores."""
    found = search(home / "i", dict(enumerate(texts)), SearchOptions(threads=1, **options))  # type: ignore[arg-type]
    return [[(hit.id, hit.score) for hit in result.ranked] for result in found.results]


def pairs(got: Got) -> list:
    assert got.status == 200, got.body
    return [[(hit["id"], hit["score"]) for hit in result["hits"]] for result in got.json["results"]]


def test_answers_are_those_of_search(there: Served, home):
    one, two = "a red dog", "the old town"
    assert pairs(there.ask("/search?text=a+red+dog")) == local(home, one)
    assert pairs(there.ask("/search", {"text": one, "k": 2})) == local(home, one, top=2)
    assert pairs(there.ask("/search", {"texts": [one, two]})) == local(home, one, two)
    where = "path LIKE '%3.png' OR id = '1.png'"
    assert pairs(there.ask("/search", {"text": one, "where": where, "exact": True})) == local(home, one, where=where)
    picture = home / "photos" / "3.png"
    assert pairs(there.ask("/similar?k=2", picture.read_bytes(), **JPEG)) == local(home, picture, top=2)
    hits = pairs(there.ask("/similar?id=3.png&k=9"))[0]
    assert "3.png" not in [name for name, _ in hits]
    assert len(hits) == 5
    (hit, *_) = there.ask("/similar", {"id": str(picture), "k": 1}).json["results"][0]["hits"]
    assert os.path.isabs(hit["path"])
    assert hit["thumbnail"].startswith("/thumbnail?id=")


def test_what_is_missing_is_told(there: Served):
    answer = there.ask("/search?text=dog").json
    assert "is not there any more" in answer["warnings"][0]
    about = there.ask("/info").json
    assert (about["entries"], about["reads"], about["warnings"]) == (6, ["image", "text"], [])
    assert there.ask("/health").json == {"status": "ok"}


@pytest.mark.parametrize(
    ("status", "said", "target", "body"),
    [
        (400, "say what to look for", "/search", None),
        (400, "say what to look for", "/search", {"text": "a", "texts": ["b"]}),
        (400, "is no sentence", "/search?text=+", None),
        (400, "is no sentence", "/search", {"text": 5}),
        (400, "is no sentence", "/search", {"text": "\ud800"}),
        (400, "too many at once", "/search", {"texts": ["a"] * 65}),
        (400, "k: 0 is too small", "/search?text=a&k=0", None),
        (400, "k: 'x' is no whole number", "/search?text=a&k=x", None),
        (400, "k: '-1' is no whole number", "/search?text=a&k=-1", None),
        (400, "k: True is no whole number", "/search", {"text": "a", "k": True}),
        (400, "at most 1000", "/search?text=a&k=1001", None),
        (400, "exact: 'yes' is neither", "/search?text=a&exact=yes", None),
        (400, "where: ", "/search", {"text": "a", "where": "colour = 'red'"}),
        (400, "where: it is a text", "/search", {"text": "a", "where": ["x"]}),
        (400, "nothing here is called 'txt'. Did you mean text?", "/search?txt=a", None),
        (400, "nothing here is called 'id'", "/search", {"text": "a", "id": "b"}),
        (400, "no JSON object", "/search", [1]),
        (400, "say like which entry", "/similar", {"id": 3}),
        (404, "no entry of", "/similar?id=nobody", None),
        (404, "There are: /", "/nowhere", None),
        (404, "There are: /", "/../../etc/passwd", None),
        (404, "no photo of the index", "/thumbnail?id=../../etc/passwd", None),
        (404, "no photo of the index", "/thumbnail?id=%2Fetc%2Fpasswd", None),
        (404, "no photo of the index", "/thumbnail", None),
        (404, "no photo of the index", "/thumbnail?id=%00", None),
        (400, "say like which entry", "/similar?id=%00", None),
        (404, "", "/thumbnail?id=gone.png", None),
    ],
)
def test_errors_are_one_line_of_json(there: Served, status, said, target, body):
    got = there.ask(target, body)
    assert got.status == status, got.body
    assert said in got.json["error"]
    assert "\n" not in got.json["error"]
    assert got.headers["Content-Type"] == "application/json"


def test_bodies_that_are_something_else(there: Served):
    assert there.ask("/search", b'{"text": "a"}', Content_Type="text/plain").status == 415  # what a form may send
    assert there.ask("/search", b"{", Content_Type="application/json").status == 400
    assert there.ask("/search", b"[" * 100_000, Content_Type="application/json").status == 400
    refused = there.ask("/similar", b"\xff\xd8\xff no photo", **JPEG)
    assert refused.status == 422
    assert refused.json["error"].startswith("photo: ")
    assert there.ask("/search?text=a", method="DELETE").status == 405
    assert there.lines == []


def test_only_this_machine_and_its_pages_are_answered(there: Served):
    for host in ("attacker.example", "127.0.0.1.attacker.example", "", "[", "192.168.0.1"):
        assert there.ask("/search?text=a", Host=host).status == 403, host
    for origin in ("https://attacker.example", "null", "https://localhost", "http://localhost.attacker.example"):
        assert there.ask("/search?text=a", Origin=origin).status == 403, origin
    for host in ("localhost:1", "LOCALHOST", "[::1]:80", "127.0.0.1"):
        assert there.ask("/search?text=a", Host=host).status == 200, host
    got = there.ask("/search?text=a", Origin="http://localhost:8000")
    assert got.status == 200
    assert got.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in got.headers


def test_thumbnails_are_of_photos_of_the_index(there: Served, home):
    for _ in range(2):  # the second one is kept
        got = there.ask("/thumbnail?id=2.png")
        assert (got.status, got.headers["Content-Type"]) == (200, "image/jpeg")
        assert max(Image.open(io.BytesIO(got.body)).size) <= 240
    there.desk._photos.clear()
    assert there.ask("/thumbnail?id=4.png").status == 200
    (home / "photos" / "secret.png").write_bytes((home / "photos" / "1.png").read_bytes())
    assert there.ask("/thumbnail?id=secret.png").status == 404  # beside the others, but not of the index


def test_more_than_there_is_room_for(home, monkeypatch):
    limits = Limits(requests=2, photos=0, json_bytes=100, photo_bytes=100, seconds=0.5)
    with served(str(home / "i"), limits) as there:
        assert there.ask("/search", {"text": "a" * 200}).status == 413
        assert there.ask("/similar", b"x" * 50, **JPEG).status == 503
        chunks = iter([b'{"text": "', b"a" * 200, b'"}'])  # no length is told
        assert there.ask("/search", chunks and b"", Content_Type="application/json").status == 400
        host, port = there.address.split("/")[2].split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(2)]
        head = (
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        for line in slow:
            line.sendall(head)
        busy = there.ask("/search?text=a")
        while busy.status == 200:  # they have not come in yet
            busy = there.ask("/search?text=a")
        assert (busy.status, busy.headers["Retry-After"]) == (503, "1")
        assert there.ask("/health").status == 200
        assert [line.recv(12) for line in slow] == [b"HTTP/1.1 408"] * 2
        for line in slow:
            line.close()
        assert there.ask("/search?text=a").status == 200


def test_who_waits_together_is_answered_together(home, there: Served, monkeypatch):
    texts = ["a dog", "the old red town", "a cat near the river", "blue"] * 3
    alone = local(home, *texts)
    sizes: list[int] = []
    answer = Desk.answer
    first = threading.Event()

    def slow(self, wanted):
        sizes.append(len(wanted))
        first.wait(30)
        return answer(self, wanted)

    monkeypatch.setattr(Desk, "answer", slow)
    got: dict[int, Got] = {}
    threads = [
        threading.Thread(target=lambda row=row: got.update({row: there.ask("/search", {"text": texts[row]})}))
        for row in range(len(texts))
    ]
    for thread in threads:
        thread.start()
    while len(there.desk.index) and sum(sizes) < 1:
        pass
    first.set()
    for thread in threads:
        thread.join(60)
    assert sum(sizes) == len(texts)
    for row, expected in enumerate(alone):
        (hits,) = pairs(got[row])
        assert [name for name, _ in hits] == [name for name, _ in expected]
        assert np.allclose([score for _, score in hits], [score for _, score in expected], atol=1e-6)


def test_what_was_asked_is_answered_before_the_end(home, monkeypatch):
    answer = Desk.answer
    inside, may = threading.Event(), threading.Event()

    def slow(self, wanted):
        inside.set()
        assert may.wait(60)
        return answer(self, wanted)

    monkeypatch.setattr(Desk, "answer", slow)
    got: list[Got] = []
    with served(str(home / "i")) as there:
        asking = threading.Thread(target=lambda: got.append(there.ask("/search?text=a")))
        asking.start()
        assert inside.wait(60)
        there.server.should_exit = True
        may.set()
        asking.join(60)
    assert [one.status for one in got] == [200]


def test_a_fault_of_ours_fails_one_request(there: Served, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Desk, "answer", lambda self, wanted: 1 / 0)
        got = there.ask("/search?text=a")
    assert (got.status, "ZeroDivisionError" in got.json["error"]) == (500, True)
    assert there.lines.pop().startswith("internal error, ZeroDivisionError")
    assert there.ask("/search?text=a").status == 200


def test_the_index_is_opened_again_when_it_changes(tmp_path, model):
    (tmp_path / "photos").mkdir()
    photo(tmp_path / "photos" / "a.png", 1)
    place = indexed(tmp_path, model)
    with served(place) as there:
        assert there.ask("/info").json["entries"] == 1
        photo(tmp_path / "photos" / "b.png", 2)
        indexed(tmp_path, model)
        assert len(pairs(there.ask("/search?text=a"))[0]) == 2
        manifest = tmp_path / "i" / "attn-store.json"
        kept = manifest.read_bytes()
        manifest.write_bytes(b"{")
        answer = there.ask("/search?text=a").json
        assert len(answer["results"][0]["hits"]) == 2
        assert "as it was before" in answer["warnings"][0]
        assert len(there.lines) == 1
        manifest.write_bytes(kept)
        assert there.ask("/search?text=a").json["warnings"] == []


def test_a_port_in_use_is_one_line():
    with listening(0) as taken, pytest.raises(OptionError, match="in use by another program"):
        listening(taken.getsockname()[1])
