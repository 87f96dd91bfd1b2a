"""`attn probe text`: how far the attention of text classifiers can be believed.

Paper: arXiv 2009.12064. Specification: methods/attention-at.md, section 3.6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...batch.task import Task
from ...device import pick_device
from ...errors import InputError
from ...fit.frame import MODEL
from ...io.texts import SUFFIXES, Columns, LabelledText, labelled_texts, parted
from ...models.files import sha256
from ...models.loaded import Loaded, Processor
from ...nets.attentive.file import TextClassifier, read_classifier
from ...nets.attentive.network import AttentiveLSTM
from ...nets.attentive.texts import EncodedTexts
from ...options import OptionError, values
from ...progress import Bars, Watcher
from ...report.model import Report
from ...report.sections import Section, Table, Trust, TrustLine, Words
from ..frame import Finding, look_at_files, look_at_one, scenes_figure, settings_of
from .adversarial import OtherAttention, other_attention
from .generated import drawn_texts
from .measure import ATTACKS, DIRECTIONS, Judgement, divergence_of_attention, judge
from .options import GENERATED, TextOptions

WORD = "text"
AT_ONCE = 64
"""Texts of a batch."""
SHOWN = ("accuracy", "f1", "macro_f1", "pearson", "kendall", "permuted", "peak")
"""Metrics of the table; F1 is of two classes, its mean over classes of more."""
NEAR = 5.0
"""Norm of the perturbation whose accuracy stands in the table: the one that the recipe trains with."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A model of the run: what the user called it, the classifier, and what it does with the texts,
    and other attention that keeps its answers."""

    name: str
    classifier: TextClassifier
    judged: Judgement
    other: OtherAttention


def run(options: TextOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None) -> Report:
    """Look at every file of texts.

    Raises
    ------
    UsageError
        If there is nothing to read, or a model is none of `attn train attention-at`, or models know different words.
    """
    start = time.perf_counter()
    own = classifier_of(options.model, options.device)
    settings = settings_of(options)
    for name in options.compare:
        if classifier_of(name, options.device).vocabulary != own.vocabulary:
            raise OptionError(
                f"{{compare}}: {name} knows other words or labels than {options.model}, so that their attention cannot "
                "be compared. Name models of one run."
            )
    settings["compare"] = [sha256(file_of(name)) for name in options.compare]
    loaded = Loaded(own.network, Processor(), "attn", sha256(file_of(options.model)))
    if options.inputs.inputs == (GENERATED,):
        return look_at_drawn(options, loaded, settings, watcher or Bars(), arguments or values(options), start)
    return look_at_files(
        WORD, look, options, loaded, model=options.model, since=start, watcher=watcher, arguments=arguments,
        settings=settings, suffixes=SUFFIXES,
    )  # fmt: skip


def file_of(name: str) -> Path:
    """The model's file, of a folder the one that the recipe writes."""
    path = Path(name)
    return path / MODEL if path.is_dir() else path


@lru_cache(maxsize=8)
def classifier_of(name: str, device: str) -> TextClassifier:
    """A model; read once per process. Raises ``UsageError`` where it is none."""
    classifier = read_classifier(file_of(name))
    classifier.network.to(pick_device(device))
    return classifier


def look(task: Task, step: Callable[[int, int], None], options: TextOptions) -> Finding:
    """One file of texts."""
    pair = classifier_of(options.model, options.device).vocabulary.pair
    columns = Columns(options.text_column, options.label_column, options.query_column, pair)
    rows, warnings = labelled_texts(task.source, columns), list[str]()
    if options.part == "test":
        rows, warnings = parted(task.source, rows)
        rows = [row for row in rows if row.split == "test"]
    return finding(options, rows, task.name, warnings, step)


