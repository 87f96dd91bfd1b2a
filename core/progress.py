"""How long work goes on: the one protocol by which it is told, and who listens.

``Watcher`` is told; the command line listens with Rich (``cli/show.Watch``), a call of the library with ``Bars`` (tqdm)
unless it names a watcher of its own: ``watcher = watcher or Bars()``. ``Silent()`` hears nothing. A training loop tells
step, number of steps and its newest metrics: ``in_words`` turns any watcher into such a listener.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .text import printable

if TYPE_CHECKING:
    from .report.model import Item

Training = Callable[[int, int, Mapping[str, float]], None]
"""``(step, steps, newest metrics)``: how a training loop tells of itself."""


class Watcher(Protocol):
    """Who is told how the work goes on."""

    def item(self, item: Item, done: int, total: int) -> None:
        """One input has become ``item``; ``done`` of ``total`` inputs are."""
        ...

    def step(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of what is going on now, which is called ``name``."""
        ...


class Silent:
    """A watcher that says nothing."""

    def item(self, item: Item, done: int, total: int) -> None: ...
    def step(self, name: str, done: int, total: int) -> None: ...


class Bars:
    """Bars of tqdm on stderr, one for the inputs and one for the steps; nothing where stderr is no terminal.

    A bar leaves the screen when its work is done, or when the ``Bars`` is no longer referred to (after an exception).
    """

    def __init__(self) -> None:
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._bars: dict[str, Any] = {}

    def item(self, item: Item, done: int, total: int) -> None:
        self._move("inputs", item.input, done, total)

    def step(self, name: str, done: int, total: int) -> None:
        self._move("steps", name, done, total)

    def _move(self, which: str, name: str, done: int, total: int) -> None:
        if not self._shown:
            return
        from tqdm import tqdm  # it starts a thread of its own, even for a bar that is off

        bar, name = self._bars.get(which), printable(name)
        if bar is None:
            bar = self._bars[which] = tqdm(desc=name, total=total, leave=False, dynamic_ncols=True)
        elif done < bar.n or total != bar.total:  # other work begins: its speed is its own
            bar.reset(total)
        bar.set_description_str(name, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            self._bars.pop(which).close()


def in_words(watcher: Watcher, names: Sequence[str] = ("loss",)) -> Training:
    """A listener of a training loop that tells ``watcher``: the metrics in ``names`` that are known, in words."""

    def progress(step: int, steps: int, metrics: Mapping[str, float]) -> None:
        known = [f"{name} {metrics[name]:.3f}" for name in names if name in metrics]
        watcher.step(", ".join(known) or "training", step, steps)

    return progress
