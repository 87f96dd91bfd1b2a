"""What only the Qdrant store has: its address, and a server that does not answer."""

from __future__ import annotations

import pytest

pytest.importorskip("qdrant_client")

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
