"""`attn probe collapse`: length collapse of a text encoder on the user's texts, at several temperatures.

Paper: "Length-Induced Embedding Collapse in PLM-based Models", arXiv 2410.24200. Specification: methods/tempscale.md,
sections 3.2, 3.3 and 3.8.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...batch.run import run_batch
from ...batch.task import Task
from ...errors import InputError, UsageError
from ...io.atomic import place_fault, remove_stale
from ...io.walk import read_list
from ...options import LARGEST, OptionError, values
from ...progress import Bars, Watcher
from ...report.model import Item, Report, command_line_of
from ...report.sections import Curve, Picture, Section
from ...retrieve.data.gallery import read_gallery
from ...retrieve.encoders.load import load
from ...retrieve.encoders.text import TextEncoder
from ..frame import noted, request_of, result_of
from ..panel import FigureData, Origin, write_figure
from .measure import measure
from .options import CollapseOptions
from .passkey import EACH

WORD = "collapse"


def run(
    options: CollapseOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Measure the collection at every temperature, and set the temperatures side by side.

    Raises
    ------
    UsageError
        If there are too few texts, or the model cannot be loaded or is no text encoder.
    """
    start = time.perf_counter()
    given, arguments = options.texts, arguments or values(options)
    names = (
        tuple(line for name in given.inputs for line in (read_list(nul=given.nul) if name == "-" else (name,)))
        if "-" in given.inputs
        else given.inputs
    )
    here = replace(options, texts=replace(given, inputs=names))
    encoder = encoder_of(here.encoder)
    texts, failed, warnings = texts_of(names)
    if len(texts) > options.sample:
        rows = np.sort(np.random.default_rng(options.seed).permutation(len(texts))[: options.sample])
        warnings.append(f"{options.sample} of {len(texts)} texts were drawn (seed {options.seed})")
        texts = [texts[row] for row in rows.tolist()]
    lengths = usable(options.lengths, encoder, warnings)
    folder = Path(given.output or ".")
    if fault := place_fault(folder / f"{WORD}.png"):
        raise OptionError(f"{{output}} {folder}: {fault}.")
    remove_stale(folder)
    request = request_of(encoder.fingerprint.sha256, asked(options, lengths, texts))
    origin = Origin(
        command_line_of(arguments), options.encoder.model, encoder.fingerprint.sha256, seed=options.seed,
        request=request,
    )  # fmt: skip
    tasks = [
        Task(Path(names[0]), folder / f"{WORD}-T{tau:g}.png", f"temperature {tau:g}", payload=tau, turn=number)
        for number, tau in enumerate(options.temperatures)
    ]
    # a worker gets the texts, not their names: what lies there may change meanwhile
    work = partial(look, options=here, texts=texts, lengths=lengths, origin=origin)
    outcome = run_batch(work, tasks, options.placement, watcher or Bars())
    items = [noted(item, request) for item in outcome.items]
    files, sections = together(items, folder, origin, request)
    device = str(next(encoder.model.parameters()).device)
    report = outcome.report(
        "probe", arguments, device, start, items=[*items, *failed], sections=sections, notices=tuple(warnings),
        summary={"texts": len(texts)}, files=files,
    )  # fmt: skip
    return report


def look(
    task: Task, step: Callable[[int, int], None], options: CollapseOptions, texts: Sequence[str],
    lengths: Sequence[int], origin: Origin,
) -> Item:  # fmt: skip
    """Measure at one temperature, and write what was found."""
    assert task.output is not None
    found = measure(
        encoder_of(options.encoder).at(task.payload), texts, buckets=options.buckets, measured=options.measured,
        lengths=lengths, rounds=options.rounds, seed=options.seed, step=step,
    )  # fmt: skip
    facts = {"model": options.encoder.model, "texts": len(texts), "passkey_chance": 1 / EACH}
    data = FigureData(WORD, f"{options.encoder.model}, {len(texts)} texts, {task.name}", found.arrays(), facts, origin)
    files = write_figure(task.output, data, metrics=found.metrics, sections=found.sections())
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, metrics=found.metrics, files=files,
        details=facts, sections=found.sections(),
    )  # fmt: skip


