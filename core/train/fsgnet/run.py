"""`attn train fsgnet`: from a folder of photos and labels to a model file with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...filters import NEEDS_IMAGES
from ...fit.frame import run_of
from ...fit.loop import Plan
from ...fit.processes import ALONE, Processes
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...segment.fsgnet.checkpoint import FSGNetCheckpoint, read_checkpoint, write_checkpoint
from ...segment.fsgnet.trunks import NAMES
from ...segment.prepare import Preparation
from ...segment.settle import HeldOut, settled
from .augment import AUGMENTATIONS
from .data import Pair, find_all_pairs, left_out
from .example import Example, drawn, drawn_examples, load_example, read_pair
from .options import HOLD_OUT, SYNTHETIC, FSGNetOptions, complete, folders
from .recipe import CropBatches, FSGNetRecipe
from .synthetic import DIAMETER, PHOTOS

LEAST_DIAMETER, MOST_DIAMETER = 64, 4096
"""Of a field of view, px: smaller ones show no vessel, larger ones no more of them."""


def train_fsgnet(
    options: FSGNetOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a vessel segmentation network.

    Parameters
    ----------
    options : FSGNetOptions
    watcher : Watcher, optional
        Told about progress; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: metrics of the best evaluation, files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, data or folder cannot be used.
    """
    options = complete(options)
    assert options.steps is not None
    assert options.warmup is not None
    assert options.crop is not None
    with run_of("fsgnet", options, watcher=watcher, arguments=arguments, names=("loss", "f1")) as run:
        check_processes(options, run.processes)
        pairs = [] if options.data == SYNTHETIC else find_all_pairs(folders(options.data), options.split)
        count, named = PHOTOS if options.data == SYNTHETIC else len(pairs), sum(pair.held_out for pair in pairs)
        if named and options.hold_out is not None:
            raise OptionError(f"{{hold_out}}: {{split}} names the {named} photos that are held out. Leave it out.")
        hold_out = named or options.hold_out or HOLD_OUT
        if hold_out >= count:
            raise OptionError(f"{{hold_out}}: {hold_out} of {count} photos leaves none to train on, or to choose by.")
        preparation = _preparation(options)
        if options.data == SYNTHETIC:
            examples = drawn_examples(PHOTOS, options.compute.seed, preparation)
        else:
            examples = [load_example(pair, preparation) for pair in pairs]
        if named:
            held_out = [example for example, pair in zip(examples, pairs, strict=True) if pair.held_out]
            training = [example for example, pair in zip(examples, pairs, strict=True) if not pair.held_out]
        else:
            held_out, training = split(examples, hold_out)
        batches = CropBatches(
            training, preparation, AUGMENTATIONS[options.augment], options.crop, options.batch, options.compute.seed,
            run.device, run.processes,
        )  # fmt: skip
        net, notes = start_weights(options, batches)
        plan = Plan(
            steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, cycles=options.cycles, evaluate_every=options.evaluate_every,
        )  # fmt: skip
        several = len({pair.group for pair in pairs}) > 1
        photos, held = (
            [f"{e.group}/{e.name}" if several else e.name for e in part] for part in (training, held_out)
        )  # fmt: skip
        recipe = FSGNetRecipe(net.to(run.device), batches, held_out)
        outcome = run.fit(recipe, plan, identity={"photos": photos, "held out": held})
        if outcome.best:
            sets = [path.name for path in folders(options.data)]
            facts = run.facts(
                options=run.shown(replace(options, data=",".join(sets))), data=sets, photos=len(photos), held_out=held,
                best=outcome.best, seconds=round(outcome.seconds), notes=notes,
            )  # fmt: skip
            checkpoint = FSGNetCheckpoint(
                NAMES[options.trunk], options.architecture(),
                replace(preparation, fine_diameter=options.fine_diameter), outcome.best["threshold"],
                net.state_dict(), facts,
            )  # fmt: skip
            checkpoint = settled(checkpoint, _held_out(options, pairs, examples, held_out, preparation), run.device)
            run.save(lambda path: write_checkpoint(checkpoint, path), lambda size: card(checkpoint, size))
        notices = ("For research, not for diagnosis.", *left_out(pairs), *(n for e in examples for n in e.notes))
        return run.report(outcome, data=options.data, details={"initialised": notes}, notices=notices)


