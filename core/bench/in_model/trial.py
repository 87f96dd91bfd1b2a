"""One operator inside the model at one length: everything that is measured of it, needles aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...attention.contract import Operator, Shape
from ...attention.in_models import Ran, attention_log, attention_parameters
from ...attention.registry import OPERATORS
from ...progress import Watcher
from ..candidates import BASELINE, Candidate
from ..measure import collected
from ..timing import Timing, time_interleaved
from . import overlap
from .calls import LayerCall, caught
from .language import Language, Likelihood, Prefilled
from .layers import newest
from .traffic import layer_bytes

PILOT = 512  # tokens; the prefill that predicts the first length
PILOT_STEPS = 3  # tokens written behind it: everything that decodes is compiled then


@dataclass
class Trial:
    """What is known of one candidate at one length."""

    candidate: Candidate
    length: int
    predicted: float = float("nan")
    prefill: Timing = field(default_factory=Timing)
    decode: Timing = field(default_factory=Timing)
    written: list[int] = field(default_factory=list)
    likelihood: Likelihood | None = None
    found: list[bool] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    ran: Mapping[tuple[str, int], Ran] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    skipped: str = ""
    error: str = ""

    @property
    def label(self) -> str:
        return self.candidate.label

    @property
    def runs(self) -> bool:
        """Whether it was measured, or is still to be."""
        return not self.skipped and not self.error


@dataclass(frozen=True)
class Workbench:
    """What stays the same over a run."""

    language: Language
    tokens: Sequence[int]
    dense_layers: tuple[int, ...]
    written: int
    deadline: float
    watcher: Watcher

    def implementation(self, candidate: Candidate) -> str:
        """Its name in transformers; of the baseline the model's own dense attention."""
        return BASELINE if candidate.name == BASELINE else f"attn:{candidate.name}"

    @contextmanager
    def attending(self, candidate: Candidate, warnings: list[str]) -> Iterator[list[Ran]]:
        """The model with the candidate's attention; what runs in its layers is collected, warnings too."""
        self.language.attend_by(self.implementation(candidate))
        with (
            attention_parameters(dense_layers=self.dense_layers, **candidate.params),
            attention_log() as ran,
            collected(warnings, known=tuple(warnings)),
        ):
            yield ran


@dataclass(frozen=True, slots=True)
class Piloted:
    """A candidate on few tokens: seconds, and the shape of each layer's call."""

    seconds: float
    decode: float
    shapes: Mapping[int, Shape]
    dense: frozenset[int]

    def work(self, candidate: Candidate, language: Language, length: int) -> float:
        """Floating point operations of a prefill: products with the weights, and the attention of each layer."""
        dense = OPERATORS["dense"].resolve()
        total = 2.0 * language.parameters * length
        for layer, shape in self.shapes.items():
            whole = shape._replace(len_q=length, len_k=length)
            total += (dense.cost(whole) if layer in self.dense else candidate.cost(whole)).flops
        return total


def pilot(bench: Workbench, candidate: Candidate) -> Piloted:
    """Compile everything, then a short prefill and a few steps by the clock. Raises what the operator raises."""
    language, tokens = bench.language, bench.tokens[:PILOT]
    with bench.attending(candidate, []) as ran, caught(bench.implementation(candidate), _last) as calls:
        language.decode(language.prefill(tokens), PILOT_STEPS)
        shapes = {layer: call.shape for layer, call in calls.items()}
        timing = time_interleaved(
            {candidate.label: lambda: language.prefill(tokens)}, language.device, repeat=1, keep=lambda run: run
        )[candidate.label]
        if timing.error is not None:
            raise timing.error
        _, steps = language.decode(timing.result, PILOT_STEPS)
    dense = frozenset(layer for (_, layer), call in newest(ran).items() if call.why)
    return Piloted(timing.median, min(steps.wall), shapes, dense)


