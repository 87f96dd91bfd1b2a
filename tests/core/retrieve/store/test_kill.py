"""A writer that is killed, at several places of its work: what was committed is there, whole, and can be added to."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from attn.core.retrieve.store import Header, create, open_store

DIM = 8
WRITER = """
    import sys
    import numpy as np
    from attn.core.retrieve.store import open_store

    store = open_store(sys.argv[1])
    generator = np.random.default_rng(0)
    for batch in range(10_000):
        x = generator.standard_normal((50, 8))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        store.add([f"{batch}/{i}" for i in range(50)], x.astype(np.float32), [{"batch": batch}] * 50)
        if batch % 4 == 3:
            store.delete([f"{batch - 1}/{i}" for i in range(50)])
        if batch % 7 == 6:
            store.compact()
        print(batch, flush=True)
"""


@pytest.mark.parametrize("kind", ["flat", "lance"])
def test_a_killed_writer_leaves_the_last_committed_state(tmp_path, kind):
    if kind == "lance" and importlib.util.find_spec("lancedb") is None:
        pytest.skip("lancedb is not installed")
    path = tmp_path / "index"
    create(path, Header.new({}, DIM), kind).close()
    query = np.eye(DIM, dtype=np.float32)[:1]
    for kill in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(5 + 4 * kill):
            committed = int(writer.stdout.readline())
        time.sleep(0.004 * kill)  # somewhere else in the cycle of writing, each time
        writer.send_signal(signal.SIGKILL)
        committed = max([committed, *map(int, writer.stdout.read().split())])
        writer.wait()
        store = open_store(path)
        counts: dict[int, int] = {}
        for meta in store.entries().values():
            counts[meta["batch"]] = counts.get(meta["batch"], 0) + 1
        assert set(counts.values()) == {50}, "whole batches only"
        deleted = {batch - 1 for batch in range(3, committed + 1, 4)}
        assert set(range(committed + 1)) - deleted <= set(counts)
        assert store.search(query, 3)[0][0].score <= 1.0001
        store.add(["new"], query, [{"batch": -1}])  # the dead writer's lock and leftovers are no obstacle
        assert store.search(query, 1)[0][0].id == "new"
        if kind == "flat":
            assert {p.name for p in path.iterdir()} - {".lock", "attn-store.json"} == store._manifest.names()
        store.delete(["new"])
        store.close()
