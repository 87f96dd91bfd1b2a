"""Saliency of K = 5 candidates over a cache, against K whole passes with their gradient; for language.md.

    python tests/benchmarks/candidate_saliency.py FOLDER TOKENS [whole]

FOLDER is a causal language model (``smollm2.py`` writes SmolLM2), the text a chapter of Python's documentation. Prints
processor time and peak memory; ``whole`` runs the K passes, too, eager attention with its probabilities kept.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor

from attn.core.models.load import load_model
from attn.core.probe.saliency.matrices import row_normalised, saliency, score
from attn.core.probe.saliency.one_row import OneRow

CANDIDATES = 5
LAYERS = (6, 7, 8)


def whole_passes(model: Any, ids: Tensor, candidates: list[int]) -> list[float]:
    """The score of each candidate, of a forward and a backward pass of its own over the whole text."""
    model.set_attn_implementation("eager")
    found = []
    for candidate in candidates:
        out = model(input_ids=ids, output_attentions=True, logits_to_keep=1)
        kept = [out.attentions[layer] for layer in LAYERS]
        gradients = torch.autograd.grad(-out.logits[0, -1].log_softmax(-1)[candidate], kept)
        rows = [saliency(a, g)[0, :, -1].mean(0) for a, g in zip(kept, gradients, strict=True)]
        found.append(score(row_normalised(torch.stack(rows).detach()), 0).item())
    return found


def peak() -> str:
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def main(folder: str, tokens: int, whole: bool) -> None:
    from pydoc_data.topics import topics

    torch.set_num_threads(1)
    loaded = load_model(folder, "causal")
    ids = torch.tensor([loaded.processor.tokeniser(topics["specialnames"])["input_ids"][:tokens]])
    reader, start = OneRow(loaded.model, loaded.model), time.process_time()
    token = reader.start({"input_ids": ids})
    read = time.process_time()
    seen = reader.step(token)
    candidates = seen.log_probabilities.topk(CANDIDATES).indices
    scores = score(row_normalised(seen.rows(candidates, LAYERS)), 0)
    end = time.process_time()
    print(f"{ids.shape[1]} tokens: prompt {read - start:.2f} s, one token and K gradients {end - read:.3f} s; {peak()}")
    if whole:
        start = time.process_time()
        again = whole_passes(loaded.model, ids, candidates.tolist())
        took, apart = time.process_time() - start, (scores - torch.tensor(again)).abs().max()
        print(f"K whole passes {took:.2f} s, scores differ by {apart:.1e}; {peak()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "whole" in sys.argv[3:])
