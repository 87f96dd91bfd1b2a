"""The command as users type it: a real process, its three outputs, its exit code."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Ran:
    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict:
        return json.loads(self.stdout)


@pytest.fixture
def attn(tmp_path):
    """Run ``attn ARGS`` in ``tmp_path`` and return what came of it; a traceback on stderr is always a failure."""

    def run(
        *args,
        stdin: str | None = None,
        timeout: float = 240,
        env: dict | None = None,
        cwd: Path | None = None,
        prog: str | None = None,
    ) -> Ran:
        command = [prog] if prog else [sys.executable, "-m", "attn"]
        done = subprocess.run(
            [*command, *map(str, args)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd or tmp_path,
            env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", **(env or {})},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
