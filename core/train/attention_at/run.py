"""`attn train attention-at`: text classifiers with attention, trained in several ways, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...fit.frame import MODEL, RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...nets.attentive.file import read_classifier, write_classifier
from ...nets.attentive.network import AttentiveLSTM, AttentiveShape
from ...probe.text.measure import ATTACKS, DIRECTIONS, Judgement, judge
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Curve, Row
from ...report.write import markdown_table
from .data import TextParts, prepare, word_counts
from .options import AttentionAtOptions
from .recipe import AT_ONCE, ON_WORDS, AttentiveRecipe, Regime, batches_of, optimizer

SHOWN = ("accuracy", "f1", "auc", "macro_f1", "pearson", "kendall", "permuted", "peak")
"""Metrics of the table; a network's own report has more."""


def train_attention_at(
    options: AttentionAtOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a text classifier with perturbed attention, beside the same one trained in other ways.

    Parameters
    ----------
    options : AttentionAtOptions
    watcher : Watcher, optional
        Told step and steps of all networks; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: what the run's own network came to on the test, with its weights as they are written; the
    table of all of them; files, warnings.

    Raises
    ------
    UsageError
        If folder or texts cannot be used.
    """
    with run_of("attention-at", options, watcher=watcher, arguments=arguments) as run:
        run.alone("its batches are read whole")
        texts = prepare(options.texts)
        steps = -(-batches_of(len(texts.train), options.batch) // options.training.accumulate)
        plan = Plan(
            steps=options.epochs * steps, warmup=0, learning_rate=options.learning_rate, stable=1.0, average=0.0,
            clip=0.0, evaluate_every=steps, weight_decay=options.weight_decay,
        )  # fmt: skip
        trained: dict[str, AttentiveLSTM] = {}
        outcomes: dict[str, Outcome] = {}
        of = variants(options)
        for number, variant in enumerate(of):
            torch.manual_seed(options.compute.seed)
            network = AttentiveLSTM(shape(options, texts, normalised=variant.method in ON_WORDS))
            if network.shape.normalised:
                network.counts.copy_(torch.from_numpy(word_counts(texts.train)))
            network.to(run.device)

            def tell(step: int, steps: int, metrics: Mapping[str, float], done: int = number) -> None:
                run.progress(done * steps + step, len(of) * steps, metrics)

            outcomes[variant.name] = run.fit(
                AttentiveRecipe(network, variant, texts.train, texts.held_out, options, run.device), plan,
                identity=identity(options, texts, variant), folder=folder(run, variant, of), progress=tell,
                optimizer=optimizer(network, options.weight_decay),
            )  # fmt: skip
            if outcomes[variant.name].interrupted:
                return run.report(joined(outcomes, {}), data=texts.name, notices=texts.notices)
            trained[variant.name] = network.eval()
        return finished(run, options, texts, of, trained, outcomes)


def variants(options: AttentionAtOptions) -> list[Regime]:
    """The run's own network first, then what is trained beside it."""
    beside = [Regime(name, name, options.epsilon) for name in options.beside if name != options.method]
    sweep = [
        Regime(f"epsilon-{epsilon:g}", options.method, epsilon) for epsilon in options.sweep
        if epsilon != options.epsilon
    ]  # fmt: skip
    return [Regime(options.method, options.method, options.epsilon), *beside, *sweep]


def shape(options: AttentionAtOptions, texts: TextParts, *, normalised: bool) -> AttentiveShape:
    """Sizes of a network."""
    labels = len(texts.vocabulary.labels)
    return AttentiveShape(
        len(texts.vocabulary.words), options.embedding, options.hidden, 1 if labels == 2 else labels, options.scoring,
        options.texts.pair, normalised,
    )  # fmt: skip


def identity(options: AttentionAtOptions, texts: TextParts, variant: Regime) -> dict[str, Any]:
    """What makes a network's run that run, beside the options: not what else is trained in the same run."""
    return {
        "texts": texts.fingerprint, "beside": None, "sweep": None, "method": variant.method, "epsilon": variant.epsilon,
        "iat_mode": options.reading if variant.method == "iat" else None, "released": None,
    }  # fmt: skip


def folder(run: RecipeRun, variant: Regime, of: Sequence[Regime]) -> Path:
    """The run's own folder, or one in it."""
    return run.output if variant is of[0] else run.output / variant.name


def finished(
    run: RecipeRun, options: AttentionAtOptions, texts: TextParts, of: Sequence[Regime],
    trained: Mapping[str, AttentiveLSTM], outcomes: Mapping[str, Outcome],
) -> Report:  # fmt: skip
    """The networks written, read again, and tested; the report."""
    batches = texts.test.batches(AT_ONCE)
    judged: dict[str, Judgement] = {}
    rows: list[Row] = []
    for variant in of:
        network, method = trained[variant.name], variant.method
        place = folder(run, variant, of) / MODEL
        facts = run.facts(epsilon=variant.epsilon, data=texts.name, **texts.counts())
        write_classifier(place, network, texts.vocabulary, method, facts)
        written = read_classifier(place).network.to(run.device)
        judged[variant.name] = judge(
            written, [(part, batch.to(run.device)) for part, batch in batches], seed=options.compute.seed
        )
        rows.append(row(variant, judged[variant.name]))
    own = of[0].name
    metrics = judged[own].metrics()
    outcome = joined(outcomes, {})
    outcome = Outcome(outcomes[own].best | metrics, outcomes[own].history, outcome.seconds, outcome.warnings)
    facts = run.facts(
        metrics=metrics, epsilon=of[0].epsilon, data=texts.name, seconds=round(outcome.seconds), **texts.counts()
    )
    run.save(
        lambda path: write_classifier(path, trained[own], texts.vocabulary, of[0].method, facts),
        lambda size: card(facts, rows, size, texts),
    )
    name = "accuracy"
    curves = tuple(
        Curve(
            f"attacked_{direction}", {one: found.curve(direction, name) for one, found in judged.items()}, xs=ATTACKS,
            xlabel="norm", title=f"Accuracy by the norm of {words} perturbation of the scores", detail=True,
        )
        for direction, words in zip(DIRECTIONS, ("the worst", "a random"), strict=True)
    )  # fmt: skip
    return run.report(
        outcome, data=texts.name, details=texts.counts(), comparison=rows, sections=curves, notices=texts.notices
    )


def row(variant: Regime, judged: Judgement) -> Row:
    """A network's line of the table; ``attacked`` is its accuracy under the worst perturbation of about that norm."""
    metrics = {name: value for name, value in judged.metrics().items() if name in SHOWN}
    return {
        "training": variant.name, "epsilon": None if variant.method == "vanilla" else variant.epsilon, **metrics,
        "attacked": judged.curve("adversarial", "accuracy")[attack_near(variant.epsilon)],
        "randomly": judged.curve("random", "accuracy")[attack_near(variant.epsilon)],
    }  # fmt: skip


def attack_near(epsilon: float) -> int:
    """Which of ``ATTACKS`` is nearest to a norm."""
    return min(range(len(ATTACKS)), key=lambda number: abs(ATTACKS[number] - epsilon))


def card(facts: Mapping[str, Any], rows: Sequence[Row], size: int, texts: TextParts) -> str:
    """The model card, Markdown."""
    labels = texts.vocabulary.labels
    named = ", ".join(labels[:12]) + (" …" if len(labels) > 12 else "")
    return "\n".join([
        "# A text classifier with attention", "",
        "A BiLSTM with attention whose scores were perturbed in training (arXiv 2009.12064), made to be looked into.",
        "",
        f"- {size} bytes, float16; labels: {named}; {len(texts.vocabulary.words)} words; `attn probe text` reads it.",
        f"- Data: {facts['data']}: {facts['train_texts']} texts to train on, {facts['val_texts']} to choose the epoch, "
        f"{facts['test_texts']} for the table.",
        f"- Options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s for {len(rows)} networks.", "",
        "On the test, of the weights as they are written. pearson, kendall: of attention with gradients, mean over",
        "texts; permuted: median total variation of the answer when attention is permuted; peak: the largest",
        "weight; attacked, randomly: accuracy when scores are moved in the worst or a random direction, by the nearest",
        f"to epsilon of {', '.join(f'{norm:g}' for norm in ATTACKS)}.", "",
        *markdown_table(rows, digits=4),
    ])  # fmt: skip
