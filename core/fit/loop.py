"""The loop that every recipe shares: deterministic steps, checkpoints that survive a kill, metrics as they come.

A run is a folder: ``metrics.jsonl`` (a line per evaluation), ``checkpoint.pt`` (the newest whole state), ``best.pt``
(averaged weights of the best evaluation), ``curve.png``. Every random number of step ``s`` comes from the seed and
``s``, so a resumed run goes on exactly where the killed one would have been.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError, LossError
from ..io.atomic import atomic_path, write_text
from ..report.model import plain
from .precision import precision
from .processes import ALONE, Processes
from .schedule import cosine_cycles, warmup_stable_decay
from .state import BEST, CHECKPOINT, Learner, State, load_best, plain_identity, read_state, save_tensors

METRICS, CURVE = "metrics.jsonl", "curve.png"


class Recipe(Protocol):
    """What differs between recipes."""

    model: nn.Module
    score: str
    """Name of the metric by which the best weights are chosen; larger is better."""
    stalled_below: tuple[str, float]
    """A metric and the value it should have passed once the warm-up is over; a run that has not is reported."""

    def loss(self, step: int) -> Tensor:
        """Loss of one batch, numbered from 0, with gradients. Draws everything random from the seed and ``step``."""
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics of ``model`` (in eval mode) on what was held out."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Length and rates of a run.

    Parameters
    ----------
    steps, warmup : int
        Optimisation steps, and over how many the rate rises linearly.
    learning_rate, weight_decay, eps : float
        Of AdamW; the highest rate.
    cycles : float
        See ``cosine_cycles``.
    stable : float or None
        With it the rate follows ``warmup_stable_decay``, down to ``floor``.
    floor : float
    average : float
        Decay of the running mean of the weights that is evaluated and kept; 0 keeps the last weights.
    clip : float
        Largest norm of the gradient; 0: no limit.
    evaluate_every : int
        Steps between evaluations, each of which writes a checkpoint.
    seed : int
    amp : {"off", "bf16", "fp16"}
        Mixed precision of the loss.
    accumulate : int
        Batches of a step, whose gradients are averaged. Equals one batch as much larger, to rounding, where the loss is
        a mean over samples; batch norm, Dice and contrastive losses see one batch at a time.
    """

    steps: int
    warmup: int
    learning_rate: float
    weight_decay: float = 0.01
    cycles: float = 0.5
    average: float = 0.995
    clip: float = 1.0
    evaluate_every: int = 200
    seed: int = 77
    eps: float = 1e-8
    amp: str = "off"
    accumulate: int = 1
    stable: float | None = None
    floor: float = 0.0

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        if self.stable is not None:
            return self.learning_rate * warmup_stable_decay(
                step, steps=self.steps, warmup=self.warmup, stable=self.stable, floor=self.floor
            )
        return self.learning_rate * cosine_cycles(step, steps=self.steps, warmup=self.warmup, cycles=self.cycles)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: the best evaluation, all of them, and what the user should know."""

    best: dict[str, float]
    history: tuple[dict[str, float], ...]
    seconds: float
    warnings: tuple[str, ...]
    interrupted: bool = False


def joined(outcomes: Mapping[str, Outcome], best: Mapping[str, float]) -> Outcome:
    """The stages of a run, by name, as one outcome, with the metrics of the whole."""
    return Outcome(
        dict(best), tuple(row for stage in outcomes.values() for row in stage.history),
        sum(stage.seconds for stage in outcomes.values()),
        tuple(f"{name}: {text}" for name, stage in outcomes.items() for text in stage.warnings),
        any(stage.interrupted for stage in outcomes.values()),
    )  # fmt: skip


def fit(
    recipe: Recipe, plan: Plan, folder: Path, *, resume: bool = True, identity: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, metrics: None,
    processes: Processes = ALONE, optimizer: torch.optim.Optimizer | None = None,
) -> Outcome:  # fmt: skip
    """Train ``recipe.model`` in place; afterwards it holds the best averaged weights.

    Parameters
    ----------
    recipe : Recipe
    plan : Plan
    folder : Path
        Of the run; made where it is missing.
    resume : bool
        Go on from the folder's checkpoint, if it has one. ``plan`` may then differ in ``steps``: the schedule is that
        of the new length.
    identity : mapping, optional
        What must be the same for a checkpoint to be resumed: data, architecture, seed.
    progress : callable
        Told step, number of steps and the newest metrics.
    processes : Processes
        Among which batches are divided; all but the first return an outcome without evaluations.
    optimizer : Optimizer, optional
        Of the model's parameters, instead of AdamW as the plan has it; its groups' rates are the plan's times their
        ``factor``.

    Returns
    -------
    Outcome. After Ctrl-C ``interrupted`` is set; the checkpoint is that of the last evaluation, as after a kill.

    Raises
    ------
    OptionError
        If the folder holds another run.
    InputError
        If it cannot be written, or its checkpoint cannot be read.
    LossError
        If the loss is no longer a number; the last checkpoint is kept.
    """
    identity = plain_identity(dict(identity or {}) | {"seed": plan.seed})
    saved, fault = None, None
    if processes.first:
        try:
            saved = _open(folder, identity, resume=resume)
        except Exception as error:
            fault = error
    processes.agree(fault)
    if fault is not None:
        raise fault
    learner = _prepare(recipe.model, plan, processes, optimizer)
    saved = processes.from_first(saved)
    state = State() if saved is None else learner.load(saved)
    start = time.perf_counter() - state.seconds
    interrupted, losses = False, []
    try:
        while state.step < plan.steps:
            loss, skipped = _step(recipe, plan, learner, state.step, processes)
            losses.append(loss)
            state.skipped += skipped
            state.step += 1
            newest = state.history[-1] if state.history else {}
            progress(state.step, plan.steps, newest | {"loss": losses[-1]})
            if state.step % plan.evaluate_every == 0 or state.step == plan.steps:
                state.seconds = time.perf_counter() - start
                if processes.first:
                    _evaluate(recipe, plan, state, learner.averaged, folder, sum(losses) / len(losses))
                    learner.save(folder / CHECKPOINT, identity, state)
                losses = []
    except KeyboardInterrupt:
        interrupted = True  # perhaps in the middle of a step: the checkpoint of the last evaluation stays
    if not processes.first:
        return Outcome({}, (), state.seconds, (), interrupted)
    if (folder / BEST).exists():
        load_best(folder / BEST, recipe.model)
    # nan compares false with everything: as the first row it would win
    scored = [row for row in state.history if not math.isnan(row[recipe.score])]
    best = max(scored, key=lambda row: row[recipe.score], default={})
    return Outcome(dict(best), tuple(state.history), state.seconds, tuple(stall(recipe, plan, state)), interrupted)


def _open(folder: Path, identity: Mapping[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """What the folder's checkpoint holds; None where the run begins, and nothing of an earlier one is left then."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, f"cannot be made ({error.strerror or error})", "Name another folder") from error
    if resume and (folder / CHECKPOINT).exists():
        return read_state(folder / CHECKPOINT, identity)
    for name in (CHECKPOINT, BEST, METRICS, CURVE):
        (folder / name).unlink(missing_ok=True)
    return None


