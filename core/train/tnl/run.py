"""`attn train tnl`: TNL and a softmax transformer on the same text, their loss and speed by length, and a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...fit.frame import MODEL, RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...fit.repeated import means
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Curve, Passage, Row, Section
from ...report.write import markdown_table
from ...sizes import show_size
from .network import LanguageModel, LanguageShape, continuation, equal_shapes, read_language_file, write_language_file
from .options import KINDS, Kind, TnlOptions
from .recipe import LanguageRecipe, bits_per_byte, optimizer, token_losses
from .speed import speeds
from .texts import Corpus, corpus
from .tokens import BytePairs

JUDGED = 32768
"""Tokens of the test, where the text has so many; a whole window at least."""
PROMPT = 160
"""Characters of a test document that the samples go on from."""


@dataclass(frozen=True, slots=True)
class LanguageData:
    """The text of a run as tokens.

    Parameters
    ----------
    texts : Corpus
    tokens : BytePairs
        Learnt of the training documents.
    train, val, test : Tensor of int64 [N]
        ``val`` and ``test`` as ``token_losses`` takes them.
    lengths : tuple of int
        Windows in which ``test`` is judged.
    notices : tuple of str
    """

    texts: Corpus
    tokens: BytePairs
    train: Tensor
    val: Tensor
    test: Tensor
    lengths: tuple[int, ...]
    notices: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What a report and a model file say of it."""
        return {
            "text": self.texts.name, "sha256": self.texts.sha256, **self.texts.counts(),
            "train_tokens": len(self.train), "judged_tokens": len(self.test) - 1, "vocabulary": self.tokens.vocabulary,
        }  # fmt: skip


