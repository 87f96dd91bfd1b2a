"""`attn train ga-dms`: from captions and images of people to a model file with its card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome
from ...io.atomic import write_text
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...retrieve.gadms.checkpoint import GADMSCheckpoint, read_checkpoint, write_checkpoint
from ...retrieve.gadms.clip import GADMS
from ...retrieve.gadms.gass import GASSOptions
from ...retrieve.gadms.masking import FIRST_SCORE, UNIFORM_SCORE, mask_caption
from ...retrieve.gadms.official import load_official, read_state
from ...retrieve.gadms.tokenizer import Tokenizer, WordTokenizer, encode, read_clip_tokenizer
from .compare import ComparedModel, models_of, summary_rows, verdicts
from .data import Data, drawn, read_data
from .options import DRAWN, SMALL_SIZE, GADMSOptions, complete
from .recipe import METRICS, CaptionBatches, EpochPlan, GADMSRecipe, Objective, Trainee, score_captions

WORD_SCORES, COMPARED = "scores.jsonl", "compared.jsonl"


@dataclass(frozen=True, slots=True)
class PreparedRecipe:
    """A recipe ready for ``loop.fit``, and what belongs to it."""

    recipe: GADMSRecipe
    plan: EpochPlan
    gass: GASSOptions
    tokenizer: Tokenizer
    notes: tuple[str, ...]


def train_ga_dms(
    options: GADMSOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a dual encoder that finds people by sentences.

    Parameters
    ----------
    options : GADMSOptions
    watcher : Watcher, optional
        Told about progress; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: metrics of the best evaluation, files, warnings. For drawn people also what scores say of
    wrong and right words. Where models are compared, a table of their last evaluations, and what it says.

    Raises
    ------
    UsageError, InputError
        If options, data or folder cannot be used.
    """
    options = complete(options, drawn=options.data in DRAWN)
    with run_of("ga-dms", options, watcher=watcher, arguments=arguments, names=("loss", "r1")) as run:
        run.alone("its losses compare all pairs of a step")
        models, data, seed = models_of(options), None, None
        found, outcomes, saved = list[dict[str, Any]](), list[Outcome](), Saved({}, (), run.output / WORD_SCORES)
        for number, model in enumerate(models):
            net, tokenizer, notes = start_model(model.options)
            if data is None or model.seed != seed:
                data, seed = data_of(model.options, net), model.seed
            ready = prepare_run(data, model.options, run.device, net, tokenizer, notes)

            def tell(step: int, steps: int, metrics: Mapping[str, float], before: int = number) -> None:
                run.progress(before * steps + step, len(models) * steps, metrics)

            outcome = run.fit(
                ready.recipe, ready.plan, identity={"data": data.name, "captions": len(data.training.captions)},
                folder=run.output / model.folder, options=model.options, progress=tell,
            )  # fmt: skip
            outcomes.append(outcome)
            if number == 0:
                saved = save(run, data, ready, outcome)
            if outcome.interrupted:
                break
            if options.compare:
                found.append(measured(model, outcome, ready, data, run.device))
        own, whole = outcomes[0], not outcomes[-1].interrupted
        warnings = [
            f"{model.folder or model.arm}: {text}" if options.compare else text
            for model, outcome in zip(models, outcomes, strict=False)
            for text in outcome.warnings
        ]
        if options.compare and whole:
            write_text(run.output / COMPARED, "".join(json.dumps(row) + "\n" for row in found))
        return run.report(
            replace(own, warnings=tuple(warnings), interrupted=not whole), data=options.data,
            details={"notes": list(saved.notes)}, metrics=saved.metrics,
            files={"scores": saved.scores, "compared": run.output / COMPARED},
            comparison=summary_rows(found) if whole else (), notices=tuple(verdicts(found)) if whole else (),
        )  # fmt: skip


def data_of(options: GADMSOptions, net: GADMS | None) -> Data:
    """What a model is trained and judged on."""
    size, seed = net.shape.image_size if net else options.image_size or SMALL_SIZE, options.compute.seed
    if options.data in DRAWN:
        return drawn(options.data, seed, size)
    return read_data(Path(options.data), size, options.hold_out, seed, options.images)


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written of a model: means of word scores, what was noted of it, the place of its words' scores."""

    metrics: Mapping[str, float]
    notes: tuple[str, ...]
    scores: Path