def together(
    items: Sequence[Item], folder: Path, origin: Origin, request: str
) -> tuple[dict[str, str], tuple[Section, ...]]:
    """The figure of all temperatures whose results are of this request, and the curves of a report."""
    done = [data for item in items if (data := result_of(item, request)) is not None]
    if len(done) < 2:
        return {}, ()
    shared = {"bucket", "cut", "passkey_tokens"}
    first = done[0]
    arrays = {
        name: values if name in shared else np.concatenate([one.arrays[name] for one in done])
        for name, values in first.arrays.items()
    }
    title = f"{first.facts['model']}, {first.facts['texts']} texts"
    path = folder / f"{WORD}.png"
    files = write_figure(path, FigureData(WORD, title, arrays, first.facts, origin))
    tokens = [int(high) for _, high in arrays["bucket"]]
    curves = [curve("similarity", "Mean cosine of two texts, by length", arrays, "pair_similarity", tokens)]
    if len(arrays["passkey_tokens"]):
        keys = arrays["passkey_tokens"].tolist()
        curves.append(curve("passkey_all", "Pass key found among all lengths", arrays, "found_among_all", keys))
    return files, (Picture("figure", str(path), title="All temperatures"), *curves)


def curve(name: str, title: str, arrays: Mapping[str, Any], what: str, tokens: Sequence[int]) -> Curve:
    """One line a temperature."""
    lines = {f"T {tau:g}": row.tolist() for tau, row in zip(arrays["temperature"], arrays[what], strict=True)}
    return Curve(name, lines, xs=tokens, xlabel="tokens", title=title, printed=False)


def asked(options: CollapseOptions, lengths: Sequence[int], texts: Sequence[str]) -> dict[str, Any]:
    """What decides the numbers beside the weights and the temperature."""
    content = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "texts": content, "buckets": options.buckets, "measured": options.measured, "lengths": tuple(lengths),
        "rounds": options.rounds, "seed": options.seed, "max_tokens": options.encoder.max_tokens,
        "dtype": options.encoder.dtype,
    }  # fmt: skip


def usable(lengths: Sequence[int], encoder: TextEncoder, warnings: list[str]) -> tuple[int, ...]:
    """Lengths that the model reads; the others are warned of."""
    most = encoder.fingerprint.max_tokens or LARGEST
    if too_long := [n for n in lengths if n > most]:
        warnings.append(
            f"pass key test: lengths {', '.join(map(str, too_long))} are left out, the model reads {most} tokens "
            "(max_tokens may allow more)"
        )
    return tuple(n for n in lengths if n <= most)


@lru_cache(maxsize=1)
def encoder_of(options: Any) -> TextEncoder:
    """The text encoder at temperature 1; read once per process."""
    encoder = load(
        options.model, device=options.device, dtype=options.dtype, max_tokens=options.max_tokens,
        allow_download=options.allow_download,
    )  # fmt: skip
    texts = getattr(encoder, "text", encoder)
    if not isinstance(texts, TextEncoder):
        raise OptionError(f"{{model}}: {options.model} is no text encoder of transformers.")
    return texts


def texts_of(names: tuple[str, ...]) -> tuple[list[str], list[Item], list[str]]:
    """The texts of a collection, what of it cannot be read, and what the user should know."""
    gallery = read_gallery(names, {"text"}, nothing="no text can be read.")
    failed = [*gallery.failed]
    failed += [Item(one.name, None, "failed", 0.0, error=one.error) for one in gallery.arguments if one.error]
    texts: list[str] = []
    empty = 0
    for entry in (entry for argument in gallery.arguments for entry in argument.entries):
        try:
            text = entry.read_text()
        except InputError as error:
            failed.append(Item(entry.name, None, "failed", 0.0, error=error.reason))
            continue
        texts.append(text)
        empty += not text.strip()
    if len(texts) < 4:
        raise UsageError(f"length collapse needs 4 texts or more, got {len(texts)}.")
    warnings = [*gallery.warnings]
    if empty:
        warnings.append(f"{empty} of {len(texts)} texts are empty; they are measured as what an empty text is")
    return texts, failed, warnings
