"""The command as users type it: its three outputs and its exit code, from a real process or within this one."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

TERMINAL = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


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
    """Run ``attn ARGS`` in ``tmp_path`` and return what came of it; a traceback on stderr is always a failure.

    A process of its own, which costs seconds for another import of torch: for exit codes and streams of the real
    program, workers, signals and memory. All else goes through ``cli``.
    """

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
            env={**os.environ, **TERMINAL, **(env or {})},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """``attn ARGS`` in ``tmp_path`` within this process; an internal error is always a failure."""
    import torch

    from attn.cli.main import app

    def run(*args, stdin: str | None = None, cwd: Path | None = None) -> Ran:
        monkeypatch.chdir(cwd or tmp_path)
        done = CliRunner(env=TERMINAL).invoke(app, [*map(str, args)], prog_name="attn", input=stdin)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "internal error" not in done.stderr, done.stderr
        return Ran(done.exit_code, done.stdout, done.stderr)

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)  # commands set it for their whole process
