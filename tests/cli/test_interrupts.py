"""An interrupt that a library swallows while it is imported comes again at the next step."""

import contextlib
import signal

import pytest

from attn.cli import interrupts
from attn.cli.show import Watch


def test_an_interrupt_that_was_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(interrupts, "_asked", False)
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.getsignal(number) for number in numbers]
    watch = Watch(quiet=True)
    try:
        interrupts.listen()
        watch.step("a.dcm", 1, 2)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            watch.step("a.dcm", 2, 2)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