def check_processes(options: FSGNetOptions, processes: Processes) -> None:
    """Refuse what couples the crops of a batch in another way than batch norm and Dice do. Raises ``OptionError``."""
    if processes.count == 1:
        return
    for field, why in (("drop_block", "draws its blocks"), ("batch_coupled", "sums its attention")):
        if getattr(options, field):
            raise OptionError(f"{{{field}}} {why} over the whole batch: leave it out, or run one process.")
    if options.batch % processes.count:
        raise OptionError(f"{{batch}}: {options.batch} crops cannot be divided evenly by {processes.count} processes.")


def split(examples: Sequence[Example], hold_out: int) -> tuple[list[Example], list[Example]]:
    """Held-out and training photos: every n-th is held out, so that both halves see all of an ordered data set."""
    stride = len(examples) / hold_out
    chosen = {min(len(examples) - 1, int((i + 1) * stride) - 1) for i in range(hold_out)}
    held = [e for i, e in enumerate(examples) if i in chosen]
    return held, [e for i, e in enumerate(examples) if i not in chosen]


def _preparation(options: FSGNetOptions) -> Preparation:
    """How photos are shown in training. Raises ``OptionError``."""
    preparation = Preparation(normalise=options.normalise)  # type: ignore[arg-type]
    usual = DIAMETER if options.data == SYNTHETIC else preparation.fov_diameter
    trained = usual if options.diameter is None else options.diameter
    sides = (("diameter", trained, LEAST_DIAMETER), ("fine_diameter", options.fine_diameter, trained))
    for field, value, at_least in sides:
        if value is not None and not at_least <= value <= MOST_DIAMETER:
            raise OptionError(f"{{{field}}}: {value:g} px is not from {at_least:g} to {MOST_DIAMETER}.")
    preparation = replace(preparation, fov_diameter=trained)
    return preparation


def _held_out(
    options: FSGNetOptions, pairs: Sequence[Pair], examples: Sequence[Example], held_out: Sequence[Example],
    preparation: Preparation,
) -> list[HeldOut]:  # fmt: skip
    """The held-out photos as they are, for ``settled``."""
    numbers = [number for number, example in enumerate(examples) if any(example is held for held in held_out)]
    if options.data == SYNTHETIC:
        photos = drawn(PHOTOS, options.compute.seed, preparation)
        return [photos[number] for number in numbers]
    return [read_pair(pairs[number])[0] for number in numbers]


def start_weights(options: FSGNetOptions, batches: CropBatches) -> tuple[torch.nn.Module, list[str]]:
    """The network before its first step, and what its initialiser reports."""
    if options.weights is not None:
        start = read_checkpoint(options.weights)
        if start.architecture != options.architecture():
            raise OptionError(
                f"{{weights}}: {options.weights} holds {start.architecture}, not {options.architecture()}."
            )
        return start.build(), [f"started from {options.weights.name}"]
    torch.manual_seed(options.compute.seed)
    net = options.architecture().build()
    if options.init == "torch-default":
        return net, []
    from ...filters.initialise import initialise

    whole = replace(batches, processes=ALONE)
    images = whole(0)[0].cpu().contiguous() if options.init in NEEDS_IMAGES else None
    generator = torch.Generator().manual_seed(options.compute.seed)
    return net, initialise(net, options.init, generator=generator, images=images)


def card(checkpoint: FSGNetCheckpoint, size: int) -> str:
    """The model card, Markdown."""
    facts = checkpoint.training
    best = facts["best"]
    lines = [
        f"# {checkpoint.name}", "",
        "Retinal vessel segmentation of fundus photographs. For research, not for diagnosis.", "",
        f"- Architecture: {checkpoint.architecture}",
        f"- Preparation: {checkpoint.preparation}",
        f"- Trained on {facts['photos']} photos of {', '.join(facts['data'])}; held out for selection and threshold: "
        f"{', '.join(facts['held_out'])}. The terms of that data set apply to what is made from it.",
        f"- Options: {facts['options']}",
        f"- Best evaluation (step {best['step']}): " + ", ".join(
            f"{name} {best[name]:.4f}" for name in ("f1", "auc", "sensitivity", "specificity") if name in best
        ),
        f"- Threshold {checkpoint.threshold:.4f}, probability sigmoid({checkpoint.calibration.slope:.3f} x logit "
        f"{checkpoint.calibration.offset:+.3f}): chosen on the held-out photos as `attn segment` shows them.",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s; {size} bytes, float16",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
