"""Tokens that keep their positions against tokens that are numbered anew."""

from __future__ import annotations

from collections.abc import Iterator

from attn.core.prune.engine.moment import TokenChoice
from attn.core.prune.methods.base import Keep
from attn.core.prune.methods.fastv import FastV
from attn.core.prune.named import pruner_of

from .budget import LAYER, counted
from .look import Eye, Look
from .questions import TOKENS, asked
from .tally import Kept, Tally, of_scores

TASKS = ("where", "relation", "colour")


def numbered(eye: Eye, kept: Kept, task: str, count: int, seed: int, share: float) -> Tally:
    """FastV at layer 2, the class token and the oracle in front of the language model, and the oracle at layer 2."""
    keep = Keep(share=share)
    wanted = {
        "fastv, layer 2": (FastV(layer=LAYER), keep),
        "class token, before": (pruner_of("visionzip", {"contextual": 0.0}), keep),
    }

    def choices(seen: Look) -> Iterator[tuple[str, int, list[TokenChoice]]]:
        for name, (layer, chosen) in seen.choices.items():
            yield name, layer, chosen
        oracle = of_scores(sum(seen.text[1:], seen.text[0]), keep.of(TOKENS))
        yield "oracle, before", 0, oracle
        yield "oracle, layer 2", LAYER, oracle

    def make() -> Tally:
        questions, tally = asked(task, count, seed), Tally(count)
        for batch in questions.batches():
            seen = eye.look(batch, wanted)
            for name, layer, chosen in choices(seen):
                for positions in ("keep", "compact"):
                    logits = eye.again(seen, chosen, layer, positions)
                    tally.choose(
                        f"{name}/{positions}", questions, batch.index, logits, chosen, counted(eye, chosen, layer),
                        seen.logits,
                    )  # fmt: skip
        return tally

    return kept.tally(f"positions-{task}-{seed}-{count}", {"count": count, "seed": seed, "share": share}, make)
