"""Which formulation of a computation runs: the one place that decides, for attention and for denoising.

A computation is a ``Phase``: the same result by several ways, in order of preference. A way is a ``Formulation``, which
says itself which tensors it does not take and why. Nothing is imported before it is chosen.
"""

from __future__ import annotations

import contextlib
import functools
import pkgutil
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch

Kind = Literal["triton", "cpu", "torch", "reference"]
Backend = Literal["auto", "reference", "torch", "cpu", "triton", "blocked"]
"""``auto``: the first that takes the tensors. ``blocked``: the first of plain PyTorch and the CPU kernels."""
BACKENDS: tuple[str, ...] = get_args(Backend)
WORDS = {
    "triton": "Triton kernel", "cpu": "CPU kernel", "torch": "form in plain PyTorch", "reference": "reference",
    "blocked": "form in plain PyTorch",
}  # fmt: skip


def takes_all(*_: Any, **__: Any) -> str | None:
    """``refuses`` of a formulation that takes every tensor."""
    return None


@dataclass(frozen=True)
class Formulation:
    """One way to compute a phase.

    Parameters
    ----------
    name : str
        For people: "tree search, numba".
    backend : {"triton", "cpu", "torch", "reference"}
        What it is written in: a Triton kernel, a CPU kernel, plain PyTorch in linear memory, or the equations.
    run : str or callable
        ``"module:function"``, imported at the first use, or the function where no import would be saved.
    refuses : callable with ``run``'s arguments -> str or None
        Why it does not take them, as a clause about it ("takes float32 on the CPU, got float64"); None: it does.
    """

    name: str
    backend: Kind
    run: str | Callable[..., Any]
    refuses: Callable[..., str | None] = takes_all

    def __post_init__(self) -> None:
        if callable(self.run):  # a graph can be made of it before it ran once: it must not take the property's lock
            self.__dict__["function"] = self.run

    @cached_property
    def function(self) -> Callable[..., Any]:
        """What ``run`` names."""
        if callable(self.run):
            return self.run
        implementation: Callable[..., Any] = pkgutil.resolve_name(self.run)
        return implementation


@dataclass(frozen=True)
class Phase:
    """A computation and its formulations, which agree, in order of preference; ``name`` says whose it is."""

    name: str
    formulations: tuple[Formulation, ...]

    def offers(self, backend: str) -> bool:
        """Whether there is a formulation to force with ``backend``."""
        return any(_wanted(formulation, backend) for formulation in self.formulations)

    def __call__(self, *inputs: Any, backend: str = "auto", **options: Any) -> Any:
        """The result, by the formulation that ``choose`` takes."""
        return choose(self, inputs, backend, **options).function(*inputs, **options)

    def used_by(self, name: str, function: Callable[..., Any]) -> Phase:
        """The phase ``name`` of a ``function(..., engine)`` that ends in this one: a formulation for each of its own.

        Whoever uses an engine has its kernels, and what they refuse, without saying so again.
        """
        return Phase(
            name,
            tuple(
                Formulation(own.name, own.backend, functools.partial(function, engine=own), own.refuses)
                for own in self.formulations
            ),
        )


def in_torch(name: str, run: Callable[..., Any]) -> Phase:
    """A phase that is plain PyTorch alone, for every tensor."""
    return Phase(name, (Formulation("torch", "torch", run),))


def _wanted(formulation: Formulation, backend: str) -> bool:
    if backend == "blocked":
        return formulation.backend in ("torch", "cpu")
    return backend in ("auto", formulation.backend)


_LISTENING: ContextVar[tuple[list[tuple[Phase, Formulation]], ...]] = ContextVar("_LISTENING", default=())


@contextlib.contextmanager
def choices() -> Iterator[list[tuple[Phase, Formulation]]]:
    """What ``choose`` takes inside, in order: for reports of what really ran."""
    chosen: list[tuple[Phase, Formulation]] = []
    token = _LISTENING.set((*_LISTENING.get(), chosen))
    try:
        yield chosen
    finally:
        _LISTENING.reset(token)


def choose(phase: Phase, inputs: tuple[Any, ...], backend: str = "auto", **options: Any) -> Formulation:
    """The first formulation of ``phase`` that ``backend`` allows and that takes ``inputs`` and ``options``.

    Raises
    ------
    ValueError
        If there is none: it names the backend and what each formulation has against the inputs.
    """
    reasons = []
    for formulation in phase.formulations:
        if _wanted(formulation, backend):
            reason = formulation.refuses(*inputs, **options)
            if reason is None:
                if not torch.compiler.is_compiling():  # a graph cannot hold it, and nobody listens to one being made
                    for chosen in _LISTENING.get():
                        chosen.append((phase, formulation))
                return formulation
            reasons.append(f"{formulation.name} {reason}" if len(phase.formulations) > 1 else reason)
    if reasons:
        forced = "" if backend == "auto" else f" with backend={backend!r}"
        raise ValueError(f"{phase.name} cannot run{forced}: {'; '.join(reasons)}.")
    raise no_such(phase.name, backend)


def no_such(name: str, backend: str) -> ValueError:
    """The error of a backend that ``name`` does not have, or that nothing has."""
    if backend not in BACKENDS:
        return ValueError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}.")
    return ValueError(f"no {WORDS[backend]} for {name} yet. Use backend='auto'.")
