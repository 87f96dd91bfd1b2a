"""`attn train fewshot-detect`: the source detector, every comparison, the table, and what is exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ...fit.frame import RecipeRun, run_of
from ...fit.loop import METRICS, Outcome, Plan
from ...fit.state import BEST, CHECKPOINT, load_best
from ...io.atomic import write_text
from ...progress import Watcher
from ...report.model import Report, plain
from ...report.sections import Picture, Section
from ..shapes_vlm.data import prepared
from .data import CLASSES, DetectionSet, judged_set, support_set
from .detector import ShapesDetector
from .export import card, write_detector
from .figure import draw_masks
from .options import PLAIN, FewShotDetectOptions
from .recipe import AdaptRecipe, SourceRecipe, judged_metrics, refinement_of, support_of, text_features
from .score import check_scorer
from .table import MEASURED, summary_rows, verdicts

SOURCE, ARMS, PROTOTYPES, MASKS = "source", "arms", "prototypes.npz", "masks.png"
MASKED = 4
"""Test pictures of the figure."""


def train_fewshot_detect(
    options: FewShotDetectOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Move a detector to another domain, with and without refinement.

    Parameters
    ----------
    options : FewShotDetectOptions
    watcher : Watcher, optional
        Told step and steps of all parts; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: metrics of the exported detector, the table, files, warnings.

    Raises
    ------
    UsageError
        If pycocotools is missing, or the folder cannot be used.
    """
    check_scorer()
    with run_of("fewshot-detect", options, watcher=watcher, arguments=arguments, names=("loss", "ap50")) as run:
        run.alone("its batches are drawn whole")
        asked = list(product(options.shots, range(options.repeats), options.modules))
        total = options.source_steps + len(asked) * options.steps

        def tell(done: int) -> Any:
            return lambda step, _, metrics: run.progress(done + step, total, metrics)

        detector = new_detector(PLAIN, options, run)
        plan = Plan(
            steps=options.source_steps, warmup=min(20, options.source_steps - 1), learning_rate=options.source_rate,
            evaluate_every=max(1, options.source_steps // 3), average=0.0,
        )  # fmt: skip
        first = run.fit(
            SourceRecipe(detector, options.compute.seed, options.batch), plan, identity={"stage": SOURCE},
            folder=run.output / SOURCE, progress=tell(0),
        )  # fmt: skip
        if first.interrupted:
            return run.report(replace(first, best={}), data="drawn shapes")
        judged = judged_set(options.judged, options.compute.seed, shifted=True)
        inputs = detector.prepare(judged.pictures)
        known = judged_set(options.judged, options.compute.seed, shifted=False)
        at_home = judged_metrics(detector, known, detector.prepare(known.pictures))
        moved = judged_metrics(detector, judged, inputs)
        if options.training.restart:
            shutil.rmtree(run.output / ARMS, ignore_errors=True)
            (run.output / METRICS).unlink(missing_ok=True)
        state, texts = detector.state_dict(), text_features(options.refinement.texts)
        rows = done_rows(run.output / METRICS)
        interrupted, seconds, warnings = False, first.seconds, [f"source: {text}" for text in first.warnings]
        for number, (shots, seed, arm) in enumerate(asked):
            place = run.output / ARMS / f"{shots}-shot-{seed}-{arm}"
            if any((row["shots"], row["seed"], row["modules"]) == (shots, seed, arm) for row in rows) and (
                (place / BEST).exists() or seed or (arm, shots) != options.exported
            ):
                continue
            outcome, notes = adapted(
                run, options, state, (shots, seed, arm), judged, inputs, texts,
                tell(options.source_steps + number * options.steps),
            )  # fmt: skip
            if outcome.interrupted:
                interrupted = True
                break
            seconds += outcome.seconds
            warnings += [f"{shots} shots, set {seed}: {note}" for note in notes]
            found = {name: value for name, value in outcome.best.items() if name not in ("step", "seconds")}
            found["distance_change"] = 100 * (found["distance"] / moved["distance"] - 1)
            rows = [row for row in rows if (row["shots"], row["seed"], row["modules"]) != (shots, seed, arm)]
            rows.append({"shots": shots, "seed": seed, "modules": arm, **found})
            write_text(run.output / METRICS, "".join(json.dumps(plain(row)) + "\n" for row in rows))
            (place / CHECKPOINT).unlink(missing_ok=True)
            if seed or (arm, shots) != options.exported:
                shutil.rmtree(place, ignore_errors=True)
        whole = Outcome({}, first.history, seconds, tuple(dict.fromkeys(warnings)), interrupted)
        if interrupted:
            return run.report(whole, data="drawn shapes")
        rows = [row for row in rows if (row["shots"], row["seed"], row["modules"]) in asked]
        return finished(run, options, state, rows, {"source": at_home, "target": moved}, whole, judged, inputs)


def new_detector(arm: str, options: FewShotDetectOptions, run: RecipeRun) -> ShapesDetector:
    """An untrained detector with the refinement of an arm; the same numbers for every arm."""
    torch.manual_seed(options.compute.seed)
    return ShapesDetector(len(CLASSES), refinement_of(arm, options.refinement)).to(run.device)


def adapted(
    run: RecipeRun, options: FewShotDetectOptions, state: Mapping[str, Any], which: tuple[int, int, str],
    judged: DetectionSet, inputs: torch.Tensor, texts: torch.Tensor, progress: Any,
) -> tuple[Outcome, tuple[str, ...]]:  # fmt: skip
    """One comparison: the source detector on one support set, judged when its steps are over."""
    shots, seed, arm = which
    detector = new_detector(arm, options, run)
    detector.load_state_dict(state, strict=False)
    drawn = support_set(shots, seed)
    support = support_of(detector, prepared(drawn.pictures).to(run.device), drawn, seed)
    if arm != PLAIN:
        detector.refinement.load(support.prototypes)  # type: ignore[operator]
    recipe = AdaptRecipe(
        detector, support, judged, inputs, texts.to(run.device) if arm.endswith("tsa") else None, options.refinement,
        seed, max(1, options.batch // 2),
    )  # fmt: skip
    plan = Plan(
        steps=options.steps, warmup=min(5, options.steps - 1), learning_rate=options.learning_rate,
        evaluate_every=options.steps, average=0.0,
    )  # fmt: skip
    folder = run.output / ARMS / f"{shots}-shot-{seed}-{arm}"
    identity = {"stage": "target", "shots": shots, "set": seed, "modules": arm}
    outcome = run.fit(recipe, plan, identity=identity, folder=folder, progress=progress)
    return outcome, support.prototypes.notes


def done_rows(path: Path) -> list[dict[str, Any]]:
    """Comparisons that an earlier call finished."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finished(
    run: RecipeRun, options: FewShotDetectOptions, state: Mapping[str, Any], rows: list[dict[str, Any]],
    source: Mapping[str, Mapping[str, float]], outcome: Outcome, judged: DetectionSet, inputs: torch.Tensor,
) -> Report:  # fmt: skip
    """The table, what it says, the exported detector with its prototypes, and the figure."""
    arm, shots = options.exported
    table = summary_rows(options, rows, source)
    said = verdicts(options, rows)
    detector = new_detector(arm, options, run)
    detector.load_state_dict(state, strict=False)
    drawn = support_set(shots, 0)
    support = support_of(detector, prepared(drawn.pictures).to(run.device), drawn, 0)
    if arm != PLAIN:
        detector.refinement.load(support.prototypes)  # type: ignore[operator]
    recipe = AdaptRecipe(
        detector, support, judged, inputs, text_features(options.refinement.texts) if arm.endswith("tsa") else None,
        options.refinement, 0, 1,
    )  # fmt: skip
    load_best(run.output / ARMS / f"{shots}-shot-0-{arm}" / BEST, recipe.model)
    detector.eval()
    facts = run.facts(modules=arm, shots=shots, rows=table, said=said, seconds=round(outcome.seconds))
    run.save(lambda path: write_detector(detector, arm, options.refinement, path), lambda size: card(facts, size))
    support.prototypes.save(run.output / PROTOTYPES)
    files, sections = {"prototypes": run.output / PROTOTYPES}, list[Section]()
    if arm != PLAIN:
        draw_masks(detector, judged.pictures[:MASKED], inputs[:MASKED], judged.boxes[:MASKED], run.output / MASKS)
        files["masks"] = run.output / MASKS
        sections.append(Picture("masks", str(run.output / MASKS)))
    mean = {(row["shots"], row["modules"]): row for row in table}
    metrics = {name: mean[shots, arm][name] for name in MEASURED}
    if PLAIN in options.modules:
        metrics["ap50_plain"] = mean[shots, PLAIN]["ap50"]
    return run.report(
        replace(outcome, best=metrics), data="drawn shapes", files=files, sections=tuple(sections), comparison=table,
        details={"source": source, "pictures": options.judged}, notices=tuple(said),
    )  # fmt: skip
