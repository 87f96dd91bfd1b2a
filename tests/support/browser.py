"""A real browser for tests of pages: headless Chromium, driven over a pipe by the DevTools protocol; no package needed.

https://chromedevtools.github.io/devtools-protocol/; messages on the pipe end in NUL.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120.0
"""Seconds for an answer: a guard against a browser that hangs, no measure of speed."""


class Browser:
    """One tab. ``requests`` are the addresses that pages asked for; ``faults`` what they logged as errors."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._rest, self._number = send, receive, b"", 0
        self.requests: list[str] = []
        self.faults: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def open(self, address: str, *, width: int, dark: bool = False, height: int = 900) -> None:
        """Show a page and wait until it is loaded."""
        self.requests.clear()
        self.faults.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [theme]})
        self.call("Page.navigate", {"url": "about:blank"})
        self.call("Page.navigate", {"url": address})
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; the page's own policy does not hold for it."""
        answer = self.call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, as a person presses it."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": "\r" if key == "Enter" else ""}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **named})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **named})

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}
        answer = self.call("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._call(method, parameters or {})

    def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.faults.append(answer["params"]["entry"]["text"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError(f"the browser did not answer {method}")

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            while b"\0" in self._rest:
                message, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(message)
            if select.select([self._receive], [], [], 1.0)[0]:
                part = os.read(self._receive, 2**20)
                assert part, "the browser ended"
                self._rest += part


@contextmanager
def browser(reaches: str = "") -> Iterator[Browser]:
    """A browser that cannot reach a network: its proxy is a socket that nobody answers at (it calls home, too).

    Only ``reaches``, a server of the test's own (``127.0.0.1:PORT``), is asked without the proxy. Skips the test where
    there is no browser.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no browser here: apt-get install chromium")
    with socket.socket() as network, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        network.bind(("127.0.0.1", 0))
        pipes = [_high(end) for end in (*os.pipe(), *os.pipe())]
        theirs_in, send, receive, theirs_out = pipes
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
            "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={home}",
            f"--proxy-server=http://127.0.0.1:{network.getsockname()[1]}", f"--proxy-bypass-list=<-loopback>;{reaches}",
        ]  # fmt: skip
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} >/dev/null 2>&1', "bash", *command]
        with subprocess.Popen(shell, pass_fds=(theirs_in, theirs_out)) as process:
            try:
                os.close(theirs_in)
                os.close(theirs_out)
                yield Browser(send, receive)
            finally:
                process.kill()
                os.close(send)
                os.close(receive)


def _high(handle: int) -> int:
    """A copy with a number that is in nobody's way: the shell needs 3 and 4."""
    copied = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(handle)
    return copied