def _prepare(model: nn.Module, plan: Plan, processes: Processes, optimizer: torch.optim.Optimizer | None) -> Learner:
    """The model before its first step, the same in all processes, and what follows its steps."""
    if processes.count > 1:
        from .batch_norm import share_batch_norm

        share_batch_norm(model)
        model.load_state_dict(processes.from_first(model.state_dict()))
    if optimizer is None:
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, eps=plan.eps
        )
    averaged = {name: value.detach().clone() for name, value in model.state_dict().items()}
    scaler = torch.amp.GradScaler(_device(model).type, enabled=plan.amp == "fp16")
    return Learner(model, optimizer, averaged, scaler)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _step(recipe: Recipe, plan: Plan, learner: Learner, step: int, processes: Processes) -> tuple[float, bool]:
    """One optimisation step: the loss, and whether its float16 gradients overflowed and it was skipped."""
    model, optimizer, scaler = learner.model, learner.optimizer, learner.scaler
    model.train()
    torch.manual_seed(plan.seed * 1_000_003 + step)  # DropBlock and its like draw from torch's own generator
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step) * group.get("factor", 1.0)
    optimizer.zero_grad(set_to_none=True)
    value = torch.zeros((), dtype=torch.float64)
    for number in range(step * plan.accumulate, (step + 1) * plan.accumulate):
        with precision(plan.amp, _device(model)):
            loss = recipe.loss(number) / plan.accumulate
        value += loss.detach().cpu()
        if processes.count == 1 and not value.isfinite():
            break
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    processes.average([value])
    if not value.isfinite():
        raise LossError(
            f"the loss is {float(value)} at step {step}: lower the learning rate. The last checkpoint is kept"
        )
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    processes.average(gradients)
    if plan.clip:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
    scale = scaler.get_scale()  # type: ignore[no-untyped-call]
    scaler.step(optimizer)
    scaler.update()
    skipped = bool(scaler.get_scale() < scale)  # type: ignore[no-untyped-call]
    # young averages follow fast, or the start values would weigh for hundreds of steps
    decay = min(plan.average, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value_now in model.state_dict().items():
            if value_now.is_floating_point():
                learner.averaged[name].lerp_(value_now, 1 - decay)
            else:
                learner.averaged[name].copy_(value_now)
    return float(value), skipped


def _evaluate(
    recipe: Recipe, plan: Plan, state: State, averaged: Mapping[str, Tensor], folder: Path, loss: float
) -> None:
    """Measure the averaged weights, keep them if they are the best, write the line and the curve."""
    current = {name: value.detach().clone() for name, value in recipe.model.state_dict().items()}
    recipe.model.load_state_dict(averaged)
    recipe.model.eval()
    with torch.inference_mode():
        metrics = dict(recipe.evaluate(recipe.model))
    recipe.model.load_state_dict(current)
    row = {"step": state.step, "loss": loss, "learning_rate": plan.rate(state.step - 1), **metrics}
    row["seconds"] = round(state.seconds, 1)
    if metrics[recipe.score] > state.best:
        state.best, state.best_step = metrics[recipe.score], state.step
        with atomic_path(folder / BEST) as temporary:
            save_tensors(averaged, temporary)
    state.history.append(row)
    rows = ({name: plain(value) for name, value in line.items()} for line in state.history)  # NaN is not JSON
    write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in rows))
    _draw(recipe, state, folder / CURVE)


