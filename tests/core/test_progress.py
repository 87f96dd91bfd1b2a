"""Progress of library calls: bars of tqdm on a terminal, nothing elsewhere."""

import io
import sys

import numpy as np
import pytest

import attn
from attn.core.progress import Bars, Silent, in_words
from attn.core.report.model import Item


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Takes the place of stderr; called in the test itself, since pytest puts its own there before each."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr  # type: ignore[return-value]


def test_bars_name_what_is_done_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    bars = Bars()
    for step in (1, 2, 3):
        bars.step("fit \x1b[2J", step, 3)
    bars.step("apply", 1, 2)
    bars.step("apply again", 1, 4)
    bars.step("apply again", 4, 4)
    bars.item(Item("a.dcm", None, "ok", 0.0), 1, 1)
    shown = screen.getvalue()
    assert "fit ␛[2J:   0%|" in shown  # a file's name steers no terminal
    assert "apply:   0%|" in shown
    assert "0/4 [" in shown
    assert "a.dcm:   0%|" in shown
    assert not shown.split("\r")[-1].strip()  # the last bar is wiped out
    assert not bars._bars


def test_a_library_call_draws_bars_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    image = np.random.default_rng(0).normal(100, 20, (16, 16)).astype(np.float32)
    attn.denoise(image, "filter2noise", steps=3, device="cpu")
    assert "filter2noise:   0%|" in screen.getvalue()
    before = screen.getvalue()
    attn.denoise(image, "filter2noise", steps=3, device="cpu", watcher=Silent())
    assert screen.getvalue() == before


def test_nothing_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        Bars().step("fit", 1, 2)
        assert stream is None or stream.getvalue() == ""


def test_a_training_loop_tells_any_watcher() -> None:
    told: list[tuple[str, int, int]] = []

    class Ear(Silent):
        def step(self, name: str, done: int, total: int) -> None:
            told.append((name, done, total))

    progress = in_words(Ear(), ("loss", "f1"))
    progress(1, 9, {"loss": 0.51234})
    progress(2, 9, {"loss": 0.5, "f1": 0.75, "seconds": 3.0})
    progress(3, 9, {})
    assert told == [("loss 0.512", 1, 9), ("loss 0.500, f1 0.750", 2, 9), ("training", 3, 9)]