def look_at_drawn(
    options: TextOptions, loaded: Loaded, settings: Mapping[str, Any], watcher: Watcher, arguments: Mapping[str, Any],
    start: float,
) -> Report:  # fmt: skip
    """Texts that are drawn: the first of the test of a run of the recipe on drawn texts."""
    path = scenes_figure(options.inputs.output, WORD, GENERATED)
    pair = classifier_of(options.model, options.device).vocabulary.pair
    rows = [row for row in drawn_texts(options.drawn, pair=pair) if row.split == "test"]
    found = finding(options, rows, GENERATED, [], lambda done, total: watcher.step(GENERATED, done, total))
    return look_at_one(
        WORD, GENERATED, path, found, options, loaded, since=start, arguments=arguments, settings=settings
    )  # fmt: skip


def finding(
    options: TextOptions, rows: Sequence[LabelledText], name: str, warnings: Sequence[str],
    step: Callable[[int, int], None],
) -> Finding:  # fmt: skip
    """What all models, and an untrained one, do with the texts.

    Raises
    ------
    InputError
        If none of them can be read.
    """
    names = [options.model, *options.compare]
    own = classifier_of(options.model, options.device)
    texts = own.vocabulary.encode(rows)
    told = [*warnings, *(f"{count} of {len(rows)} texts were left out: {why}" for why, count in texts.left.items())]
    if not len(texts):
        why = "; ".join(told) or "there are none"
        raise InputError(name, f"no text of it can be read by {options.model} ({why})", "Name texts like its own")
    shown = []
    for number, one in enumerate(names):
        classifier = classifier_of(one, options.device)

        def tell(done: int, total: int, before: int = number) -> None:
            step(before * total + done, (len(names) + 1) * total)

        elsewhere = other_attention(classifier.network, texts, options.tolerance, options.seed)
        shown.append(Shown(one, classifier, judged(classifier.network, texts, options.seed, tell), elsewhere))
    fresh = untrained_like(own.network)
    untrained = judged(
        fresh, texts, options.seed,
        lambda done, total: step(len(names) * total + done, (len(names) + 1) * total),
    )  # fmt: skip
    if len(set(texts.labels.tolist())) < 2:
        told.append(f"all texts have the label {own.vocabulary.labels[int(texts.labels[0])]!r}: AUC says nothing")
    first = shown[0].judged
    metrics = {
        "texts": float(len(texts)),
        **first.metrics(),
        "adversarial_jsd": float(shown[0].other.divergence.mean()),
    }
    for other in shown[1:]:
        metrics[f"jsd {other.name}"] = float(divergence_of_attention(first.attention, other.judged.attention).mean())
    facts = {
        "models": names, "methods": [one.classifier.method for one in shown], "part": options.part,
        "tolerance": options.tolerance,
        "labels": list(own.vocabulary.labels),
    }  # fmt: skip
    sections = (
        *tables(shown, untrained, other_attention(fresh, texts, options.tolerance, options.seed), texts),
        believed(first, untrained),
        *in_words(shown, texts, options.show),
    )
    title = f"{name}: {len(texts)} texts, attention of {', '.join(names)}"[:160]
    return Finding(title, arrays_of(shown), metrics, facts, sections, tuple(told))


def judged(network: AttentiveLSTM, texts: EncodedTexts, seed: int, step: Callable[[int, int], None]) -> Judgement:
    """``judge`` on the network's device."""
    device = next(network.parameters()).device
    batches = [(rows, batch.to(device)) for rows, batch in texts.batches(AT_ONCE)]
    return judge(network, batches, seed=seed, step=step)


