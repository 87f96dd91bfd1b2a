"""The frame of every run of a recipe: where it runs, what makes it this run, what is written of it and reported.

A recipe gives data, model, loss, evaluation and export, and the frame the rest::

    with run_of("toy", options, watcher=watcher, arguments=arguments) as run:
        recipe = ...                                       # a ``loop.Recipe``
        outcome = run.fit(recipe, Plan(steps=options.steps, ...), identity={"photos": names})
        if outcome.best:
            run.save(lambda path: write_model(path, recipe.model), lambda size: "# the model card")
        return run.report(outcome, data=options.data)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import attn

from ..compare import NAME as COMPARISON
from ..device import available_cores, pick_device, set_threads
from ..errors import UsageError
from ..io.atomic import place_fault, write_text
from ..options import OptionError, values
from ..options import identity as identity_of_options
from ..progress import Bars, Silent, Training, Watcher, in_words
from ..report.model import Item, Report, plain, summarise
from ..report.sections import Curve, Row, Section, Table
from .loop import CURVE, METRICS, Outcome, Plan, Recipe, fit
from .processes import Processes, joined

MODEL, CARD = "model.safetensors", "model.md"
_UNSHOWN = ("output", "restart", "threads", "config")
"""Options that say nothing about the model."""


class RecipeRun:
    """One run of a recipe, as ``run_of`` opens it.

    Parameters
    ----------
    recipe : str
        Its name.
    options : dataclass
        The recipe's options, with ``output``, a ``Compute`` named ``compute`` and, where there are steps, a
        ``TrainingOptions`` named ``training``.
    processes : Processes
        Of this run; see ``alone``.
    device : torch.device
    progress : callable
        Told step, number of steps and the newest metrics.
    arguments : mapping
        Of the call, beside the options.
    """

    def __init__(
        self, recipe: str, options: Any, processes: Processes, device: torch.device, progress: Training,
        arguments: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.recipe, self.options, self.processes, self.device = recipe, options, processes, device
        self.progress, self.arguments = progress, arguments
        self.output: Path = options.output
        self.start = time.perf_counter()
        self.agreed = False

    def alone(self, why: str) -> None:
        """Refuse several processes. Raises ``UsageError``, with ``why`` a batch cannot be divided among them."""
        if self.processes.count > 1:
            raise UsageError(f"{self.recipe} runs in one process, not {self.processes.count}: {why}.")

    def fit(
        self, recipe: Recipe, plan: Plan, *, identity: Mapping[str, Any], folder: Path | None = None,
        options: Any = None, progress: Training | None = None, optimizer: torch.optim.Optimizer | None = None,
    ) -> Outcome:  # fmt: skip
        """``loop.fit`` in this run's folder, with its seed, precision and processes.

        Parameters
        ----------
        recipe : Recipe
        plan : Plan
            Its ``seed``, ``amp`` and ``accumulate`` are those of the options.
        identity : mapping
            What makes the run that run beside its options: names of what it is trained on.
        folder : Path, optional
            Of a part of the run; by default the run's own.
        options : dataclass, optional
            Of a part of the run, where they differ from the run's.
        progress : callable, optional
            Instead of the run's own.
        optimizer : Optimizer, optional
            See ``loop.fit``.
        """
        options = self.options if options is None else options
        training = options.training
        plan = replace(plan, seed=options.compute.seed, amp=training.amp, accumulate=training.accumulate)
        self._agree()
        return fit(
            recipe, plan, folder or self.output, resume=not training.restart,
            identity=identity_of_options(options) | dict(identity), progress=progress or self.progress,
            processes=self.processes, optimizer=optimizer,
        )  # fmt: skip

    def _agree(self, fault: Exception | None = None) -> None:
        """Once, when all that a process does for itself is done, or has failed."""
        if not self.agreed:
            self.agreed = True
            self.processes.agree(fault)

    def shown(self, options: Any = None) -> dict[str, Any]:
        """The options as a model file holds them: without the places of files."""
        named = {
            name: value.name if isinstance(value, Path) else plain(value)
            for name, value in values(self.options if options is None else options).items()
        }
        return {name: value for name, value in named.items() if name not in _UNSHOWN}

    def facts(self, **facts: Any) -> dict[str, Any]:
        """What a model file says of its training."""
        return {"attn": attn.__version__, "torch": torch.__version__, "options": self.shown(), **facts}

    def save(self, write: Callable[[Path], None], card: Callable[[int], str]) -> None:
        """Write model and model card, in the first process; ``card`` is told the size of the model's file in bytes."""
        if self.processes.first:
            self.output.mkdir(parents=True, exist_ok=True)
            write(self.output / MODEL)
            write_text(self.output / CARD, card((self.output / MODEL).stat().st_size))

    def report(
        self, outcome: Outcome, *, data: object, details: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None, files: Mapping[str, Path] | None = None,
        sections: tuple[Section, ...] = (), comparison: Sequence[Row] = (), notices: tuple[str, ...] = (),
    ) -> Report:  # fmt: skip
        """The report: one item with the best evaluation, the files of the run, and how it went.

        Parameters
        ----------
        outcome : Outcome
        data : object
            What the run was trained on, as the user named it.
        details : mapping, optional
            What the recipe has to say, beside the options.
        metrics : mapping, optional
            More than those of the best evaluation.
        files : mapping, optional
            More than card, metrics and curve; only those that exist are listed.
        sections : tuple of Section
            Of the item, beside its losses.
        comparison : sequence of mapping
            A row for each model, where there are several: a table of the item and of the report.
        notices : tuple of str
        """
        seconds = time.perf_counter() - self.start
        listed = {name: self.output / place for name, place in _FILES.items()} | dict(files or {})
        model = self.output / MODEL
        losses = Curve("losses", {"loss": [row["loss"] for row in outcome.history]}, xlabel="evaluation", detail=True)
        table = Table(COMPARISON, comparison, title="side by side")
        own = replace(table, detail=True)
        item = Item(
            input=str(data), output=str(model) if outcome.best and model.exists() else None, status="ok",
            seconds=seconds,
            metrics={k: v for k, v in outcome.best.items() if k != "seconds"} | dict(metrics or {}),
            files={name: str(path) for name, path in listed.items() if path.exists()}, warnings=outcome.warnings,
            details={"options": self.shown(), **plain(details or {})},
            sections=(*([losses] if outcome.history else []), *([own] if comparison else []), *sections),
        )  # fmt: skip
        arguments = {"recipe": self.recipe, **plain(values(self.options)), **self.arguments}
        return Report(
            "train", attn.__version__, arguments, str(self.device), seconds, (item,), summarise([item]), notices,
            (table,) if comparison else (), left=(str(data),) if outcome.interrupted else None,
        )  # fmt: skip


