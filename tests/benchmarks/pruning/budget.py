"""Methods at equal budgets: in front of the language model, and in front of one of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attn.core.errors import UsageError
from attn.core.prune.engine.moment import TokenChoice
from attn.core.prune.methods.base import Keep, Pruner
from attn.core.prune.methods.fastv import FastV
from attn.core.prune.methods.random import Random
from attn.core.prune.named import pruner_of

from .look import Eye, Look, Wanted
from .questions import TOKENS, Asked, asked
from .tally import Kept, Tally, of_scores

LAYER = 2
KEEPS = (0.75, 0.5, 0.35, 0.25, 0.1)
MAIN = 0.25
"""The share at which all questions are asked; at the others an eighth of them."""
DEEP_LAYERS, DEEP_KEEPS, DEEP_TASKS = (1, 2), (0.25, 0.1, 0.05), ("exists", "where", "relation")
"""Where and how far it is pruned inside the language model to see when its text has read the picture."""
SEEDS = (0, 1, 2)
RANDOMS = tuple(f"random {seed}" for seed in SEEDS)
ONCE: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "uniform": ("uniform", {}), "visionzip": ("visionzip", {}), "class token": ("visionzip", {"contextual": 0.0}),
    "divprune": ("divprune", {}), "prumerge": ("prumerge", {}),
}  # fmt: skip
"""What chooses once in front of the language model: name -> method and settings."""
STAGED = ("pyramiddrop", "sparsevlm", "vflowopt")


def before(share: float) -> Wanted:
    """Methods that choose in front of the language model."""
    keep = Keep(share=share)
    wanted: dict[str, tuple[Pruner, Keep]] = {
        name: (Random(seed=seed), keep) for name, seed in zip(RANDOMS, SEEDS, strict=True)
    }
    for name, (method, settings) in ONCE.items():
        wanted[name] = pruner_of(method, settings), keep
    return wanted


def inside(share: float, layer: int = LAYER) -> Wanted:
    """Methods that choose in front of a layer: random ones and FastV, whose row is that of the layer before."""
    keep = Keep(share=share)
    wanted: dict[str, tuple[Pruner, Keep]] = {
        name: (Random(layer=layer, seed=seed), keep) for name, seed in zip(RANDOMS, SEEDS, strict=True)
    }
    return {**wanted, "fastv": (FastV(layer=layer), keep)}


def in_front(eye: Eye, kept: Kept, task: str, count: int, seed: int, share: float) -> Tally:
    """Accuracy and evidence of what chooses in front of the language model, and of the oracle there."""

    def make() -> Tally:
        questions, tally = asked(task, count, seed), Tally(count)
        for batch in questions.batches():
            seen = eye.look(batch, before(share))
            tally.add("full", questions, batch.index, seen.logits, None, 1.0, seen.logits)
            choices = {name: chosen for name, (_, chosen) in seen.choices.items()}
            choices["oracle"] = of_scores(sum(seen.text[1:], seen.text[0]), Keep(share=share).of(TOKENS))
            for name, chosen in choices.items():
                logits = eye.again(seen, chosen)
                tally.choose(name, questions, batch.index, logits, chosen, counted(eye, chosen, 0), seen.logits)
            _staged(eye, tally, questions, seen, share)
        return tally

    about = {"count": count, "seed": seed, "share": share}
    return kept.tally(f"front-{task}-{share:g}-{seed}-{count}", about, make)


def at_layer(eye: Eye, kept: Kept, task: str, count: int, seed: int, share: float, layer: int = LAYER) -> Tally:
    """The same in front of a layer, by the row of each layer, by all layers (oracle), and by the class token."""

    def make() -> Tally:
        questions, tally = asked(task, count, seed), Tally(count)
        number = Keep(share=share).of(TOKENS)
        token = {"class token": (pruner_of("visionzip", {"contextual": 0.0}), Keep(share=share))}
        for batch in questions.batches():
            seen = eye.look(batch, {**inside(share, layer), **token})
            tally.add("full", questions, batch.index, seen.logits, None, 1.0, seen.logits)
            choices = {name: chosen for name, (_, chosen) in seen.choices.items()}
            for row, scores in enumerate(seen.rows):
                if row != layer - 1:  # that one is FastV
                    choices[f"row of layer {row}"] = of_scores(scores, number)
            choices["oracle"] = of_scores(sum(seen.text[1:], seen.text[0]), number)
            for name, chosen in choices.items():
                logits = eye.again(seen, chosen, layer)
                tally.choose(name, questions, batch.index, logits, chosen, counted(eye, chosen, layer), seen.logits)
            _staged(eye, tally, questions, seen, (layer + (eye.site.depth - layer) * share) / eye.site.depth)
        return tally

    about = {"count": count, "seed": seed, "share": share}
    return kept.tally(f"layer{layer}-{task}-{share:g}-{seed}-{count}", about, make)


def _staged(eye: Eye, tally: Tally, questions: Asked, seen: Look, retention: float) -> None:
    """Methods with several stages, at an equal mean share over all layers, where they can have it."""
    for name in STAGED:
        pruner = pruner_of(name, {})
        try:
            stages = pruner.stages(eye.site, pruner.keep_for(eye.site, retention))
        except UsageError:
            continue  # its first stage is too late for such a share: the table has no such line
        logits, chosen, share = eye.prune(seen, stages)
        tally.add(name, questions, seen.batch.index, logits, chosen, share, seen.logits)


def counted(eye: Eye, choices: Sequence[TokenChoice], layer: int) -> float:
    """Mean share of tokens over all layers (methods/prune-evaluation.md, section 6)."""
    left = sum(len(choice.keep) for choice in choices) / len(choices) / TOKENS
    return (layer + (eye.site.depth - layer) * left) / eye.site.depth
