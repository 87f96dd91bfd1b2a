"""What every test gets: a home of its own, seeded generators, uninitialised memory that shows, and the shared data."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import compile_kernels
from fuzz_seed import LINE as FUZZ_SEED
from packaged import INSTALL, places

# before anything imports torch: threads that spin while they wait starve the tests that run beside them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent
SEED = 20250419
CIRCUMSTANCES = (
    "packaged model files",  # a step of their own: see pytest_runtest_setup
    "TRITON_INTERPRET",  # a run of their own
    "GPU",
    "chooses nothing",  # not every operator has every part
    "has no budget",
    "does not decode",
    "rounds such keys to ties",
    "root may",  # what is forbidden to others
    "no browser here",
    "numba does not compile for AVX-512 here",  # another processor
    "benchmark-skip",
)
"""What skips may be for, where ``CI`` is set. A package that is missing is none: what tests need is in ``.[dev]``."""
_skipped: dict[str, list[str]] = {}


@pytest.hookimpl(tryfirst=True)  # pytest-xdist starts its workers in this hook
def pytest_sessionstart(session: pytest.Session) -> None:
    workers = getattr(session.config.option, "tx", None)  # none in a worker, nor without pytest-xdist
    if workers and not session.config.option.collectonly:
        compile_kernels(session.config, min(len(workers), os.cpu_count() or 1))


def pytest_report_header() -> str:
    return FUZZ_SEED


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``packaged`` skip where the files are absent; with ``ATTN_PACKAGED`` they fail."""
    for mark in item.iter_markers("packaged"):
        for name in mark.args:
            if not places(name):
                reason = f"needs packaged model files: {INSTALL[name]}"
                if os.environ.get("ATTN_PACKAGED"):
                    pytest.fail(reason)
                pytest.skip(reason)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped.setdefault(report.longrepr[2].removeprefix("Skipped: "), []).append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI a skip for anything but circumstances fails the run: a missing package must not pass for a green one."""
    if os.environ.get("CI") and not hasattr(session.config, "workerinput"):
        if any(_unfit(reason) for reason in _skipped):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if terminalreporter.stats.get("failed"):
        terminalreporter.write_line(FUZZ_SEED)  # the header is not shown with -q
    for reason, tests in _skipped.items():
        if os.environ.get("CI") and _unfit(reason):
            terminalreporter.write_line(f"SKIPPED ON CI {len(tests)} x {tests[0]}: {reason}", red=True)


def _unfit(reason: str) -> bool:
    return not any(words in reason for words in CIRCUMSTANCES)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """HOME and caches in a temporary directory: no test may read or leave anything in the developer's own.

    Of the session, not of the test: libraries build font and kernel caches there that are costly to repeat.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("USERPROFILE", str(home))
        for name, place in (
            ("XDG_CACHE_HOME", ".cache"),
            ("XDG_CONFIG_HOME", ".config"),
            ("XDG_DATA_HOME", ".local/share"),
            ("XDG_STATE_HOME", ".local/state"),
            ("MPLCONFIGDIR", ".matplotlib"),
            ("HF_HOME", ".huggingface"),
        ):
            (home / place).mkdir(parents=True, exist_ok=True)
            patch.setenv(name, str(home / place))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True)
def _seeded_and_poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed all generators; fill ``torch.empty`` with NaN, so that memory nobody wrote fails the test.

    torch is touched only where it is imported already: a test that must run without it still does.
    """
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - libraries under test may use the legacy generator
    if (torch := sys.modules.get("torch")) is None:
        return
    torch.manual_seed(SEED)
    for name in ("empty", "empty_like", "empty_strided"):
        make = getattr(torch, name)

        def poisoned(*args, _make=make, **kwargs):
            out = _make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() and not out.is_meta else out

        monkeypatch.setattr(torch, name, poisoned)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The shared data: ``ATTN_TEST_DATA``, else ``../shared/data`` beside the repository.

    Where it is absent the test is skipped, and says so; in CI (environment variable ``CI``) it fails.
    """
    place = Path(os.environ.get("ATTN_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not place.is_dir():
        reason = f"no test data at {place}: set ATTN_TEST_DATA"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return place


@pytest.fixture(scope="session")
def dicom_dir(data_dir: Path) -> Path:
    return data_dir / "dicom"


@pytest.fixture(scope="session")
def fuzz_io(request):
    """The module ``tests/fuzz_io.py``."""
    spec = importlib.util.spec_from_file_location("fuzz_io", request.config.rootpath / "tests" / "fuzz_io.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