_FILES = {"card": CARD, "metrics": METRICS, "curve": CURVE}


@contextmanager
def run_of(
    recipe: str, options: Any, *, watcher: Watcher | None, arguments: Mapping[str, Any] | None,
    names: Sequence[str] = ("loss",),
) -> Iterator[RecipeRun]:  # fmt: skip
    """A run of a recipe: device, threads and processes are its own for as long as the context lasts.

    Parameters
    ----------
    recipe : str
    options : dataclass
        See ``RecipeRun``.
    watcher : Watcher or None
        Told how far it is; None: a bar on a terminal.
    arguments : mapping or None
        What the report records of the call beside the options: ``argv``, ``config``.
    names : sequence of str
        Metrics that are told.

    Raises
    ------
    UsageError
        If there is no such device, nothing can be written into the folder, or another process of the run cannot go on.
    """
    with joined() as processes:
        progress = in_words((watcher or Bars()) if processes.first else Silent(), names)
        run = RecipeRun(recipe, options, processes, torch.device("cpu"), progress, arguments or {})
        try:
            if fault := place_fault(run.output / MODEL):  # before hours of work, not after
                raise OptionError(f"{{output}}: {run.output}: {fault}.")
            run.device = _device(options.compute.device, processes)
            set_threads(options.compute.threads or max(1, available_cores() // processes.local_count))
            yield run
        except Exception as error:
            run._agree(error)
            raise


def _device(name: str, processes: Processes) -> torch.device:
    """The device of this process: one GPU each."""
    device = pick_device(name)
    if processes.count == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise OptionError("{device}: every process takes a device of its own. Give cuda, without a number.")
    if processes.local_count > torch.cuda.device_count():
        raise OptionError(
            f"{{device}}: {processes.local_count} processes on this machine, {torch.cuda.device_count()} CUDA devices. "
            "Start as many as there are devices."
        )
    torch.cuda.set_device(processes.local)
    return torch.device("cuda", processes.local)
