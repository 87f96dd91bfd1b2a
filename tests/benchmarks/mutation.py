"""Mutation score of code whose every line matters: ``python tests/benchmarks/mutation.py [FOLDER or FILE ...]``.

A mutant is one change of one statement: a comparison turned, a constant moved, ``and`` for ``or``, a condition negated,
a result dropped, a statement removed. It is killed when one of the tests that reach its line fails. The repository is
copied first; your working tree is not touched. Survivors are printed as ``file:line change``; what became of them
stands in mutation.md. Needs pytest-cov. Speed changes nothing here except how many mutants fit into ``--minutes``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = {
    "core/io": ["tests/core/io", "tests/core/denoise/test_series.py"],
    "core/batch": ["tests/core/batch"],
    "core/attention/contract.py": ["tests/core/attention/test_contract.py", "tests/core/attention/test_dense.py"],
    "core/retrieve/score": ["tests/core/retrieve/score", "tests/golden/test_retrieval_metrics.py"],
    "core/segment/score": ["tests/core/segment/score", "tests/golden/test_metrics.py"],
}
OPPOSITE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, int, str, str]]:
    """All mutants of a module as (first line, last line, change, mutated source)."""
    tree = ast.parse(source)
    skipped = {id(child) for node in ast.walk(tree) for part in _unmutated(node) for child in ast.walk(part)}
    nodes = list(ast.walk(tree))
    for index, node in enumerate(nodes):
        if id(node) in skipped:
            continue
        for change in _changes(node):
            mutated = copy.deepcopy(tree)
            place = list(ast.walk(mutated))[index]
            change(place)
            before, after = ast.unparse(node).split("\n")[0], ast.unparse(place).split("\n")[0]
            yield node.lineno, node.end_lineno, f"{before}  ->  {after}", ast.unparse(mutated)


def _unmutated(node: ast.AST) -> Iterator[ast.AST]:
    """Types, decorators, docstrings and imports: nothing there that a test could feel, or that runs."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield from node.decorator_list
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns:
        yield node.returns
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
        yield node.annotation
    if isinstance(node, ast.Raise) and node.exc:
        yield node.exc  # words
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        yield node


def _changes(node: ast.AST) -> list:
    """Functions that each change the copy of ``node`` in place."""
    changes = []
    if isinstance(node, ast.Compare):
        changes += [lambda n: n.ops.__setitem__(0, OPPOSITE[type(n.ops[0])]())]
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in OPPOSITE:
        changes += [lambda n: setattr(n, "op", OPPOSITE[type(n.op)]())]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        changes += [lambda n: setattr(n, "value", not n.value)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        changes += [lambda n: setattr(n, "value", n.value + 1)]
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
        changes += [lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))]
    elif isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
        changes += [lambda n: setattr(n, "value", ast.Constant(None))]
    elif (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or isinstance(node, ast.Raise):
        changes += [_to_pass]
    elif isinstance(node, ast.Continue):
        changes += [lambda n: setattr(n, "__class__", ast.Break)]
    return changes


def _to_pass(node: ast.AST) -> None:
    node.__class__ = ast.Pass  # type: ignore[assignment]


def reach(copied: Path, tests: list[str]) -> tuple[dict[str, dict[int, set[str]]], dict[str, float]]:
    """Which tests reach which line of which file, and how long each test takes."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cov=core", "--cov-report=",
               "--cov-context=test", "--durations=0", "-vv", *tests]  # fmt: skip
    done = subprocess.run(
        command, cwd=copied, capture_output=True, text=True, env={**os.environ, "COVERAGE_CORE": "ctrace"}
    )
    if done.returncode:
        sys.exit(f"the tests fail before anything is changed:\n{done.stdout[-3000:]}")
    seconds: dict[str, float] = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in ("setup", "call", "teardown"):
            seconds[words[2]] = seconds.get(words[2], 0.0) + float(words[0].rstrip("s"))
    from coverage.numbits import numbits_to_nums

    reached: dict[str, dict[int, set[str]]] = {}
    query = """select file.path, context.context, numbits from line_bits
        join file on file.id = file_id join context on context.id = context_id"""
    for path, context, bits in sqlite3.connect(copied / ".coverage").execute(query):
        lines = reached.setdefault(str(Path(path).resolve().relative_to(copied)), {})
        for line in numbits_to_nums(bits):
            lines.setdefault(line, set()).add(context.rpartition("|")[0])
    return reached, seconds


def killed(copied: Path, tests: list[str], limit: float) -> bool:
    """Whether one of ``tests`` fails, or all together exceed ``limit`` seconds; in a fork that has torch already."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copied)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        import pytest

        os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", *tests])))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", default=list(TESTS), help="of TESTS, or files below them")
    parser.add_argument("--sample", type=int, default=150, help="mutants per folder (0: all)")
    parser.add_argument("--minutes", type=float, default=40.0, help="for all folders together, shared evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="append a JSON line per mutant here")
    options = parser.parse_args()
    for module in (
        "torch",
        "numpy",
        "scipy.ndimage",
        "pydicom",
        "PIL.Image",
        "numba",
        "tifffile",
        "hypothesis",
        "pytest",
    ):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as place:
        copied = Path(place).resolve() / "attn"
        shutil.copytree(REPOSITORY, copied, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "*cache*"))
        shared = REPOSITORY.parent / "shared"
        os.environ.setdefault("ATTN_TEST_DATA", str(shared / "data"))
        (copied.parent / "shared").symlink_to(shared)
        os.environ["PYTHONPATH"] = str(copied / ".src")
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.path.insert(0, str(copied / ".src"))
        for folder in options.folders:
            score(copied, folder, options)


def score(copied: Path, folder: str, options: argparse.Namespace) -> None:
    """Sample the mutants of ``folder``, try each, print the survivors and the score."""
    reached, seconds = reach(copied, next(tests for place, tests in TESTS.items() if folder.startswith(place)))
    place = copied / folder
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    drawn = [(file, *mutant) for file in files for mutant in mutants(file.read_text())]
    total = len(drawn)
    random.Random(options.seed).shuffle(drawn)
    drawn = drawn[: options.sample or None]
    end = time.monotonic() + 60 * options.minutes / len(options.folders)
    dead = tried = unreached = 0
    for file, first, last, change, source in drawn:
        if time.monotonic() > end:
            break
        name = str(file.relative_to(copied))
        lines = reached.get(name, {})
        tests = set().union(*(lines.get(line, set()) for line in range(first, last + 1)))
        if "" in tests:  # ran at import: everything that uses the file
            tests = set().union(*lines.values())
        tests = sorted(tests - {""}, key=lambda test: seconds.get(test, 0.0))
        tried += 1
        unreached += not tests
        original = file.read_text()
        file.write_text(source)
        try:
            died = bool(tests) and killed(copied, tests, 20 + 5 * sum(seconds.get(test, 0.0) for test in tests))
        finally:
            file.write_text(original)
        dead += died
        if options.log:
            with options.log.open("a") as log:
                log.write(json.dumps([name, first, change, len(tests), died]) + "\n")
        if not died:
            print(f"{name}:{first} {'' if tests else '(no test reaches it) '}{change}", flush=True)
    print(f"{folder}: {dead} of {tried} killed ({unreached} reached by no test), drawn from {total}", flush=True)


if __name__ == "__main__":
    main()
