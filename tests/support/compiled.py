"""CPU kernels compiled once, before pytest-xdist starts its workers, which else compile every kernel each."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted((REPOSITORY / "core").rglob("*_cpu.py"))
COMPILE = """
import functools, importlib, sys
from attn.core.attention.tile_cpu import multiplies_pairs
for module in sys.argv[1:]:
    for name, value in list(vars(importlib.import_module(module)).items()):
        if isinstance(getattr(value, "__wrapped__", None), functools.partial):  # of attn.core.jit.kernel: compiles
            if multiplies_pairs() or not name.endswith("_pairs"):  # LLVM ends the process where there is no such thing
                value()
"""


def compile_kernels(config: pytest.Config, processes: int) -> None:
    """Fill numba's cache, in as many processes; nothing to do where the same sources were compiled before."""
    state = hashlib.sha256(f"{version('numba')} {sys.version} {os.environ.get('NUMBA_CACHE_DIR')}".encode())
    for path in [REPOSITORY / "core" / "jit.py", *SOURCES]:
        state.update(path.read_bytes())
    cache = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    if cache and cache.get("attn/kernels", "") == state.hexdigest():
        return
    modules = [".".join(("attn", *path.relative_to(REPOSITORY).with_suffix("").parts)) for path in SOURCES]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / ".src")}
    running = [
        subprocess.Popen([sys.executable, "-c", COMPILE, *modules[first::processes]], env=environment)
        for first in range(processes)
    ]
    done = [process.wait() == 0 for process in running]
    if cache and all(done):  # else the tests that use the kernels say what is wrong
        cache.set("attn/kernels", state.hexdigest())
