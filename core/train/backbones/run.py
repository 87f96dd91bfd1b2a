"""`attn train biformer` and `attn train halonet`: a backbone and two plain ViTs on the same pictures, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...bench.timing import time_interleaved
from ...errors import InputError
from ...fit.chained import muon_and_adamw
from ...fit.frame import MODEL, RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...fit.repeated import means
from ...nets.vit import VisionTransformer
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Picture, Row
from ...report.write import markdown_table
from ..vit.data import ClassBatches, PictureSplits, normalised, read_pictures
from ..vit.options import DRAWN
from ..vit.plain import EVALUATED, MATRIX_FACTOR, PlainRecipe, accuracy, identity_of
from .looks import draw_attended
from .network import Backbone, BackboneShape, NetworkCost, counted, equal_vit, read_backbone, shape_of, write_backbone
from .options import BiFormerOptions, HaloNetOptions

Options = BiFormerOptions | HaloNetOptions
VITS = {"vit-parameters": "parameters", "vit-cost": "cost"}
"""Folders of the plain ViTs, and what they have equal."""
PICTURE = "attended.png"


def train_backbone(
    options: Options, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a backbone, and plain ViTs of as many parameters and of as many multiply-adds, on the same batches.

    Parameters
    ----------
    options : BiFormerOptions or HaloNetOptions
    watcher : Watcher, optional
        Told step and steps of all networks; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: metrics on the test pictures, a table of the three networks (mean and deviation over seeds),
    a picture of what is attended to, files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, pictures or folder cannot be used.
    """
    with run_of(options.kind, options, watcher=watcher, arguments=arguments, names=("loss", "accuracy")) as run:
        run.alone("batch norm sees one batch")
        pictures = read_pictures(
            options.pictures.data, options.pictures.image_size, options.compute.seed, label=options.pictures.label,
            leave_out=True,
        )  # fmt: skip
        notes = (*pictures.notes, *check_pictures(pictures, options))
        makers = networks(options, len(pictures.classes))
        seeds = [options.compute.seed + number for number in range(options.seeds)]
        outcomes: dict[str, Outcome] = {}
        trained: dict[tuple[str, int], nn.Module] = {}
        for seed in seeds:
            for name, make in makers.items():
                torch.manual_seed(seed)
                network = make().to(run.device)
                outcome = fitted(run, options, pictures, network, name, seed, len(outcomes))
                outcomes[f"{name} {seed}"] = outcome
                if outcome.interrupted:
                    return run.report(joined(outcomes, {}), data=options.pictures.data, notices=notes)
                trained[name, seed] = network.eval()
        return finished(run, options, pictures, notes, seeds, trained, outcomes)


def check_pictures(pictures: PictureSplits, options: Options) -> list[str]:
    """What to tell of the training pictures. Raises ``InputError`` where they are fewer than two for each class."""
    labels = pictures.parts["train"].labels
    if len(labels) < 2 * len(pictures.classes):
        raise InputError(
            Path(options.pictures.data),
            f"leaves {len(labels)} pictures of {len(pictures.classes)} classes to train on",
            "Give at least two for each class, and some more to judge by",
        )  # fmt: skip
    seen = set(labels.tolist())
    lacking = [name for number, name in enumerate(pictures.classes) if number not in seen]
    return [f"no training picture of {', '.join(lacking)}"] if lacking else []


def networks(options: Options, classes: int) -> dict[str, Callable[[], nn.Module]]:
    """What makes each network, by its name; the backbone is the first. Raises ``OptionError`` if a ViT has no equal."""
    shape = shape_of(options, classes)
    size = options.pictures.image_size
    with torch.random.fork_rng():
        wanted = counted(shape.build(), size)
    makers: dict[str, Callable[[], nn.Module]] = {options.kind: shape.build}
    for name, what in VITS.items():
        try:
            equal = equal_vit(getattr(wanted, what), what, size, options.patch, options.layers, options.heads, classes)
        except ValueError as error:
            raise OptionError(f"{{layers}}: {error}. Give fewer, or other sizes of {{patch}} or {{width}}.") from None
        makers[name] = lambda equal=equal: VisionTransformer(equal)  # type: ignore[misc]
    return makers


def folder(options: Options, name: str, seed: int) -> Path:
    """Of a network's run."""
    parts = [*([f"seed-{seed}"] if seed != options.compute.seed else []), *([name] if name in VITS else [])]
    return options.output.joinpath(*parts)


def fitted(
    run: RecipeRun, options: Options, pictures: PictureSplits, network: nn.Module, name: str, seed: int, done: int
) -> Outcome:
    """One network trained."""
    own = replace(options, compute=replace(options.compute, seed=seed))
    batches = ClassBatches(
        pictures.parts["train"], options.pictures.batch, seed, options.pictures.augmentation, run.device
    )
    recipe = PlainRecipe(network, batches, pictures.parts["val"], len(pictures.classes))
    rate = options.plain_rate if name in VITS else options.learning_rate
    plan = Plan(
        steps=options.steps, warmup=options.warmup, learning_rate=rate, weight_decay=options.weight_decay,
        average=0.98, evaluate_every=options.evaluate_every,
    )  # fmt: skip
    inside = "stages." if name == "biformer" else "blocks."
    matrices = None if name == "halonet" else muon_and_adamw(  # its matrices are convolutions
        network, lambda of: of.startswith(inside), factor=MATRIX_FACTOR, weight_decay=options.weight_decay,
        matrix_decay=options.weight_decay,
    )  # fmt: skip
    total = options.seeds * (1 + len(VITS)) * options.steps

    def tell(step: int, _: int, metrics: Mapping[str, float]) -> None:
        run.progress(done * options.steps + step, total, metrics)

    return run.fit(
        recipe, plan, identity=identity_of(pictures) | {"network": name}, folder=folder(options, name, seed),
        options=own, progress=tell, optimizer=matrices,
    )  # fmt: skip


