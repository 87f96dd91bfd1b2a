"""No test depends on how fast the machine is: clocks end a wait, or show that time is measured at all; none judges."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MEASURES = {"benchmarks", "tune.py"}
"""What measures and judges nothing: scripts, no tests."""
FILES = sorted(path for path in TESTS.rglob("*.py") if MEASURES.isdisjoint(path.parts))
CLOCKS = {"time", "perf_counter", "perf_counter_ns", "time_ns", "monotonic_ns", "timeit", "default_timer"}
DURATIONS = re.compile(r"(?<![a-z])(seconds|elapsed|duration|wall|took)(?![a-z])")
"""Names of measured times. CPU time may be judged: it is the process's own, whatever else runs beside it."""


def faults(source: str) -> Iterator[str]:
    """Lines that read a clock other than to wait, and asserts that a measured time is short."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("time", "timeit") and node.attr in CLOCKS:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "timeit"):
            yield f"line {node.lineno}: import the module, so that its clocks are seen here"
        if isinstance(node, ast.Assert):
            for compared in (part for part in ast.walk(node.test) if isinstance(part, ast.Compare)):
                sides = [compared.left, *compared.comparators]
                for left, operator, right in zip(sides, compared.ops, sides[1:], strict=False):
                    shorter = left if isinstance(operator, ast.Lt | ast.LtE) else right
                    if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) and measured(shorter):
                        yield f"line {node.lineno}: {ast.unparse(node)}"


def measured(node: ast.AST) -> bool:
    """Whether an expression holds a measured time, and not merely a key of that name in a set."""
    return not isinstance(node, ast.Set | ast.Constant) and bool(DURATIONS.search(ast.unparse(node)))


def test_no_verdict_by_the_clock() -> None:
    found = {path.relative_to(TESTS).as_posix(): list(faults(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("start = time.perf_counter()", 1),
        ("from time import perf_counter", 1),
        ("assert item['seconds'] < 20", 1),
        ("assert 2 > outcome.wall", 1),
        ("assert 0 <= outcome.seconds <= 3", 1),
        ("assert max(found.wall) < 0.1", 1),
        ("assert outcome.seconds > 0", 0),
        ("assert {'seconds', 'items'} <= set(report)", 0),
        ("while time.monotonic() < deadline: time.sleep(0.02)", 0),
        ("assert max(found.cpu) < 0.04", 0),
    ],
)
def test_the_checker_sees(line: str, count: int) -> None:
    assert len(list(faults(line))) == count
