"""The sanitiser finds what it is there for: one access past a tensor's end, and one race, planted here.

Its environment is another Python's (sanitise.sh); without it the planted faults cannot be looked for, which is said.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

FOLDER = Path(__file__).parent
FAULTS = {
    "overrun": "writes 24 element(s) past the end of the tensor passed as `out_ptr`",
    "race": "program instances",
}


@triton.jit
def double_kernel(x_ptr, out_ptr, size, block: tl.constexpr, masked: tl.constexpr):
    """out = 2 x; without ``masked`` the last block writes past the end of what ``block`` does not divide."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    x = tl.load(x_ptr + at, mask=at < size, other=0.0)
    if masked:
        tl.store(out_ptr + at, 2 * x, mask=at < size)
    else:
        tl.store(out_ptr + at, 2 * x)


@triton.jit
def sum_kernel(x_ptr, out_ptr, size, block: tl.constexpr, atomic: tl.constexpr):
    """The sum of x; without ``atomic`` programs overwrite each other's."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    part = tl.sum(tl.load(x_ptr + at, mask=at < size, other=0.0), 0)
    if atomic:
        tl.atomic_add(out_ptr, part)
    else:
        tl.store(out_ptr, tl.load(out_ptr) + part)


@pytest.fixture
def sanitised():
    """Skips where launches are not looked at."""
    if "ttsem.sanitize" not in sys.modules:
        pytest.skip("run by tests/kernels/sanitise.sh, in the place of a GPU")


def launch(fault: str) -> None:
    x = torch.ones(1000)
    if fault in ("overrun", "masked"):
        double_kernel[(8,)](x, torch.empty(1000), 1000, block=128, masked=fault == "masked")
    else:
        sum_kernel[(8,)](x, torch.zeros(1), 1000, block=128, atomic=fault == "atomic")


@pytest.mark.interpret
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, sanitised):
    from ttsem.sanitize import KernelFault  # type: ignore[import-not-found]

    with pytest.raises(KernelFault) as caught:
        launch(fault)
    assert FAULTS[fault] in str(caught.value)
    assert Path(__file__).name in str(caught.value)


@pytest.mark.interpret
@pytest.mark.parametrize("right", ["masked", "atomic"])
def test_the_same_kernels_without_their_fault_pass(right, sanitised):
    launch(right)


@pytest.mark.slow
def test_the_script_runs_the_planted_faults(tmp_path):
    """In its own environment, made once (ATTN_SANITISER names a folder to keep it)."""
    script = FOLDER / "sanitise.sh"
    done = subprocess.run(
        ["bash", script, "-q", FOLDER / "test_sanitiser.py"],
        capture_output=True, text=True, timeout=280,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "HOME": str(Path(f"~{getpass.getuser()}").expanduser())},
    )  # fmt: skip
    if "NOT RUN" in done.stdout:
        pytest.skip(f"{done.stdout.strip().splitlines()[-1]} (in the place of a GPU)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "4 launches" in done.stdout
