"""How fast our vector stores build and search, beside FAISS and the plain LanceDB calls, in one run.

    python tests/benchmarks/retrieval_store.py --items 100000 --dim 384
    python tests/benchmarks/retrieval_store.py --items 1000000 --dim 384 --stores lance --scratch /large/disk

Clustered unit vectors from a seed; queries come from the same clusters and are not in the store. Calls alternate
between ours and the other, so that a busy machine slows both; medians and their ratio are printed as a Markdown table.
Memory is the peak resident size of a fresh process that opens the store and searches. ``--clock cpu`` counts the
processor's time of all threads: for machines that are busy otherwise. ``OMP_NUM_THREADS`` holds for all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn.core.retrieve.store import Header, create, open_store

BATCH, K, CLUSTERS, SPREAD = 20_000, 10, 1_000, 1.0
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]
Vectors = NDArray[np.float32]


def vectors(count: int, dim: int, seed: int) -> Iterator[Vectors]:
    """Unit vectors around common centres, [<= BATCH, dim] at a time."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, dim), dtype=np.float32)
    generator = np.random.default_rng(seed)
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        x = centres[generator.integers(CLUSTERS, size=n)] + SPREAD * generator.standard_normal(
            (n, dim), dtype=np.float32
        )
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def batches(args: argparse.Namespace) -> Iterator[tuple[list[str], Vectors, list[dict[str, Any]]]]:
    first = 0
    for x in vectors(args.items, args.dim, seed=1):
        rows = range(first, first + len(x))
        yield [f"item/{i:08d}" for i in rows], x, [{"path": f"images/{i:08d}.jpg", "width": i % 4_000} for i in rows]
        first += len(x)


def side_by_side(
    queries: Vectors, ours: Callable[[Vectors], Any], theirs: Callable[[Vectors], Any]
) -> tuple[float, float]:
    """Median ms of both over single queries [q, dim], called in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for call in (ours, theirs):
        call(queries[:1])
    for i in range(len(queries)):
        for call, spent in zip((ours, theirs), times, strict=True):
            start = clock()
            call(queries[i : i + 1])
            spent.append(1e3 * (clock() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def peak_mb(place: str, dim: int) -> float:
    """Peak resident memory of a process that opens the store and searches 100 times."""
    out = subprocess.run(
        [sys.executable, __file__, "--measure", place, "--dim", str(dim)], check=True, capture_output=True, text=True
    )
    return float(json.loads(out.stdout)["peak_mb"])


def own_peak_mb() -> float:
    """Peak resident memory of this process. Not from ``getrusage``: there a child starts with its parent's peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(place: str, dim: int) -> None:
    store = open_store(place)
    for query in next(vectors(100, dim, seed=3)):
        store.search(query[None], K)
    print(json.dumps({"peak_mb": own_peak_mb()}))


def row(what: str, ours: float, theirs: float | None, unit: str) -> None:
    rest = f"{theirs:.2f} | {ours / theirs:.2f}" if theirs else " | "
    print(f"| {what} | {ours:.2f} {unit} | {rest} |", flush=True)


