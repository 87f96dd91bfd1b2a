"""`attn probe dilution`: where a causal language model's attention goes in long contexts.

Paper: FocuSFT, arXiv 2605.09932. Specification: methods/focusft.md, section 3.8.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...batch.task import Task
from ...errors import InputError
from ...io.records import whole_text
from ...models.chat import chat_tokens, check_template, read_conversations
from ...models.hf import positions
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.turns import added_mask, context_length, turns_seen, window_of
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Table
from ..frame import Finding, Step, look_at_files, settings_of
from .measure import Dilution, measure, pooled
from .options import SUFFIXES, DilutionOptions

WORD = "dilution"


@dataclass(frozen=True, slots=True)
class ReadText:
    """One sequence whose attention is measured.

    Parameters
    ----------
    tokens : Tensor of int64 [S]
    answer : Tensor of bool [S]
        Tokens of answers; none in a plain text, whose last token looks.
    cut : int
        Tokens that were left out at the beginning.
    """

    tokens: Tensor
    answer: Tensor
    cut: int


def run(
    options: DilutionOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at every text.

    Raises
    ------
    UsageError
        If there is nothing to read, or a model cannot be loaded, or is no causal language model.
    """
    start = time.perf_counter()
    asked = (options.device, options.allow_download)
    loaded = language_of(options.model, *asked)
    if options.mask == "turns" and window_of(loaded.model):
        raise OptionError(f"{{mask}}: {options.model} attends in sliding windows, which turns would undo. Use causal.")
    settings = settings_of(options)
    if options.compare is not None:
        settings["compare"] = language_of(options.compare, *asked).fingerprint
    return look_at_files(
        WORD, look, options, loaded, model=options.model, since=start, watcher=watcher, arguments=arguments,
        settings=settings, suffixes=SUFFIXES,
    )  # fmt: skip


@lru_cache(maxsize=2)
def language_of(name: str, device: str, allow_download: bool) -> Loaded:
    """The model; read once per process."""
    return load_model(name, "causal", device=device, allow_download=allow_download)


def look(task: Task, step: Step, options: DilutionOptions) -> Finding:
    """One text, or all conversations of a file: means over what they hold, each weighted by the tokens that look."""
    asked = (options.device, options.allow_download)
    given, warnings = sequences(task.source, language_of(options.model, *asked), options)
    names = {"": options.model} | ({"_before": options.compare} if options.compare else {})
    total = len(names) * len(given)
    found: dict[str, Dilution] = {}
    for turn, (end, name) in enumerate(names.items()):
        parts = []
        for number, one in enumerate(given):
            parts.append(of_sequence(language_of(name, *asked), one, options))
            step(turn * len(given) + number + 1, total)
        found[end] = pooled(parts)
    own = found[""]
    if options.compare and found["_before"].sink.shape != own.sink.shape:
        raise OptionError(f"{{compare}}: {options.compare} has other layers or heads than {options.model}.")
    tokens = sum(len(one.tokens) for one in given)
    metrics = {"tokens": float(tokens), "looking": float(own.rows)}
    arrays: dict[str, NDArray[np.float64]] = {}
    for end, part in found.items():
        metrics |= {f"{name}{end}": value for name, value in part.means().items()}
        arrays |= {f"{name}{end}": array for name, array in (part.maps() | {"depth": part.depth}).items()}
    facts = {
        "model": options.model, "compare": options.compare, "mask": options.mask, "sinks": options.sinks,
        "sequences": len(given),
    }  # fmt: skip
    title = f"{options.model}, {task.name}: {tokens} tokens, {own.rows} of them look"
    return Finding(title, arrays, metrics, facts, tables(found), tuple(warnings))


def tables(found: Mapping[str, Dilution]) -> tuple[Table, ...]:
    """Layer by layer, means over heads; and by depth, means over layers and heads."""
    own = found[""]
    layers = [
        {"layer": layer}
        | {f"{name}{end}": float(map_[layer].mean()) for end, one in found.items() for name, map_ in one.maps().items()}
        for layer in range(len(own.sink))
    ]
    width = 100 // own.depth.shape[-1]
    depth = [
        {"depth": f"{width * part} to {width * (part + 1)} %"}
        | {f"attention{end}": float(one.depth[..., part].mean()) for end, one in found.items()}
        for part in range(own.depth.shape[-1])
    ]
    return (
        Table("layers", layers, title="Layer by layer", printed=False),
        Table("depth", depth, title="By depth in the context", printed=False),
    )


def of_sequence(loaded: Loaded, one: ReadText, options: DilutionOptions) -> Dilution:
    """What is measured of one sequence."""
    model: Any = loaded.model
    place = next(model.parameters()).device
    tokens, answer = one.tokens.to(place), one.answer.to(place)[None]
    rows = answer[0].nonzero().squeeze(1) if bool(answer.any()) else torch.tensor([len(tokens) - 1], device=place)
    mask = None
    if options.mask == "turns":
        mask = added_mask(turns_seen(answer, torch.ones_like(answer)), next(model.parameters()).dtype)
    return measure(model, tokens, rows, int(context_length(answer)), sinks=options.sinks, mask=mask)


def sequences(path: Path, loaded: Loaded, options: DilutionOptions) -> tuple[list[ReadText], list[str]]:
    """What a file holds, as tokens of the model; and what the user should know of it.

    Raises
    ------
    InputError
        If it cannot be read, is shorter than it must be, or a conversation is none.
    OptionError
        If there are conversations, and the model has no chat template.
    """
    tokeniser = loaded.processor.tokeniser
    warnings: list[str] = []
    limit = positions(loaded.model.config, tokeniser)
    most = min(options.max_tokens, limit or options.max_tokens)
    if path.suffix.lower() != ".jsonl":
        ids = tokeniser(whole_text(path), verbose=False)["input_ids"]
        looked = [ReadText(torch.tensor(ids, dtype=torch.int64), torch.zeros(len(ids), dtype=torch.bool), 0)]
    else:
        check_template(tokeniser, options.model)
        told = [chat_tokens(path, one, tokeniser) for one in read_conversations(path)]
        looked = [ReadText(torch.tensor(one.tokens), torch.tensor(one.answer), 0) for one in told if any(one.answer)]
        if len(looked) < len(told):
            warnings.append(
                f"{len(told) - len(looked)} of {len(told)} conversations were left out: no assistant speaks"
            )
        if not looked:
            raise InputError(str(path), "holds no conversation in which an assistant speaks", "Name another file")
    looked = [
        replace(one, tokens=one.tokens[-most:], answer=one.answer[-most:], cut=max(0, len(one.tokens) - most))
        for one in looked
    ]
    if cut := [one for one in looked if one.cut]:
        warnings.append(
            f"{len(cut)} of {len(looked)} texts were longer than {most} tokens; what was cut is their beginning, "
            f"{sum(one.cut for one in cut)} tokens"
        )
    unknown = getattr(tokeniser, "unk_token_id", None)
    if strange := sum(int((one.tokens == unknown).sum()) for one in looked) if unknown is not None else 0:
        of = sum(len(one.tokens) for one in looked)
        warnings.append(f"{strange} of {of} tokens are words that the model does not know")
    least = options.sinks + 2
    if short := [len(one.tokens) for one in looked if len(one.tokens) < least]:
        what = f"is of {short[0]} tokens; {least} are the least with a sink of {options.sinks}"
        raise InputError(str(path), what, "Name a longer text")
    return looked, warnings
