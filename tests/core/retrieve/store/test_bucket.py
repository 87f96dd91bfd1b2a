"""An index in object storage: Lance's own s3:// against a server of moto on this machine."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_folders import sentence_folder

pytest.importorskip("lancedb")

from attn.core.bundles import Placement
from attn.core.errors import InputError, UsageError
from attn.core.retrieve.options.encoder import GalleryEncoderOptions
from attn.core.retrieve.options.find import DedupOptions, SearchOptions, SimilarOptions
from attn.core.retrieve.options.index import IndexOptions
from attn.core.retrieve.store import Header, bucket, clear, create, exists, is_index, open_store, stamp_of
from attn.core.retrieve.store.bucket import BucketHome, checked_address
from attn.core.retrieve.verbs.compact import compact
from attn.core.retrieve.verbs.dedup import dedup
from attn.core.retrieve.verbs.export import export
from attn.core.retrieve.verbs.index import index
from attn.core.retrieve.verbs.search import search
from attn.core.retrieve.verbs.similar import similar

HEADER = Header.new({"model": "tiny"}, 8)


@pytest.fixture
def place(storage: str) -> str:
    """An address where nothing is yet."""
    return f"{storage}/indexes/{uuid.uuid4().hex}"


def test_a_gallery_from_index_to_dedup(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = sentence_folder(tmp_path / "model")
    notes = tmp_path / "notes"
    notes.mkdir()
    texts = {"one": "the cat sits near the old river", "two": "a red photo of the new town", "same": "a dog runs"}
    for name, text in (texts | {"again": "a dog runs"}).items():
        (notes / f"{name}.txt").write_text(text)
    options = IndexOptions(GalleryEncoderOptions(str(model), device="cpu"))

    def run(**given: Any) -> dict[str, Any]:
        report = index([str(notes)], place, IndexOptions(options.encoder, **given), Placement(workers=1))
        assert report.exit_code == 0
        return dict(report.items[0].metrics) | dict(report.summary)

    first = run()
    assert (first["entries"], first["added"], first["store"], first["engine"]) == (4, 4, "lance", "attn")
    (notes / "two.txt").unlink()
    (notes / "new.txt").write_text("the blue town")
    again = run(store="lance")
    assert (again["entries"], again["added"], again["unchanged"], again["removed"]) == (4, 1, 3, 1)
    assert not list(tmp_path.glob(".attn-parts-*")), "blocks wait in the current folder, and are gone in the end"

    found = search(place, {"q": "the cat sits near the old river"}, SearchOptions(top=2, device="cpu"))
    assert found.results[0].hits[0].id == "one.txt"
    assert found.results[0].hits[0].meta["path"] == "notes/one.txt"
    assert found.report.summary["entries"] == 4
    like = similar(place, ["same.txt"], SimilarOptions(top=1))
    assert like.results[0].hits[0].id == "again.txt"
    groups = dedup(place, DedupOptions(threshold=0.999))
    assert groups.report.items[0].metrics["duplicates"] == 1
    before = open_store(place).entries()
    report = compact(place)
    assert report.items[0].metrics == {"entries": 4}
    assert open_store(place).entries() == before

    export(place, tmp_path / "copy", "flat")
    assert open_store(tmp_path / "copy").entries().keys() == before.keys()
    export(tmp_path / "copy", f"{place}-back")
    assert open_store(f"{place}-back").entries().keys() == before.keys()
    with pytest.raises(UsageError, match="is an index"):
        export(tmp_path / "copy", f"{place}-back")
    with pytest.raises(UsageError, match="is the name of another kind"):
        export(tmp_path / "copy", f"{place}-back", "parquet")
    assert run(rebuild=True)["added"] == 4


def test_there_is_nothing_yet(place: str) -> None:
    assert not exists(place)
    assert is_index(place), "its address says that one is meant"
    with pytest.raises(InputError, match=r"no such index\. Make one"):
        open_store(place)
    clear(place)
    assert not exists(place)


def test_what_is_there_is_not_overwritten(place: str, unit: Any) -> None:
    store = create(place, HEADER)
    store.add(["a"], unit(1), [{"n": 1}])
    store.close()
    for kind in ("auto", "lance"):
        with pytest.raises(UsageError, match=r"is an index\. Choose another place"):
            create(place, HEADER, kind)
    for given in ({"kind": "flat"}, {"dtype": "float16"}):
        with pytest.raises(UsageError, match="object storage keeps a Lance table of float32"):
            create(f"{place}-other", HEADER, **given)
    clear(place)
    assert not exists(place)
    assert len(create(place, HEADER)) == 0


def test_a_change_changes_the_stamp(place: str, unit: Any) -> None:
    store = create(place, HEADER)
    first = stamp_of(place)
    assert stamp_of(place) == first
    store.add(["a"], unit(1), [{}])
    assert stamp_of(place) != first
    store.close()


def test_notes_of_the_index_are_kept_beside_it(place: str, unit: Any) -> None:
    store = create(place, HEADER)
    store.add([f"{i:03d}" for i in range(300)], unit(300), [{}] * 300)
    built = store.build_index()  # type: ignore[attr-defined]
    store.close()
    assert open_store(place).stats()["approximate"] == built
    assert open_store(place).stats()["bytes"] > 300 * 8 * 4


class TestWriters:
    def test_one_at_a_time(self, place: str, unit: Any) -> None:
        first = create(place, HEADER)
        second = open_store(place, lock_timeout=0.1)
        first.add(["a"], unit(1), [{}])
        with pytest.raises(UsageError, match=r"process \d+ of .* is writing to this index \(waited 0\.1 s\).*ends at"):
            second.add(["b"], unit(1), [{}])
        assert len(second) == 0, "a reader keeps the version it opened"
        first.close()
        second.add(["b"], unit(1), [{}])
        second.close()
        assert set(open_store(place).entries()) == {"a", "b"}

    def test_at_the_same_moment_one_gets_the_right(self, place: str) -> None:
        create(place, HEADER).close()
        homes = [BucketHome(place, 0.0) for _ in range(4)]
        homes[0].lock.acquire()
        homes[0].lock.release()  # the table of the right is there, and free

        def wants(home: BucketHome) -> bool:
            try:
                return home.lock.acquire()
            except UsageError:
                return False

        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(wants, homes))
        assert got.count(True) == 1
        assert [home.lock.held for home in homes] == got

    def test_one_that_died_stops_nobody_for_long(self, place: str, unit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        dead = create(place, HEADER, lock_timeout=0.0)
        monkeypatch.setattr(bucket, "LEASE", 0.0)
        dead.add(["a"], unit(1), [{}])  # and was killed here
        time.sleep(0.01)
        monkeypatch.undo()
        after = open_store(place, lock_timeout=0.0)
        after.add(["b"], unit(1), [{}])
        with pytest.raises(UsageError, match=r"another one took over\. Start again"):
            dead.add(["c"], unit(1), [{}])
        after.close()
        assert set(open_store(place).entries()) == {"a", "b"}

    def test_the_right_is_prolonged_while_it_is_used(self, place: str, unit: Any) -> None:
        store = create(place, HEADER)
        store.add(["a"], unit(1), [{}])
        lock = store.home.lock  # type: ignore[attr-defined]
        full = lock._ends
        lock._ends -= bucket.LEASE - 1  # nearly over
        store.add(["b"], unit(1), [{}])
        assert lock._ends >= full
        assert lock.row()["ends"] == lock._ends
        store.close()

    def test_an_index_that_was_made_anew(self, place: str, unit: Any) -> None:
        old = create(place, HEADER, lock_timeout=0.0)
        clear(place)
        create(place, Header.new({"model": "other"}, 8)).close()
        with pytest.raises(UsageError, match="made this index anew"):
            old.add(["a"], unit(1), [{}])


class TestUnreachable:
    """One line, which never says that there is nothing."""

    def refused(self, place: str, match: str) -> None:
        for call in (open_store, lambda where: create(where, HEADER)):  # seconds each: Lance tries again by itself
            with pytest.raises(InputError, match=match) as error:
                call(place)
            assert "\n" not in str(error.value)
            assert "no such index" not in str(error.value)

    def test_no_server(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bucket, "PATIENCE", bucket.PATIENCE | {"client_max_retries": "0"})
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        self.refused(place, r"http://127\.0\.0\.1:9 does not answer\. Check AWS_ENDPOINT_URL")

    def test_no_bucket(self) -> None:
        self.refused("s3://nobodys/index", "has no such bucket")

    def test_no_credentials(self, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        self.refused(place, "no credentials for object storage were found. Set AWS_ACCESS_KEY_ID")

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ("status: 403, body: <Code>AccessDenied</Code>", r"denies access \(status: 403\)\. Check AWS_ACCESS"),
            ("<Code>SignatureDoesNotMatch</Code>", r"denies access \(SignatureDoesNotMatch\)"),
            ("operation timed out", "does not answer"),
            ("something new, src/x.rs:3:4", r"Lance: something new\. Try again"),
        ],
    )
    def test_what_else_lance_may_say(self, said: str, expected: str) -> None:
        with pytest.raises(InputError, match=expected), BucketHome("s3://some/where", 0).in_our_words():
            raise ValueError(said)

    def test_another_commit_at_the_same_moment(self) -> None:
        with pytest.raises(UsageError, match="at the same moment"), BucketHome("s3://some/where", 0).in_our_words():
            raise ValueError("Retryable commit conflict for version 3")


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3://bucket", "s3://bucket/", "s3:///path", "s3://key:secret@bucket/a", "s3://a/b?c", "s3://a/b#c"],
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(UsageError, match="write s3://BUCKET/PATH"):
        open_store(address)
    assert checked_address("s3://bucket/a/b/") == "s3://bucket/a/b"


def test_vectors_are_those_of_a_folder(place: str, tmp_path: Path, unit: Any) -> None:
    vectors, queries = unit(40), unit(3)
    there, here = create(place, HEADER), create(tmp_path / "here", HEADER, "lance")
    for store in (there, here):
        store.add([f"{i:02d}" for i in range(40)], vectors, [{"n": i} for i in range(40)])
        store.delete(["03"])
    assert there.search(queries, 5, where="n > 4") == here.search(queries, 5, where="n > 4")
    np.testing.assert_array_equal(
        np.concatenate([block.vectors for block in there.blocks()]),
        np.concatenate([block.vectors for block in here.blocks()]),
    )
    there.close()
    here.close()