def measure(bench: Workbench, trial: Trial, base: Trial | None) -> None:
    """Perplexity, agreement with ``base``, times, bytes and overlap of one trial, into it.

    Raises whatever the operator or the model raise, with what was measured before in the trial.
    """
    language, candidate = bench.language, trial.candidate
    prompt = list(bench.tokens[: trial.length - bench.written])
    pool = candidate.settings.pool if candidate.name == "hisa" else 0
    where = overlap.spans(len(prompt), pool) if pool else []
    keep = _rows_of(len(prompt), where)
    implementation = bench.implementation(candidate)
    with bench.attending(candidate, trial.warnings) as ran, caught(implementation, keep) as calls:
        timed = time_interleaved(
            {trial.label: lambda: language.prefill(prompt)}, language.device, deadline=bench.deadline,
            step=bench.watcher.step, keep=lambda run: run,
        )[trial.label]  # fmt: skip
        trial.prefill = timed
        if timed.error is not None:
            raise timed.error
        run: Prefilled = timed.result
        timed.result = None
        prefilled = dict(calls)
        trial.likelihood = language.likelihood(prompt, run)
        if unknown := int((~trial.likelihood.nll.isfinite()).sum()):
            raise ValueError(f"the model's logits are no numbers at {unknown} of {len(prompt) - 1} tokens")
        trial.written, trial.decode = language.decode(run, bench.written)
    trial.layers, trial.ran = sorted(prefilled), newest(ran)
    _check_layers(trial, prefilled)
    metrics = trial.metrics
    metrics |= {"perplexity": trial.likelihood.perplexity(), "layers_run": float(len(own_layers(trial, "prefill")))}
    if candidate.name == "hisa":
        metrics |= overlap.flat_iou([prefilled[n] for n in own_layers(trial, "prefill")], where, candidate.params)
        if not where:
            trial.warnings.append(
                f"no query sees more than the {pool} keys of its candidate blocks: hisa chooses what dsa "
                "chooses, by construction"
            )
    if (read := kv_bytes(trial, calls)) is not None:
        metrics["kv_bytes_read"] = read
    if base is not None:
        compare(trial, base)


def compare(trial: Trial, base: Trial) -> None:
    """Figures against the model with its own dense attention, in the same run."""
    assert trial.likelihood is not None
    assert base.likelihood is not None
    metrics, other = trial.metrics, base.metrics
    metrics["perplexity_ratio"] = metrics["perplexity"] / other["perplexity"]
    metrics["argmax_agreement"] = (trial.likelihood.best == base.likelihood.best).double().mean().item()
    same = [a == b for a, b in zip(trial.written, base.written, strict=True)]
    metrics["greedy_agreement"] = sum(same) / len(same)
    metrics["greedy_same"] = float((*same, False).index(False))
    metrics["prefill_speedup"] = base.prefill.median / trial.prefill.median
    metrics["decode_speedup"] = base.decode.median / trial.decode.median
    if "kv_bytes_read" in metrics:
        metrics["kv_share"] = metrics["kv_bytes_read"] / other["kv_bytes_read"]


def own_layers(trial: Trial, phase: str) -> list[int]:
    """The layers in which the candidate itself ran."""
    return sorted(layer for (during, layer), call in trial.ran.items() if during == phase and not call.why)


def kv_bytes(trial: Trial, calls: Mapping[int, LayerCall]) -> float | None:
    """Bytes of keys and values that the last step of decoding read, over all layers; None where a state is kept."""
    operator: Operator | None = None if trial.candidate.name == BASELINE else trial.candidate.operator
    own = set(own_layers(trial, "decode"))
    parts = [
        layer_bytes(call, operator if layer in own else None, trial.candidate.params) for layer, call in calls.items()
    ]
    return None if None in parts else sum(part for part in parts if part is not None)


def _check_layers(trial: Trial, prefilled: Mapping[int, LayerCall]) -> None:
    """Raise ``ValueError`` where a layer's attention is not in the log, or the operator ran in none."""
    if trial.candidate.name == BASELINE:
        return
    silent = [layer for layer in prefilled if ("prefill", layer) not in trial.ran]
    if silent or not prefilled:
        raise ValueError(f"what ran in layers {silent or 'of this model'} is not known: no figure would mean anything")
    if not own_layers(trial, "prefill"):
        raise ValueError("it ran in no layer: each is left dense, or has a window of the model's own")


def _last(q: Tensor) -> Tensor:
    return q[:, :, -1:].clone()


def _rows_of(length: int, where: Sequence[range]) -> Callable[[Tensor], Tensor]:
    """Of a prefill of ``length`` the queries of ``where``; the last one where nothing else is wanted."""
    rows = torch.tensor([row for run in where for row in run], dtype=torch.int64)

    def keep(q: Tensor) -> Tensor:
        return q[:, :, rows.to(q.device)] if len(rows) and q.shape[2] == length else _last(q)

    return keep