def prepare(options: TnlOptions) -> LanguageData:
    """Read the text, learn its tokens, and choose what is judged.

    Raises
    ------
    InputError
        If there is too little text.
    UsageError
        If it cannot be read.
    """
    texts = corpus(options.data, options.output)
    tokens = BytePairs.learn((document.text for document in texts.train), options.vocabulary)
    streams = {
        part: tokens.stream(document.text for document in documents)
        for part, documents in (("train", texts.train), ("val", texts.val), ("test", texts.test))
    }
    for part, stream in streams.items():
        if len(stream) <= options.length:
            what = f"has {len(stream)} tokens of {part}, no more than a sequence of {options.length}"
            raise InputError(texts.name, what, "Give more text, or shorter sequences")
    notices = list(texts.notices)
    if tokens.vocabulary < options.vocabulary:
        notices.append(f"the text yields {tokens.vocabulary} tokens, not {options.vocabulary}")
    val, test = streams["val"], streams["test"]
    val = val[: 1 + min(options.judged, len(val) - 1) // options.length * options.length]
    fitting = [length for length in options.measured if length < len(test)]
    lengths = tuple(length for length in fitting if fitting[-1] % length == 0)
    if left := [show_size(length) for length in options.measured if length not in lengths]:
        notices.append(
            f"no loss at {', '.join(left)}: longer than the {len(test)} tokens of the test, or of other tokens than "
            f"the {show_size(lengths[-1])} that all others divide"
        )
    windows = min((len(test) - 1) // lengths[-1], max(1, JUDGED // lengths[-1]))
    test = test[: 1 + windows * lengths[-1]]
    return LanguageData(texts, tokens, streams["train"], val, test, lengths, tuple(notices))


def train_tnl(
    options: TnlOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train TNL and a softmax transformer of as many parameters on the same batches of a text.

    Parameters
    ----------
    options : TnlOptions
    watcher : Watcher, optional
        Told step and steps of all networks; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: bits per byte and speed of both networks at each length, a sample, files, warnings.

    Raises
    ------
    UsageError
        If folder or options cannot be used.
    InputError
        If the text cannot be read, or there is too little of it.
    """
    with run_of("tnl", options, watcher=watcher, arguments=arguments, names=("loss", "bits_per_byte")) as run:
        run.alone("its sequences are drawn whole")
        data = prepare(options)
        try:
            shapes = equal_shapes(
                data.tokens.vocabulary, options.width, options.layers, options.heads, decay=options.decay,
                variant=options.variant,
            )  # fmt: skip
        except ValueError as error:
            raise OptionError(f"{{width}}: {error}") from None
        seeds = [options.compute.seed + number for number in range(options.seeds)]
        outcomes: dict[str, Outcome] = {}
        for seed in seeds:
            for kind in KINDS:
                outcome = fitted(run, options, data, shapes[kind], seed, len(outcomes))
                outcomes[f"{kind} {seed}"] = outcome
                if outcome.interrupted:
                    return run.report(joined(outcomes, {}), data=data.texts.name, notices=data.notices)
        return finished(run, options, data, shapes, seeds, outcomes)


def folder(options: TnlOptions, kind: Kind, seed: int) -> Path:
    """Of a network's run."""
    parts = [*([f"seed-{seed}"] if seed != options.compute.seed else []), *([kind] if kind != KINDS[0] else [])]
    return options.output.joinpath(*parts)


def fitted(
    run: RecipeRun, options: TnlOptions, data: LanguageData, shape: LanguageShape, seed: int, done: int
) -> Outcome:
    """One network trained, and its model file written unless the run was stopped."""
    own = replace(options, compute=replace(options.compute, seed=seed))
    torch.manual_seed(seed)
    network = shape.build().to(run.device)
    recipe = LanguageRecipe(network, own, data.train, data.val, data.tokens.sizes(), run.device)
    plan = Plan(
        steps=options.steps, warmup=options.warmup, learning_rate=options.rate(shape.kind), average=0.0,
        evaluate_every=options.evaluate_every,
    )  # fmt: skip
    total = options.seeds * len(KINDS) * options.steps

    def tell(step: int, _: int, metrics: Mapping[str, float]) -> None:
        run.progress(done * options.steps + step, total, metrics)

    identity = {"text": data.texts.sha256, "tokens": data.tokens.sha256, "kind": shape.kind, "data": None}
    place = folder(options, shape.kind, seed)
    outcome = run.fit(
        recipe,
        plan,
        identity=identity,
        folder=place,
        options=own,
        progress=tell,
        optimizer=optimizer(network, options.weight_decay),
    )
    if not outcome.interrupted:
        facts = run.facts(**data.facts, seconds=round(outcome.seconds)) | {"options": run.shown(own)}
        write_language_file(place / MODEL, LanguageModel(network, shape, data.tokens), facts)
    return outcome


def finished(
    run: RecipeRun, options: TnlOptions, data: LanguageData, shapes: Mapping[Kind, LanguageShape],
    seeds: Sequence[int], outcomes: Mapping[str, Outcome],
) -> Report:  # fmt: skip
    """The networks read from their files, judged and timed; the report."""
    models = {(kind, seed): read_language_file(folder(options, kind, seed) / MODEL) for seed in seeds for kind in KINDS}
    sizes = data.tokens.sizes()[data.test[1:]]
    judged: dict[tuple[Kind, int], list[dict[str, float]]] = {}
    for (kind, _), model in models.items():
        network = model.network.to(run.device)
        for length in data.lengths:
            losses = token_losses(network, data.test, length, run.device)
            judged.setdefault((kind, length), []).append({"bits": bits_per_byte(losses, sizes)})
    bits = {of: means(rows, ["bits"]) for of, rows in judged.items()}
    first: dict[Kind, LanguageModel] = {kind: models[kind, seeds[0]] for kind in KINDS}
    networks = {kind: model.network for kind, model in first.items()}
    timed = speeds(networks, data.train, options.measured, options.decoded, run.device)
    rows: list[Row] = [
        {"network": kind, "tokens": length, **bits.get((kind, length), {}), **timed[kind, length]}
        for kind in KINDS for length in options.measured
    ]  # fmt: skip
    metrics = {"parameters": float(shapes["tnl"].parameters), "softmax_parameters": float(shapes["softmax"].parameters)}
    for kind in KINDS:
        for name, length in (("bits", options.length), ("bits_longest", data.lengths[-1])):
            metrics |= {
                f"{kind}_{key.replace('bits', name)}": value for key, value in bits[kind, length].items()
            }  # fmt: skip
    ratios = {
        name: [timed["tnl", length][f"{name}_tokens_s"] / timed["softmax", length][f"{name}_tokens_s"]
               for length in options.measured]
        for name in ("train", "decode")
    }  # fmt: skip
    metrics |= {f"{name}_ratio": line[-1] for name, line in ratios.items()}
    samples = {kind: sample(model, options, data, run.device) for kind, model in first.items()}
    own, whole = outcomes[f"{KINDS[0]} {seeds[0]}"], joined(outcomes, {})
    outcome = Outcome(own.best, own.history, whole.seconds, whole.warnings)
    facts = run.facts(**data.facts, metrics=metrics, seconds=round(whole.seconds))
    run.save(lambda path: write_language_file(path, first["tnl"], facts), lambda size: card(facts, rows, size, samples))
    return run.report(
        outcome, data=data.texts.name, details=data.facts, metrics=metrics, comparison=rows,
        sections=shown(options, data, bits, ratios, samples), notices=data.notices,
    )  # fmt: skip


def shown(
    options: TnlOptions, data: LanguageData, bits: Mapping[tuple[Kind, int], Mapping[str, float]],
    ratios: Mapping[str, Sequence[float]], samples: Mapping[Kind, tuple[str, str]],
) -> tuple[Section, ...]:  # fmt: skip
    """Curves over lengths, and the samples."""
    lines: dict[str, list[float]] = {kind: [bits[kind, length]["bits"] for length in data.lengths] for kind in KINDS}
    losses = Curve(
        "bits_by_length", lines, xs=data.lengths, xlabel="tokens", title="Bits per byte by length of window",
        detail=True,
    )  # fmt: skip
    faster = Curve(
        "speed_ratio", ratios, xs=options.measured, xlabel="tokens",
        title="Tokens a second of TNL over those of the softmax transformer", detail=True,
    )  # fmt: skip
    passages = [
        Passage(f"sample_{kind}", [(prompt, "prompt"), (text, "written")], title=f"written by {kind}")
        for kind, (prompt, text) in samples.items() if text
    ]  # fmt: skip
    return losses, faster, *passages


def sample(
    model: LanguageModel, options: TnlOptions, data: LanguageData, device: torch.device
) -> tuple[str, str]:  # fmt: skip
    """The beginning of a test document, and what the network writes behind it."""
    prompt = [data.tokens.end, *data.tokens.encode(data.texts.test[0].text[:PROMPT])]
    written = continuation(
        model.network, torch.tensor(prompt, device=device), options.sample,
        generator=torch.Generator().manual_seed(options.compute.seed),
    )  # fmt: skip
    return data.tokens.decode(prompt), data.tokens.decode(written.tolist())


def card(
    facts: Mapping[str, Any], rows: Sequence[Row], size: int, samples: Mapping[Kind, tuple[str, str]]
) -> str:  # fmt: skip
    """The model card, Markdown."""
    prompt, written = samples[KINDS[0]]
    quoted = "\n".join(f"    {line}" for line in (prompt + " ⟶ " + written).splitlines())
    return "\n".join([
        "# A small TransNormerLLM", "",
        "A language model with lightning attention (arXiv 2405.17381), made to be compared with a softmax transformer.",
        "",
        f"- {size} bytes, float32, tokeniser inside; {facts['metrics']['parameters']:.0f} parameters, of the other "
        f"{facts['metrics']['softmax_parameters']:.0f}.",
        f"- Text: {facts['text']} (sha256 {facts['sha256']}): {facts['train_bytes']} bytes to train on, "
        f"{facts['test_documents']} other documents for the table.",
        f"- Options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s of training.", "",
        "Bits per byte of documents that nobody trained on, read in windows of so many tokens; tokens a second of a",
        "training step and of decoding behind so many; bytes that a step keeps, and that decoding remembers.", "",
        *markdown_table(rows, digits=4), "A sample:", "", quoted,
    ]) + "\n"  # fmt: skip
