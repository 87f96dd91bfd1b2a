"""`attn train ga-dms`: from captions and images of people to a model file with its card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...fit.frame import run_of
from ...io.atomic import write_text
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...retrieve.gadms.checkpoint import GADMSCheckpoint, read_checkpoint, write_checkpoint
from ...retrieve.gadms.clip import GADMS
from ...retrieve.gadms.gass import GASSOptions
from ...retrieve.gadms.masking import FIRST_SCORE, UNIFORM_SCORE
from ...retrieve.gadms.official import load_official, read_state
from ...retrieve.gadms.tokenizer import Tokenizer, WordTokenizer, encode, read_clip_tokenizer
from .data import Data, read_data, synthetic
from .options import SMALL_SIZE, SYNTHETIC, GADMSOptions, complete
from .recipe import CaptionBatches, EpochPlan, GADMSRecipe, Objective, Trainee, score_captions

WORD_SCORES = "scores.jsonl"


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
    Report with one item: metrics of the best evaluation, files, warnings. For synthetic people also the mean scores of
    wrong and right words.

    Raises
    ------
    UsageError, InputError
        If options, data or folder cannot be used.
    """
    options = complete(options, drawn=options.data == SYNTHETIC)
    with run_of("ga-dms", options, watcher=watcher, arguments=arguments, names=("loss", "r1")) as run:
        run.alone("its losses compare all pairs of a step")
        net, tokenizer, notes = start_model(options)
        size = net.shape.image_size if net else options.image_size or SMALL_SIZE
        if options.data == SYNTHETIC:
            data = synthetic(options.compute.seed, size=size)
        else:
            data = read_data(Path(options.data), size, options.hold_out, options.compute.seed, options.images)
        ready = prepare_run(data, options, run.device, net, tokenizer, notes)
        identity = {"data": data.name, "captions": len(data.training.captions)}
        outcome = run.fit(ready.recipe, ready.plan, identity=identity)
        net = ready.recipe.trainee.net.eval()
        scores, metrics = None, dict[str, float]()
        if outcome.best and not outcome.interrupted and (options.save_scores or data.wrong):
            ids = ready.recipe.batches.ids
            scores = score_captions(net, data.training, ids, ready.gass, run.device).numpy()
            metrics = word_means(scores, data)
        if outcome.best:
            facts = run.facts(
                data=data.name, captions=len(data.training.captions), images=len(data.training.images),
                held_out=len(data.held_out.captions), best=outcome.best, seconds=round(outcome.seconds),
                notes=list(ready.notes), **metrics,
            )  # fmt: skip
            checkpoint = GADMSCheckpoint("ga-dms", net.shape, ready.tokenizer, net.state_dict(), facts)
            run.save(lambda path: write_checkpoint(checkpoint, path), lambda size: card(checkpoint, size))
        place = run.output / WORD_SCORES
        if scores is not None and options.save_scores:
            write_text(place, score_lines(scores, data, ready.tokenizer))
        return run.report(
            outcome, data=options.data, details={"notes": list(ready.notes)}, metrics=metrics, files={"scores": place}
        )


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
    options = complete(options, drawn=data.name == SYNTHETIC)
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
    first = FIRST_SCORE if options.scores == "gass" else UNIFORM_SCORE
    batches = CaptionBatches(
        training, torch.from_numpy(tokens.ids), torch.from_numpy(pids), options.batch, options.compute.seed,
        net.shape.mask_id, options.masking, bool(options.augment), device,  # type: ignore[arg-type]
    )  # fmt: skip
    objective = Objective(
        options.losses, options.beta, options.tau, options.noise, gass if options.scores == "gass" else None
    )
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
    """Mean score of the words known to be wrong, and of those known to be right; nothing for real data."""
    means = {}
    for name, places in (("gass_wrong", data.wrong), ("gass_right", data.right)):
        values = [row[1 + i] for row, words in zip(scores, places, strict=False) for i in words if 1 + i < len(row)]
        if values:
            means[name] = float(np.mean(values))
    return means


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