def flat(args: argparse.Namespace, place: Path, queries: Vectors) -> None:
    """Exact search: ours (memory-mapped) and FAISS's IndexFlatIP (in memory)."""
    import faiss

    start = clock()
    store = create(place, Header.new({}, args.dim), "flat")
    for ids, x, meta in batches(args):
        store.add(ids, x, meta)
    built = clock() - start
    index = faiss.IndexFlatIP(args.dim)
    start = clock()
    for x in vectors(args.items, args.dim, seed=1):
        index.add(x)
    row("flat: build", built, clock() - start, "s")
    start = clock()
    open_store(place).close()
    row("flat: open, with checksums", clock() - start, None, "s")
    one = side_by_side(queries, lambda q: store.search(q, K), lambda q: index.search(q, K))
    row("flat: one query, p50, beside FAISS flat", *one, "ms")
    many = np.concatenate([queries] * (1 + 64 // len(queries)))[:64]
    blocks = np.stack([many] * 3).reshape(3, -1)
    batch = side_by_side(
        blocks, lambda q: store.search(q.reshape(64, -1), K), lambda q: index.search(q.reshape(64, -1), K)
    )
    row("flat: 64 queries in one call, p50, beside FAISS flat", *batch, "ms")
    same = sum(
        {hit.id for hit in hits} == {f"item/{i:08d}" for i in found}
        for hits, found in zip(store.search(queries, K), index.search(queries, K)[1], strict=True)
    )
    row("flat: queries with the same 10 items as FAISS", same / len(queries), None, "of 1")
    start = clock()
    store.search(queries[:1], K, where="width < 400")
    first = clock() - start
    filtered = lambda q: store.search(q, K, where="width < 400")  # noqa: E731
    again, _ = side_by_side(queries, filtered, lambda q: None)
    row("flat: filter of 10 %, first query", 1e3 * first, None, "ms")
    row("flat: filter of 10 %, later queries, p50", again, None, "ms")
    row("flat: peak memory while searching (mapped pages count)", peak_mb(str(place), args.dim), None, "MB")
    store.close()


def lance(args: argparse.Namespace, place: Path, queries: Vectors) -> None:
    """Approximate search: our store and the same table and index made and asked with plain LanceDB."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import HnswSq, IvfPq

    from attn.core.retrieve.store.lance import NPROBES, REFINE_PQ, LanceStore
    from attn.core.retrieve.store.lance_table import TABLE, sub_vectors

    start = clock()
    store = create(place, Header.new({}, args.dim), "lance")
    assert isinstance(store, LanceStore)
    for ids, x, meta in batches(args):
        store.add(ids, x, meta)
    inserted = clock() - start
    start = clock()
    built = store.build_index(filters=args.filters)
    both = clock() - start
    start = clock()
    store._recall()  # once more, alone: ``built`` counts wall time, and we may not
    recalled = clock() - start
    indexed = both - recalled
    row(f"lance: insert ({store.stats()['version']} versions)", inserted, None, "s")
    row(f"lance: index build, {built['type']}, {built['partitions']} partitions", indexed, None, "s")
    row("lance: measuring the recall", recalled, None, "s")
    raw = lancedb.connect(str(place)).open_table(TABLE)
    if args.raw_build:
        other = lancedb.connect(str(place.with_name("raw")))
        start = clock()
        table = None
        for ids, x, meta in batches(args):
            rows = pa.table(
                {
                    "id": ids,
                    "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), args.dim),
                    "path": [one["path"] for one in meta],
                    "width": [one["width"] for one in meta],
                }
            )
            table = table.add(rows) and table if table is not None else other.create_table(TABLE, rows)
        row("lance: insert, beside plain LanceDB", inserted, clock() - start, "s")
        config: Any = (
            IvfPq(distance_type="cosine", num_partitions=built["partitions"], num_sub_vectors=sub_vectors(args.dim))
            if args.filters
            else HnswSq(distance_type="cosine", num_partitions=built["partitions"])
        )
        start = clock()
        table.create_index("vector", config=config)
        row("lance: index build, beside plain LanceDB", indexed, clock() - start, "s")

    def plain(q: Vectors, condition: str | None = None) -> Any:
        search = raw.search(q[0]).distance_type("cosine").limit(K).nprobes(NPROBES).ef(max(64, 2 * K))
        search = search.refine_factor(REFINE_PQ) if args.filters else search
        search = search.where(condition) if condition else search
        return search.select(["id", "meta", "_distance"]).to_list()

    row(
        "lance: one query, p50, beside plain LanceDB", *side_by_side(queries, lambda q: store.search(q, K), plain), "ms"
    )
    filtered = side_by_side(
        queries, lambda q: store.search(q, K, where="width < 400"), lambda q: plain(q, "width < 400")
    )
    row("lance: filter of 10 %, p50, beside plain LanceDB", *filtered, "ms")
    exact = store.search(queries, K, exact=True)
    truth = [{hit.id for hit in hits} for hits in exact]
    ours = [{hit.id for hit in hits} for hits in store.search(queries, K)]
    theirs = [{hit["id"] for hit in plain(query[None])} for query in queries]
    share = [sum(len(a & b) for a, b in zip(truth, found, strict=True)) / (K * len(truth)) for found in (ours, theirs)]
    row("lance: recall@10 of new queries, beside plain LanceDB", share[0], share[1], "of 1")
    row("lance: recall@10 as the store reports it", built["recall_at_10"], None, "of 1")
    row("lance: peak memory while searching", peak_mb(str(place), args.dim), None, "MB")
    row("lance: on disk", store.stats()["bytes"] / 1e6, None, "MB")
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--stores", default="flat,lance")
    parser.add_argument("--filters", action="store_true", help="IVF_PQ instead of IVF_HNSW_SQ")
    parser.add_argument("--raw-build", action="store_true", help="build the plain LanceDB table and index, too")
    parser.add_argument("--scratch", type=Path, help="directory for the stores; they are removed at the end")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.dim)
        return
    global clock
    clock = CLOCKS[args.clock]
    queries = next(vectors(args.queries, args.dim, seed=2))
    scratch = Path(tempfile.mkdtemp(prefix="attn-stores-", dir=args.scratch))
    print(f"{args.items} x {args.dim}, {args.queries} queries, k = {K}, {args.clock} time\n")
    print("| | ours | other | ratio |\n| --- | --- | --- | --- |")
    try:
        for name in args.stores.split(","):
            {"flat": flat, "lance": lance}[name](args, scratch / name, queries)
        row("peak memory of this process, all of the above", own_peak_mb(), None, "MB")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
