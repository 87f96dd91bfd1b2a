"""Texts per second of ``attn``'s encoder against sentence-transformers: same model, texts, threads, in one run.

    python tests/benchmarks/encode_texts.py DATA [--texts 200] [--rounds 3] [--threads 1]

DATA is a BEIR folder (Cranfield). Both encode the same random texts in turns; vectors are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
import transformers

from attn.core.models.embedded import EMBEDDED
from attn.core.retrieve.data.formats import read_dataset
from attn.core.retrieve.encoders.load import load


def seconds(work: Callable[[], np.ndarray]) -> float:
    start = time.process_time()  # of the process: other work on the machine does not count
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    documents = [str(text) for text in read_dataset(arguments.data).documents.values()]
    drawn = np.random.default_rng(0).permutation(len(documents))[: arguments.texts]
    texts = [documents[i] for i in drawn]
    ours = load("minilm", threads=arguments.threads)
    theirs = sentence_transformers.SentenceTransformer(str(EMBEDDED["minilm"].path()), device="cpu")
    works = {
        "attn": lambda: ours.encode_texts(texts).vectors,
        "sentence-transformers": lambda: np.asarray(theirs.encode(texts, show_progress_bar=False)),
    }
    difference = np.abs(works["attn"]() - works["sentence-transformers"]()).max()  # also the warm-up
    print(f"{len(texts)} texts, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
          f"transformers {transformers.__version__}, sentence-transformers {sentence_transformers.__version__}; "
          f"largest difference {difference:.1e}")  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"{name}: {len(texts) / middle:.1f} texts per CPU second ({min(found):.2f} to {max(found):.2f} s)")
    ratios = [b / a for a, b in zip(times["attn"], times["sentence-transformers"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