def save(run: RecipeRun, data: Data, ready: PreparedRecipe, outcome: Outcome) -> Saved:
    """Write the run's own model with its card and, where they are wanted, the scores of all words."""
    net, place = ready.recipe.trainee.net.eval(), run.output / WORD_SCORES
    scores, metrics = None, dict[str, float]()
    if outcome.best and not outcome.interrupted and (run.options.save_scores or data.wrong):
        scores = score_captions(net, data.training, ready.recipe.batches.ids, ready.gass, run.device).numpy()
        metrics = word_means(scores, data)
    if outcome.best:
        facts = run.facts(
            data=data.name, captions=len(data.training.captions), images=len(data.training.images),
            held_out=len(data.held_out.captions), best=outcome.best, seconds=round(outcome.seconds),
            notes=list(ready.notes), **metrics,
        )  # fmt: skip
        checkpoint = GADMSCheckpoint("ga-dms", net.shape, ready.tokenizer, net.state_dict(), facts)
        run.save(lambda path: write_checkpoint(checkpoint, path), lambda size: card(checkpoint, size))
    if scores is not None and run.options.save_scores:
        write_text(place, score_lines(scores, data, ready.tokenizer))
    return Saved(metrics, ready.notes, place)


def measured(
    model: ComparedModel, outcome: Outcome, ready: PreparedRecipe, data: Data, device: torch.device
) -> dict[str, Any]:
    """A model's row of the comparison: its last evaluation, so that nothing was chosen by what is measured.

    Scores of drawn people's words are those of its best weights.
    """
    last = outcome.history[-1]
    row = {"arm": model.arm, "seed": model.seed, "steps": int(last["step"]), "seconds": outcome.seconds}
    row |= {name: last[name] for name in METRICS}
    if not data.wrong:
        return row
    net = ready.recipe.trainee.net.eval()
    scores = score_captions(net, data.training, ready.recipe.batches.ids, ready.gass, device)
    return row | word_means(scores.numpy(), data)


def start_model(options: GADMSOptions) -> tuple[GADMS | None, Tokenizer | None, tuple[str, ...]]:
    """Model and tokenizer of ``options.weights``; None where it starts from scratch.

    Raises
    ------
    OptionError
        If the file is of no CLIP, or there is no tokenizer for it.
    """
    path = options.weights
    tokenizer: Tokenizer | None = read_clip_tokenizer(options.tokenizer) if options.tokenizer else None
    if path is None:
        return None, tokenizer, ()
    if not path.exists():
        raise OptionError(f"{{weights}}: {path} does not exist.")
    note = f"started from {path.name}"
    if path.is_file() and path.suffix == ".safetensors" and tokenizer is None:
        start = read_checkpoint(path)
        if options.image_size not in (None, start.architecture.image_size):
            height, width = start.architecture.image_size
            raise OptionError(f"{{image_size}}: {path} is a model for {height}x{width}.")
        return start.build(), start.tokenizer, (note,)
    if tokenizer is None and path.is_dir():
        tokenizer = read_clip_tokenizer(path)
    if tokenizer is None:
        raise OptionError("{weights} needs {tokenizer}: a folder with CLIP's vocab.json and merges.txt.")
    try:
        net, fresh = load_official(read_state(path), image_size=options.image_size or (384, 128))
    except ValueError as error:
        raise OptionError(f"{{weights}}: {path}: {error}.") from None
    if net.shape.vocab_size != tokenizer.vocab_size:
        raise OptionError(f"{{tokenizer}}: {tokenizer.vocab_size} tokens, the weights are for {net.shape.vocab_size}.")
    return net, tokenizer, (note, *([f"fresh weights: {', '.join(fresh)}"] if fresh else []))


