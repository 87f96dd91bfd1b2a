"""What a report says of one picture: numbers, answers, and what each layer saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..compare import mean_table
from ..models.embedded import EMBEDDED
from ..models.loaded import Loaded
from ..report.model import Item
from ..report.sections import Facts, Row, Section, Table
from .asked import Pruned, Question
from .measure.cost import cost_of
from .measure.fidelity import divergence, same_answer, same_top
from .measure.nearness import oracle_agreement
from .options import PruneOptions


def metrics_of(question: Question, done: Pruned) -> dict[str, float]:
    """The plain numbers of one method on one picture."""
    times = {}
    if done.times is not None:
        whole, fewer = done.times.before, done.times.after
        times = {
            "prefill_seconds_before": whole.prefill, "prefill_seconds_after": fewer.prefill,
            "decode_seconds_before": whole.decode, "decode_seconds_after": fewer.decode,
            "scoring_seconds": fewer.scoring,
        }  # fmt: skip
    cost, before, after = cost_of(question.site, done.prefill), question.plain, done.answer
    agreement = oracle_agreement(question.attention, done.prefill)
    return {
        "tokens_before": done.prefill.before[0], "tokens_after": int((done.owner >= 0).sum()),
        "mean_retention": cost.retention, "multiply_adds_before": cost.multiply_adds_before,
        "multiply_adds_after": cost.multiply_adds_after, "flops_ratio": cost.flops_ratio,
        "kv_bytes_before": cost.kv_bytes_before, "kv_bytes_after": cost.kv_bytes_after,
        "logit_kl": divergence(before.logits, after.logits),
        "top1_agreement": float(same_top(before.logits, after.logits)),
        "answers_equal": float(same_answer(before.text, done.text)),
        "attention_mass": question.attention.mass_kept(done.prefill), **done.near,
        **{name: value for name, value in agreement.items() if not math.isnan(value)}, **_exit_metrics(done), **times,
    }  # fmt: skip


def _exit_metrics(done: Pruned) -> dict[str, float]:
    """Of early exit: how safe the guide's answer looks, and whether the large model had to be asked."""
    if done.offer is None:
        return {}
    return {"decision": done.offer.decision, "large_calls": float(not done.offer.taken)}


def sections_of(question: Question, done: Pruned) -> list[Section]:
    """Answers, and a row for each decoder layer."""
    prefill = done.prefill
    length = prefill.length
    layers = [
        {
            "layer": number, "visual_before": prefill.before[0], "visual_after": visual,
            "tokens_before": length, "tokens_after": tokens,
        }
        for number, ((visual,), (tokens,)) in enumerate(zip(prefill.visual, prefill.tokens, strict=True))
    ]  # fmt: skip
    return [
        Answers("answers", answers_of(question, done), printed=False),
        Table("layers", layers, title="tokens that each layer sees", printed=False),
    ]


def answers_of(question: Question, done: Pruned) -> Row:
    """Before and after; of early exit the answers of both models and whose was taken, too."""
    said = {"answer_before": question.plain.text, "answer_after": done.text}
    if done.offer is None:
        return said
    by = "guide" if done.offer.taken else "large model"
    return {**said, "answered_by": by, "answer_guide": done.offer.text, "answer_large": done.answer.text}


def facts_of_model(question: Question, done: Pruned, options: PruneOptions) -> dict[str, Any]:
    """What was looked at, with what: single values that are no measurement."""
    exits = {} if done.offer is None else {"early_exit": done.offer.threshold}
    positions = {"positions": options.positions}
    return {**about_model(question.loaded, options), **positions, **exits, **answers_of(question, done)}


def about_model(loaded: Loaded, options: PruneOptions) -> dict[str, Any]:
    """Model, method and question."""
    return {
        "model": options.choice.model, "model_kind": model_kind(loaded, options.choice.model),
        "family": loaded.family, "method": options.method, "prompt": options.prompt,
    }  # fmt: skip


def model_kind(loaded: Loaded, name: str) -> str:
    """What a measurement with this model can say (methods/prune-evaluation.md, section 1).

    Returns
    -------
    str
        The name of an embedded model, of which it is known: ``"shapes"`` was trained on drawn scenes. ``"random"``: no
        normalisation has a weight but its start value, so that nothing was ever trained. Else ``"unknown"``: what it
        was trained on, its folder does not say.
    """
    if name in EMBEDDED:
        return name
    weights = loaded.model.named_parameters()
    norms = [weight for key, weight in weights if weight.ndim == 1 and "norm" in key and key.endswith("weight")]
    untouched = bool(norms) and all(bool((weight == 1).all()) for weight in norms)
    return "random" if untouched else "unknown"


def overview(items: Sequence[Item]) -> list[Row]:
    """What a terminal shows of every picture: answers and the main numbers."""
    rows: list[Row] = []
    for item in items:
        said = next((section.values for section in item.sections if isinstance(section, Answers)), {})
        said = {name: text for name, text in said.items() if name not in _OF_BOTH}
        shown = {name: item.metrics.get(name) for name in SHOWN}
        rows.append({"input": item.input, "status": item.status, **said, **shown, "seconds": item.seconds})
    return rows


def offered(items: Sequence[Item]) -> bool:
    """Whether a smaller model's answers could be taken."""
    return any("large_calls" in item.metrics for item in items)


@dataclass(frozen=True, slots=True)
class Answers(Facts):
    """What was said before and after."""

    @property
    def kind(self) -> str:
        return "facts"


SHOWN = (
    "tokens_before", "tokens_after", "mean_retention", "flops_ratio", "prefill_seconds_before", "prefill_seconds_after",
    "logit_kl", "top1_agreement", "large_calls", "class_token_cosine", "pixels_kept",
)  # fmt: skip
"""Metrics that a terminal shows."""
_OF_BOTH = ("answer_guide", "answer_large")
"""Of early exit: what it does not show, as one of them is the answer after."""
COMPARED = (
    "method", "files", "answer_after", "tokens_after", "mean_retention", "flops_ratio", "prefill_seconds_after",
    "logit_kl", "top1_agreement", "attention_mass", "large_calls", "class_token_cosine",
)  # fmt: skip
"""What a terminal shows of each method of a comparison."""


def comparison_of(items: Sequence[Item]) -> tuple[Table, list[str]]:
    """The methods side by side, and a warning for each that could not be compared."""
    table = mean_table(items)
    short = [
        {name: row[name] for name in COMPARED if name in row and (name != "files" or len(items) > 1)}
        for row in table.rows()
        if "note" not in row
    ]
    notes = [f"warning: {row['method']}: {row['note']}" for row in table.rows() if "note" in row]
    return replace(table, short=short), notes