def untrained_like(network: AttentiveLSTM) -> AttentiveLSTM:
    """A network of the same sizes with start values, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = AttentiveLSTM(network.shape)
    if network.shape.normalised:
        fresh.counts.copy_(network.counts)
    return fresh.to(next(network.parameters()).device).eval()


def arrays_of(shown: Sequence[Shown]) -> dict[str, NDArray[Any]]:
    """What the figure and others read; the first axis counts the models."""
    arrays: dict[str, NDArray[Any]] = {
        name: np.stack([getattr(one.judged, name) for one in shown])
        for name in ("attention", "importance", "pearson", "kendall", "permuted")
    }
    arrays["adversarial"] = np.stack([one.other.attention for one in shown])
    arrays["adversarial_jsd"] = np.stack([one.other.divergence for one in shown])
    arrays["attacked"] = np.array([[one.judged.curve(way, "accuracy") for way in DIRECTIONS] for one in shown])
    arrays["norms"] = np.array(ATTACKS)
    return arrays


def tables(
    shown: Sequence[Shown], untrained: Judgement, other: OtherAttention, texts: EncodedTexts
) -> tuple[Section, ...]:  # fmt: skip
    """A row for every model, and for the untrained one; a row for every text."""
    near = ATTACKS.index(NEAR)
    own = shown[0].judged
    rows: list[dict[str, Any]] = []
    for name, training, found, elsewhere in [
        *((one.name, one.classifier.method, one.judged, one.other) for one in shown),
        ("untrained", None, untrained, other),
    ]:  # fmt: skip
        metrics = found.metrics()
        rows.append(
            {"model": name, "training": training}
            | {key: metrics[key] for key in SHOWN if key in metrics}
            | {f"{way} {NEAR:g}": found.curve(way, "accuracy")[near] for way in DIRECTIONS}
            | {
                "adversarial_jsd": float(elsewhere.divergence.mean()),
                "jsd": float(divergence_of_attention(own.attention, found.attention).mean()),
                "same_answer": float(
                    (own.answers.probabilities.argmax(1) == found.answers.probabilities.argmax(1)).mean()
                ),
            }
        )
    each = [
        {
            "place": text.place, "label": text.label, "words": len(texts.ids[row]),
            "answer": texts.vocabulary.labels[int(own.answers.probabilities.argmax(1)[row])],
            "pearson": _known(own.pearson[row]), "kendall": _known(own.kendall[row]),
            "permuted": float(own.permuted[row]),
            "adversarial_jsd": float(shown[0].other.divergence[row]),
        }
        for row, text in enumerate(texts.texts)
    ]  # fmt: skip
    return (
        Table("models", rows, title="Models, and an untrained one of the same size"),
        Table("texts", each, title="Text by text", printed=False),
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def believed(own: Judgement, untrained: Judgement) -> Trust:
    """Whether attention does more than that of a network that has learnt nothing."""
    lines = []
    for check, name, meaning in [
        (
            "gradients",
            "kendall",
            "Attention points to the words on which the answer hangs more than an untrained one's.",
        ),
        ("shuffled", "permuted", "The answer moves more than an untrained one's when attention is shuffled."),
    ]:
        ours, theirs = (x[np.isfinite(x)] for x in (getattr(own, name), getattr(untrained, name)))
        value, chance = (float(x.mean()) if len(x) else float("nan") for x in (ours, theirs))
        spread = 2 * float(np.sqrt(ours.var() / max(len(ours), 1) + theirs.var() / max(len(theirs), 1)))
        lines.append(TrustLine(check, value, chance, bool(value > chance + spread), meaning))
    return Trust("believed", lines, title="can this attention be believed?")


def in_words(shown: Sequence[Shown], texts: EncodedTexts, count: int) -> list[Words]:
    """The first texts word by word: attention of each model, and of the first other
    attention that keeps its answer, and gradients; the largest is 1."""
    found = []
    for row in range(min(count, len(texts))):
        words = texts.words(row)
        lines = [(f"attention of {one.name}", one.judged.attention[row]) for one in shown]
        lines.append((f"other attention of {shown[0].name}, same answer", shown[0].other.attention[row]))
        lines.append((f"gradients of {shown[0].name}", shown[0].judged.importance[row]))
        answer = texts.vocabulary.labels[int(shown[0].judged.answers.probabilities.argmax(1)[row])]
        for number, (what, weights) in enumerate(lines):
            weights = weights[: len(words)]
            scaled = weights / weights.max() if weights.max() > 0 else weights
            title = f"{texts.texts[row].place}: {what} (label {texts.texts[row].label}, answer {answer})"
            found.append(
                Words(
                    f"text_{row + 1}_{number}", list(zip(words, scaled.tolist(), strict=True)), title=title, detail=True
                )
            )
    return found
