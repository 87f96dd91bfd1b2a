"""The table of methods/tempscale.md, section 6: MiniLM on Cranfield at nine temperatures, checked to ±0.15 points.

    python tests/benchmarks/tempscale_cranfield.py DATA [--tau 1.0 0.9 0.8] [--cache DIR] [--threads N]

DATA is the Cranfield folder in BEIR layout. Vectors of each temperature are cached, so that a run that was stopped goes
on where it was; about 80 s a temperature on one free core. Exits with 1 if a metric is off.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from attn.core.progress import Silent
from attn.core.retrieve.collapse import pair_similarity, split
from attn.core.retrieve.data.formats import EvalSet, read_dataset
from attn.core.retrieve.encoders.load import load
from attn.core.retrieve.encoders.text import TextEncoder
from attn.core.retrieve.score.bootstrap import compare
from attn.core.retrieve.score.measures import Evaluation
from attn.core.retrieve.score.metrics import TEXT_METRICS, evaluate
from attn.core.retrieve.score.rankings import run_of_scores
from attn.core.retrieve.verbs.embed import embed

GOLDEN = Path(__file__).parent.parent / "golden" / "vectors" / "tempscale" / "cranfield_minilm.json"
TOLERANCE = 0.15  # points: section 6, last line
SIMILARITY_TOLERANCE = 0.002
EDGES = (0, 64, 128, 192, 256)


def vectors(encoder: TextEncoder, data: EvalSet, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Documents [1400, 384] and queries [225, 384] at the temperature of the encoder."""
    file = cache / f"cranfield-{encoder.fingerprint.temperature:g}.npz"
    if not file.exists():
        start = time.perf_counter()
        found = embed(data, encoder, Silent())
        print(f"encoded in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file.with_suffix(".part.npz"), documents=found.documents, queries=found.queries)
        file.with_suffix(".part.npz").rename(file)
    with np.load(file) as saved:
        return saved["documents"], saved["queries"]


def row(tau: float, encoder: TextEncoder, data: EvalSet, cache: Path) -> tuple[dict[str, Any], Evaluation]:
    """What the table says of one temperature: percent, and pair cosines."""
    documents, queries = vectors(encoder.at(tau), data, cache)
    run = run_of_scores(data, queries @ documents.T, len(documents))
    evaluation = evaluate(data.qrels, run, TEXT_METRICS)
    exact = documents.astype(np.float64)
    counts = encoder.tokens([str(text) for text in data.documents.values()]).counts
    buckets = [round(pair_similarity(exact[rows]), 4) for _, _, _, rows in split(counts, EDGES)]
    measured = {name: 100 * value for name, value in evaluation.values.items()}
    return measured | {"mean_pair_cosine": pair_similarity(exact), "buckets": buckets}, evaluation


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--tau", type=float, nargs="+")
    parser.add_argument("--cache", type=Path, default=Path("cranfield-vectors"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    golden = {one["temperature"]: one for one in json.loads(GOLDEN.read_text())["results"]}
    data = read_dataset(arguments.data)
    encoder = load("minilm", threads=arguments.threads)
    assert isinstance(encoder, TextEncoder)
    off = 0
    base: Evaluation | None = None
    for tau in arguments.tau or sorted(golden, reverse=True):
        measured, evaluation = row(tau, encoder, data, arguments.cache)
        base = evaluation if tau == 1.0 else base
        line = [f"{name} {measured[name]:.2f} ({measured[name] - golden[tau][name]:+.3f})" for name in TEXT_METRICS]
        off += sum(abs(measured[name] - golden[tau][name]) > TOLERANCE for name in TEXT_METRICS)
        expected = [
            golden[tau]["mean_pair_cosine"],
            *(bucket[3] for bucket in golden[tau]["buckets_tokens_lo_hi_n_paircos_centroid"]),
        ]
        worst = np.abs(np.array([measured["mean_pair_cosine"], *measured["buckets"]]) - expected).max()
        off += bool(worst > SIMILARITY_TOLERANCE)
        print(f"tau {tau:g}: " + ", ".join(line))
        print(f"    pair cosine {measured['mean_pair_cosine']:.4f}, buckets {measured['buckets']} (worst {worst:.1e})")
        if base is not None and tau != 1.0:
            change = compare(base, evaluation, "ndcg@10")
            interval = f"[{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
            print(f"    nDCG@10 against 1.0: {100 * change.difference:+.2f} {interval}", flush=True)
    print("all within tolerance" if not off else f"{off} values out of tolerance")
    return int(off > 0)


if __name__ == "__main__":
    raise SystemExit(main())
