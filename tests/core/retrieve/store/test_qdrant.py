"""What only the Qdrant store has: its address, and a server that does not answer."""

from __future__ import annotations

import pytest

pytest.importorskip("qdrant_client")

from encoder_folders import sentence_folder

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.store import Header, create, open_store
from attn.core.retrieve.store.qdrant import QdrantStore


@pytest.mark.parametrize(
    "url", ["qdrant://", "qdrant://host", "qdrant://host:x/items", "qdrant://host/a/b", "qdrant:///a"]
)
def test_bad_addresses(url):
    with pytest.raises(UsageError, match=r"write qdrant://HOST\[:PORT\]/COLLECTION"):
        open_store(url)


def test_no_server():
    with pytest.raises(InputError, match="Is the server running"):
        open_store("qdrant://127.0.0.1:9/items")
    with pytest.raises(InputError, match="Is the server running"):
        create("qdrant://127.0.0.1:9/items", Header.new({}, 4))


def test_collections_that_are_missing_taken_or_of_others(tmp_path):
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "local"))
    header = Header.new({}, 4)
    with pytest.raises(InputError, match="no such Qdrant collection"):
        QdrantStore(client, "items")
    QdrantStore.create(client, "items", header)
    with pytest.raises(UsageError, match="a collection items already"):
        QdrantStore.create(client, "items", header)
    client.create_collection("theirs", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
    with pytest.raises(InputError, match="without attn's header"):
        QdrantStore(client, "theirs")
    client.close()
    again = QdrantStore(QdrantClient(path=str(tmp_path / "local")), "items")
    assert again.header.dim == 4
    assert again.header.store == "qdrant"
    again.close()


def test_the_same_gallery_again(qdrant, tmp_path, monkeypatch):
    from attn.core.bundles import Placement
    from attn.core.retrieve.options.encoder import GalleryEncoderOptions
    from attn.core.retrieve.options.index import IndexOptions
    from attn.core.retrieve.verbs.index import index

    monkeypatch.chdir(tmp_path)
    encoder = GalleryEncoderOptions(str(sentence_folder(tmp_path / "model")), device="cpu")
    notes = tmp_path / "notes"
    notes.mkdir()
    for name in "ab":
        (notes / f"{name}.txt").write_text(f"the cat {name}")

    def run(**given):
        return index([str(notes)], f"{qdrant}/notes", IndexOptions(encoder, **given), Placement(workers=1)).items[0]

    assert run().metrics["added"] == 2
    (notes / "a.txt").unlink()
    (notes / "c.txt").write_text("a dog")
    counts = run().metrics
    assert (counts["entries"], counts["added"], counts["unchanged"], counts["removed"]) == (2, 1, 1, 1)
    with pytest.raises(UsageError, match=r"is on a server\. Delete it there"):
        run(rebuild=True)
