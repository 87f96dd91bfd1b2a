"""How long `attn retrieve dedup` takes, beside the whole product of all vectors, in blocks as well.

    OMP_NUM_THREADS=1 python tests/benchmarks/retrieval_dedup.py --items 20000 100000 --dim 384
    OMP_NUM_THREADS=1 python tests/benchmarks/retrieval_dedup.py --items 100000 --threshold 0.7

Vectors from a seed, of two kinds: "decaying" with principal axes (scales 1/sqrt(i)), as embeddings have, one in twenty
a near copy of another; "isotropic" without any, the worst case of the bound. Ours reads a flat index and groups; the
other only multiplies, in blocks of unit rows from the diagonal on, and counts pairs at the threshold. ``--clock cpu``
counts the processor's time of all threads: for machines that are busy otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attn.core.retrieve.options.find import DedupOptions
from attn.core.retrieve.store import Header, create
from attn.core.retrieve.verbs.dedup import dedup
from attn.core.retrieve.verbs.owners import SIZES

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Vectors = NDArray[np.float32]


def vectors(count: int, dim: int, kind: str) -> Vectors:
    """Unit rows [count, dim]."""
    generator = np.random.default_rng(0)
    scale = (np.arange(1, dim + 1) ** (-0.5 if kind == "decaying" else 0.0)).astype(np.float32)
    x = generator.standard_normal((count, dim), dtype=np.float32) * scale
    if kind == "decaying":
        copies = generator.permutation(count)[: count // 20]
        noise = generator.standard_normal((len(copies), dim), dtype=np.float32)
        x[copies] = x[generator.integers(count, size=len(copies))] + 0.02 * noise * scale
    unit: Vectors = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def whole_product(x: Vectors, threshold: float) -> int:
    """Pairs at the threshold, counted in blocks."""
    found, rows = 0, torch.from_numpy(x)
    for start in range(0, len(x), SIZES.block):
        for other in range(start, len(x), SIZES.kept):
            scores = rows[start : start + SIZES.block] @ rows[other : other + SIZES.kept].T
            found += np.flatnonzero(scores.numpy() >= threshold).size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[20_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = CLOCKS[args.clock]
    print(f"threshold {args.threshold:g}, dim {args.dim}, {args.threads} threads, {args.clock} seconds\n")
    print("| items | vectors | duplicates | attn dedup | of it reading | whole product | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for items in args.items:
        for kind in ("decaying", "isotropic"):
            x = vectors(items, args.dim, kind)
            with tempfile.TemporaryDirectory() as folder:
                store = create(Path(folder), Header.new({"model": "none"}, args.dim), "flat")
                store.add([f"{i:08d}" for i in range(items)], x, [{"path": f"{i:08d}.jpg"} for i in range(items)])
                store.close()
                start = clock()
                dedup(folder, DedupOptions(args.threshold, "id = '00000000'", threads=args.threads))
                read = clock() - start
                start = clock()
                found = dedup(folder, DedupOptions(args.threshold, threads=args.threads))
                ours = clock() - start
            start = clock()
            whole_product(x, args.threshold)
            other = clock() - start
            count = found.report.items[0].metrics["duplicates"]
            cells = (items, kind, count, f"{ours:.1f}", f"{read:.1f}", f"{other:.1f}", f"{other / ours:.1f}")
            print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
