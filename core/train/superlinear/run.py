"""`attn train superlinear`: four networks that learn to look up, and their table."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from ...errors import UsageError
from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...models.files import fingerprint
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Curve, Row, Table
from ...report.write import markdown_table
from .data import TEST
from .network import LookupNetwork, LookupShape, Routing, read_lookup, write_lookup
from .options import TIMES, SuperlinearOptions
from .recipe import LookupRecipe, by_gap, judge, optimizer

ROUTINGS: tuple[Routing, ...] = typing.get_args(Routing)
"""The first is the run's own."""
TESTED = 4
"""Questions of the final test, at each length, over those of an evaluation."""


def train_superlinear(
    options: SuperlinearOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train superlinear attention on key-value lookup, beside frozen routing, a window and dense attention.

    Parameters
    ----------
    options : SuperlinearOptions
    watcher : Watcher, optional
        Told step and steps of all four networks; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: accuracy of each network at each length of the test, files, warnings.

    Raises
    ------
    UsageError
        If folder or weights cannot be used, or torch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise UsageError(f"superlinear needs Muon, which torch has from 2.9; this is {torch.__version__}.")
    with run_of("superlinear", options, watcher=watcher, arguments=arguments, names=("loss", "accuracy")) as run:
        run.alone("its batches are drawn whole")
        shape = LookupShape(options.width, options.num_spans, options.sw_index, options.memory)
        state = start(options, shape)
        identity = {"weights": fingerprint([options.weights]) if options.weights else None}
        plan = Plan(
            steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate, floor=0.02, stable=0.5,
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every, average=0.98,
        )  # fmt: skip
        networks: dict[Routing, LookupNetwork] = {}
        outcomes: dict[str, Outcome] = {}
        for number, routing in enumerate(ROUTINGS):
            network = LookupNetwork(shape, routing).to(run.device)
            network.load_state_dict(state)

            def tell(step: int, _: int, metrics: Mapping[str, float], done: int = number * options.steps) -> None:
                run.progress(done + step, len(ROUTINGS) * options.steps, metrics)

            outcomes[routing] = run.fit(
                LookupRecipe(network, options, run.device), plan, identity=identity | {"routing": routing},
                folder=run.output / ("" if number == 0 else routing), progress=tell,
                optimizer=optimizer(network, options.weight_decay),
            )  # fmt: skip
            if outcomes[routing].interrupted:
                return run.report(joined(outcomes, {}), data="drawn lookups")
            networks[routing] = network.eval()
        return finished(run, options, networks, outcomes)


def start(options: SuperlinearOptions, shape: LookupShape) -> dict[str, torch.Tensor]:
    """Weights that all networks start from. Raises ``UsageError`` where the file to start from is of another shape."""
    torch.manual_seed(options.compute.seed)
    fresh = LookupNetwork(shape)
    if options.weights is None:
        return fresh.state_dict()
    read = read_lookup(options.weights)
    for name, theirs in asdict(read.shape).items():
        if theirs != getattr(shape, name):
            raise OptionError(
                f"{{weights}}: {options.weights} was trained with {{{name}}} {theirs}, not {getattr(shape, name)}. "
                "Give the same."
            )
    return read.state_dict()


def finished(
    run: RecipeRun, options: SuperlinearOptions, networks: Mapping[Routing, LookupNetwork],
    outcomes: Mapping[str, Outcome],
) -> Report:  # fmt: skip
    """The networks tested at every length; the run's own written; and the report."""
    lengths = [times * options.length for times in TIMES]
    shape = networks[ROUTINGS[0]].shape
    rows: list[Row] = []
    gaps: Sequence[Row] = ()  # of superlinear attention, at the greatest length
    for routing, network in networks.items():
        for length in lengths:
            judged = judge(network, TEST, TESTED * options.judged, length, options.every, run.device)
            if routing == ROUTINGS[0]:
                gaps = by_gap(judged, shape, length)
            keys = {"dense": (length + 1) / 2}.get(routing, shape.keys(length))
            rows.append({"attention": routing, "length": length, **judged.metrics(), "keys": keys})
    lines: dict[str, list[float]] = {
        routing: [row["accuracy"] for row in rows if row["attention"] == routing] for routing in networks
    }
    metrics = {
        f"{routing}_{times}x": accuracy
        for routing, line in lines.items()
        for times, accuracy in zip(TIMES, line, strict=True)
    }
    outcome = joined(outcomes, {"accuracy": outcomes[ROUTINGS[0]].best["accuracy"]})
    facts = run.facts(metrics=metrics, questions=TESTED * options.judged, seconds=round(outcome.seconds))
    network = networks[ROUTINGS[0]]
    run.save(lambda path: write_lookup(path, network, facts), lambda size: card(facts, rows, size))
    curve = Curve("accuracy_by_length", lines, xs=lengths, xlabel="tokens", detail=True)
    title = f"superlinear at {lengths[-1]} tokens, by how far before the nearest anchor the answer stands"
    far = Table("by_gap", gaps, title=title)
    return run.report(outcome, data="drawn lookups", metrics=metrics, comparison=rows, sections=(curve, far))


def card(facts: Mapping[str, Any], rows: Sequence[Row], size: int) -> str:
    """The model card, Markdown."""
    names = {
        "attention": "attention", "length": "tokens", "accuracy": "accuracy", "reached_by_head": "reached by a head",
        "reached": "by any", "keys": "keys",
    }  # fmt: skip
    shown = [{title: row[name] for name, title in names.items()} for row in rows]
    return "\n".join([
        "# Lookup with superlinear attention", "",
        "A network of one attention layer that names the values of keys, made to measure whether routing is learnt.",
        "",
        f"- {size} bytes, float16; `attn train superlinear --weights FILE` goes on from it.",
        "- Trained on sequences that the recipe draws; no data of others. MIT licence, as attn.",
        f"- Options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s for four networks.", "",
        f"At least {facts['questions']} questions of each length; reached: the answer is among the keys attended to;",
        "keys: of a query and head, search included, mean. Measured before the weights were rounded to float16.", "",
        *markdown_table(shown, digits=4),
    ])  # fmt: skip