def finished(
    run: RecipeRun, options: Options, pictures: PictureSplits, notes: Sequence[str], seeds: Sequence[int],
    trained: Mapping[tuple[str, int], nn.Module], outcomes: Mapping[str, Outcome],
) -> Report:  # fmt: skip
    """The backbone written, all judged on the test pictures and timed; the report."""
    test, size = pictures.parts["test"], options.pictures.image_size
    names = (options.kind, *VITS)
    first = {name: trained[name, seeds[0]] for name in names}
    sizes = {name: counted(network, size) for name, network in first.items()}
    seconds = forward_seconds(first, normalised(test.images[:EVALUATED], run.device))
    rows = [
        row_of(name, [accuracy(trained[name, seed], test, run.device) for seed in seeds], sizes[name], seconds,
               options.kind, min(EVALUATED, len(test)))
        for name in names
    ]  # fmt: skip
    metrics = {
        "parameters": float(sizes[options.kind].parameters),
        "mega_multiply_adds": sizes[options.kind].cost / 1e6,
    }
    for name, row in zip(names, rows, strict=True):
        end = "" if name == options.kind else f"_{name.replace('-', '_')}"
        metrics |= {f"{key.replace('accuracy', f'accuracy{end}', 1)}": row[key] for key in row if "accuracy" in key}
    metrics["time_ratio"] = seconds[options.kind] / seconds["vit-cost"]
    whole = joined(outcomes, {})
    facts = run.facts(
        data=DRAWN if options.pictures.data == DRAWN else Path(options.pictures.data).name,
        pictures={split: len(part) for split, part in pictures.parts.items()}, metrics=metrics,
        seconds=round(whole.seconds), notes=list(notes),
    )  # fmt: skip
    shape = shape_of(options, len(pictures.classes))

    def write(path: Path, seed: int, said: Mapping[str, Any]) -> None:
        write_backbone(path, Backbone(trained[options.kind, seed], shape, pictures.classes), said)  # type: ignore[arg-type]

    for seed in seeds[1:]:
        write(folder(options, options.kind, seed) / MODEL, seed, facts | {"seed": seed})
    run.save(lambda path: write(path, seeds[0], facts), lambda of: card(options, shape, facts, rows, of))
    read_backbone(options.output / MODEL)  # it can be read back, or the run fails here
    draw_attended(first[options.kind], test, options.output / PICTURE, run.device)
    own = outcomes[f"{options.kind} {seeds[0]}"]
    outcome = Outcome(own.best, own.history, whole.seconds, (*notes, *whole.warnings))
    return run.report(
        outcome, data=options.pictures.data, metrics=metrics, comparison=rows,
        files={"attended": options.output / PICTURE},
        sections=(Picture("attended_regions", str(options.output / PICTURE), title="what one place attends to"),),
    )  # fmt: skip


@torch.inference_mode()
def forward_seconds(networks: Mapping[str, nn.Module], images: Tensor) -> dict[str, float]:
    """Seconds of a forward pass over the pictures, all networks by turns; processor time on a CPU."""
    calls: dict[str, Callable[[], Any]] = {name: partial(network, images) for name, network in networks.items()}
    for call in calls.values():
        call()  # warms up
    timed = time_interleaved(calls, images.device)
    return {name: timing.seconds(images.device) for name, timing in timed.items()}


def row_of(
    name: str, found: Sequence[float], size: NetworkCost, seconds: Mapping[str, float], against: str, count: int
) -> dict[str, Any]:
    """A network in the table; ``time_ratio`` is its time over the backbone's."""
    return {
        "model": {"vit-parameters": "plain ViT, parameters", "vit-cost": "plain ViT, multiply-adds"}.get(name, name),
        **means([{"accuracy": value} for value in found], ["accuracy"]), "parameters": size.parameters,
        "mega_multiply_adds": size.cost / 1e6, "ms_per_image": 1e3 * seconds[name] / count,
        "time_ratio": seconds[name] / seconds[against],
    }  # fmt: skip


def card(options: Options, shape: BackboneShape, facts: Mapping[str, Any], rows: Sequence[Row], size: int) -> str:
    """The model card, Markdown."""
    counts = ", ".join(f"{n} {split}" for split, n in facts["pictures"].items())
    return "\n".join([
        f"# A small {options.kind}", "",
        "An image classifier, made to be compared with plain ViTs of equal size and of equal cost.", "",
        f"- Network: {shape}; {size} bytes, float32.",
        f"- Trained on `{facts['data']}`: pictures {counts}. The terms of that data set apply to what is made from it.",
        f"- Options: {facts['options']}",
        f"- Notes: {'; '.join(facts['notes']) or 'none'}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s of training.", "",
        "On the test pictures:", "",
        *markdown_table(rows, digits=4),
    ])  # fmt: skip