def _draw(recipe: Recipe, state: State, path: Path) -> None:
    from ..report.figure import Panel, panels

    steps = [row["step"] for row in state.history]
    loss = Panel({"training loss": (steps, [row["loss"] for row in state.history])}, xlabel="step", ylabel="loss")
    score = Panel({recipe.score: (steps, [row[recipe.score] for row in state.history])}, xlabel="step")
    panels([loss, score], path, title="Training loss, and the score on what was held out")


def stall(recipe: Recipe, plan: Plan, state: State) -> list[str]:
    """What a user should know about a run that does not learn (or no longer does)."""
    warnings = []
    if state.skipped:
        warnings.append(
            f"{state.skipped} of {state.step} steps were skipped: their float16 gradients overflowed until their scale "
            "had settled. Give it more steps, or bf16"
        )
    name, least = recipe.stalled_below
    after = [row for row in state.history if row["step"] > plan.warmup]
    if after and max(row[name] for row in after) < least:
        warnings.append(
            f"training has stalled: {name} is {after[-1][name]:.3f} after the warm-up, below {least:g}. "
            "Try a lower learning rate, another seed, or check that images and labels belong together"
        )
    elif state.history and state.step - state.best_step > max(10 * plan.evaluate_every, plan.steps // 4):
        warnings.append(f"no better {recipe.score} since step {state.best_step}: more steps are unlikely to help")
    return warnings