def prepare_run(
    data: Data, options: GADMSOptions, device: torch.device, net: GADMS | None = None,
    tokenizer: Tokenizer | None = None, notes: tuple[str, ...] = (),
) -> PreparedRecipe:  # fmt: skip
    """Model, batches and plan of a run; a model from scratch where none is given."""
    options = complete(options, drawn=data.name in DRAWN)
    assert options.losses is not None
    assert options.learning_rate is not None
    assert options.eps is not None
    assert options.tau is not None
    training = data.training
    tokenizer = tokenizer or WordTokenizer.of(training.captions)
    if net is None:
        torch.manual_seed(options.compute.seed)
        net = GADMS(replace(options.architecture(), vocab_size=tokenizer.vocab_size))
    length = net.shape.text_length
    tokens = encode(tokenizer, training.captions, length)
    if cut := int(tokens.truncated.sum()):
        notes = (*notes, f"{cut} of {len(tokens.ids)} captions are longer than {length} tokens: cut")
    held_out = torch.from_numpy(encode(tokenizer, data.held_out.captions, length).ids)
    pids = training.caption_ids if options.positives == "person" else np.arange(len(training.captions))
    classes = int(pids.max()) + 1 if "id" in options.losses else 0
    gass = options.gass(net.shape.text_layers)
    first = UNIFORM_SCORE if options.scores == "uniform" else FIRST_SCORE
    mask = partial(
        mask_caption, mask_id=net.shape.mask_id, masking=options.masking,  # type: ignore[arg-type]
        noise_share=options.noise_share, informative_share=options.informative_share,
    )  # fmt: skip
    batches = CaptionBatches(
        training, torch.from_numpy(tokens.ids), torch.from_numpy(pids), options.batch, options.compute.seed, mask,
        bool(options.augment), device,
    )  # fmt: skip
    objective = Objective(
        options.losses, options.beta, options.tau, options.noise, None if options.scores == "uniform" else gass,
        options.scores == "shuffled",
    )  # fmt: skip
    model = Trainee(net, len(tokens.ids), first_score=first, classes=classes).to(device)
    epoch = math.ceil(batches.epoch / options.training.accumulate)
    plan = EpochPlan(
        steps=options.epochs * epoch, warmup=options.warmup * epoch, epoch=epoch,
        learning_rate=options.learning_rate, weight_decay=options.weight_decay,
        evaluate_every=options.evaluate_every * epoch, seed=options.compute.seed, eps=options.eps,
    )  # fmt: skip
    recipe = GADMSRecipe(model, batches, data.held_out, held_out, objective)
    return PreparedRecipe(recipe, plan, gass, tokenizer, (*data.notes, *notes))


def word_means(scores: np.ndarray[Any, Any], data: Data) -> dict[str, float]:
    """What scores say of the words known to be wrong and right; nothing for real data.

    ``gass_wrong`` and ``gass_right`` are means; ``gass_below`` is how often a wrong word scores below a right one of
    its caption (equal ones count half, so that chance is 0.5).
    """
    wrong, right, below = list[float](), list[float](), list[float]()
    for row, bad, good in zip(scores, data.wrong, data.right, strict=False):
        low, high = ([float(row[1 + i]) for i in words if 1 + i < len(row)] for words in (bad, good))
        wrong += low
        right += high
        below += [float(a < b) + 0.5 * float(a == b) for a in low for b in high]
    means = {"gass_wrong": wrong, "gass_right": right, "gass_below": below}
    return {name: float(np.mean(values)) for name, values in means.items() if values}


def score_lines(scores: np.ndarray[Any, Any], data: Data, tokenizer: Tokenizer) -> str:
    """One JSON line per training caption: image, caption, tokens, scores. A low one: not seen in the image."""
    lines = []
    pairs = data.training
    for row, caption, image in zip(scores, pairs.captions, pairs.caption_image.tolist(), strict=True):
        words = [text for text, _ in tokenizer.pieces(caption)][: len(row) - 2]
        values = [round(float(score), 4) for score in row[1 : 1 + len(words)]]
        line = {"image": pairs.image_names[image], "caption": caption, "tokens": words, "scores": values}
        lines.append(json.dumps(line, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def card(checkpoint: GADMSCheckpoint, size: int) -> str:
    """The model card, Markdown."""
    facts, best = checkpoint.training, checkpoint.training["best"]
    lines = [
        f"# {checkpoint.name}", "",
        "Dual encoder that finds photos of people by sentences (GA-DMS, arXiv 2509.09118).", "",
        f"- Architecture: {checkpoint.architecture}",
        f"- Trained on {facts['captions']} captions of {facts['images']} images of `{facts['data']}`; "
        f"{facts['held_out']} captions of other people chose the weights. The terms of that data set apply to what is "
        "made from it; photos of people are personal data.",
        f"- Options: {facts['options']}",
        f"- Best evaluation (step {best['step']}): " + ", ".join(
            f"{name} {best[name]:.4f}" for name in ("r1", "r5", "r10", "map", "minp")
        ),
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s; {size} bytes, float16",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
