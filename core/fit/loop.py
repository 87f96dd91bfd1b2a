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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError, UsageError
from ..io.atomic import atomic_path, write_text
from ..io.kinds import open_regular
from ..report.model import plain
from .schedule import cosine_cycles

CHECKPOINT, BEST, METRICS, CURVE = "checkpoint.pt", "best.pt", "metrics.jsonl", "curve.png"


class Recipe(Protocol):
    """What differs between recipes."""

    model: nn.Module
    score: str
    """Name of the metric by which the best weights are chosen; larger is better."""
    stalled_below: tuple[str, float]
    """A metric and the value it should have passed once the warm-up is over; a run that has not is reported."""

    def loss(self, step: int) -> Tensor:
        """Loss of the batch of one step, with gradients. Draws everything random from the seed and ``step``."""
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
    average : float
        Decay of the running mean of the weights that is evaluated and kept; 0 keeps the last weights.
    clip : float
        Largest norm of the gradient; 0: no limit.
    evaluate_every : int
        Steps between evaluations, each of which writes a checkpoint.
    seed : int
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

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        return self.learning_rate * cosine_cycles(step, steps=self.steps, warmup=self.warmup, cycles=self.cycles)


@dataclass(slots=True)
class State:
    """Where a run is."""

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: the best evaluation, all of them, and what the user should know."""

    best: dict[str, float]
    history: tuple[dict[str, float], ...]
    seconds: float
    warnings: tuple[str, ...]
    interrupted: bool = False


def fit(
    recipe: Recipe, plan: Plan, folder: Path, *, resume: bool = True, identity: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, metrics: None,
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

    Returns
    -------
    Outcome. After Ctrl-C ``interrupted`` is set; the checkpoint is that of the last evaluation, as after a kill.

    Raises
    ------
    UsageError
        If the folder holds another run.
    InputError
        If it cannot be written, or its checkpoint cannot be read.
    FloatingPointError
        If the loss is no longer a number.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, f"cannot be made ({error.strerror or error})", "Name another folder") from error
    model = recipe.model
    averaged = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, eps=plan.eps
    )
    identity = json.loads(json.dumps(dict(identity or {}) | {"seed": plan.seed}, sort_keys=True, default=str))
    state = State()
    if resume and (folder / CHECKPOINT).exists():
        state = _restore(folder / CHECKPOINT, model, optimizer, averaged, identity)
    else:
        for name in (CHECKPOINT, BEST, METRICS, CURVE):
            (folder / name).unlink(missing_ok=True)
    start = time.perf_counter() - state.seconds
    interrupted, losses = False, []
    try:
        while state.step < plan.steps:
            losses.append(_step(recipe, plan, optimizer, averaged, state.step))
            state.step += 1
            newest = state.history[-1] if state.history else {}
            progress(state.step, plan.steps, newest | {"loss": losses[-1]})
            if state.step % plan.evaluate_every == 0 or state.step == plan.steps:
                state.seconds = time.perf_counter() - start
                _evaluate(recipe, plan, state, averaged, folder, sum(losses) / len(losses))
                _save(folder / CHECKPOINT, model, optimizer, averaged, identity, state)
                losses = []
    except KeyboardInterrupt:
        interrupted = True  # perhaps in the middle of a step: the checkpoint of the last evaluation stays
    if (folder / BEST).exists():
        try:
            with open_regular(folder / BEST) as file:
                model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
        except Exception as error:  # torch.load raises anything on damaged files
            raise InputError(folder / BEST, "holds no weights of this run", "Delete it, or give --restart") from error
    # nan compares false with everything: as the first row it would win
    scored = [row for row in state.history if not math.isnan(row[recipe.score])]
    best = max(scored, key=lambda row: row[recipe.score], default={})
    return Outcome(dict(best), tuple(state.history), state.seconds, tuple(stall(recipe, plan, state)), interrupted)


def _step(recipe: Recipe, plan: Plan, optimizer: Any, averaged: dict[str, Tensor], step: int) -> float:
    """One optimisation step; returns the loss."""
    recipe.model.train()
    torch.manual_seed(plan.seed * 1_000_003 + step)  # DropBlock and its like draw from torch's own generator
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    loss = recipe.loss(step)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {step}: lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if plan.clip:
        torch.nn.utils.clip_grad_norm_(recipe.model.parameters(), plan.clip)
    optimizer.step()
    # young averages follow fast, or the start values would weigh for hundreds of steps
    decay = min(plan.average, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value_now in recipe.model.state_dict().items():
            if value_now.is_floating_point():
                averaged[name].lerp_(value_now, 1 - decay)
            else:
                averaged[name].copy_(value_now)
    return value


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
            torch.save(dict(averaged), temporary)
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
    found = []
    name, least = recipe.stalled_below
    after = [row for row in state.history if row["step"] > plan.warmup]
    if after and max(row[name] for row in after) < least:
        found.append(
            f"training has stalled: {name} is {after[-1][name]:.3f} after the warm-up, below {least:g}. "
            "Try a lower --learning-rate, another --seed, or check that images and labels belong together"
        )
    elif state.history and state.step - state.best_step > max(10 * plan.evaluate_every, plan.steps // 4):
        found.append(f"no better {recipe.score} since step {state.best_step}: more steps are unlikely to help")
    return found


def _save(
    path: Path, model: nn.Module, optimizer: Any, averaged: Mapping[str, Tensor], identity: Mapping[str, Any],
    state: State,
) -> None:  # fmt: skip
    with atomic_path(path) as temporary:
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "averaged": dict(averaged),
             "identity": dict(identity), "state": asdict(state)},
            temporary,
        )  # fmt: skip


def _restore(
    path: Path, model: nn.Module, optimizer: Any, averaged: dict[str, Tensor], identity: Mapping[str, Any]
) -> State:
    try:
        with open_regular(path) as file:
            saved = torch.load(file, weights_only=True, map_location="cpu")
        theirs, weights, moments, means = (saved[key] for key in ("identity", "model", "optimizer", "averaged"))
        state = State(**saved["state"])
    except Exception as error:  # torch.load raises anything on damaged files
        raise InputError(path, "is no checkpoint that can be resumed", "Delete it, or give --restart") from error
    if differing := [key for key in identity if theirs.get(key) != identity[key]]:
        key = differing[0]
        raise UsageError(
            f"{path.parent} holds another run ({key} was {theirs.get(key)}, now {identity[key]}). "
            "Name another -o, or give --restart to begin anew."
        )
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    for name, value in means.items():
        averaged[name].copy_(value)
    return state
