"""What fits into the budget by the header is denoised within it: the factors of core/io/pixels.py are measured here."""

import subprocess
import sys

import numpy as np
import pytest
from peak import CODE

from attn.core import memory
from attn.core.errors import InputError
from attn.core.io import read_grey
from attn.core.io.pixels import SLICE_BYTES, STACK_BYTES

RUN = """
import sys
from pathlib import Path
from attn.core import memory
from attn.core.denoise.base import FitOptions
from attn.core.denoise.options import DenoiseOptions
from attn.core.denoise.run import run
small, large, method, budget = sys.argv[1:]
memory.set_budget(int(budget))
def denoise(name, clean):
    steps = {"steps": 2} if method == "filter2noise" else {}
    options = DenoiseOptions(method=method, fit=FitOptions(**steps), reference=Path(clean))
    (item,) = run([name], name + ".out.npy", options).items
    assert item.status == "ok", item.error
denoise(small, small)
before = peak()
denoise(large, large)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "method"),
    [
        ((96, 256, 256), "nlm"), ((1, 1400, 1400), "filter2noise"), ((48, 256, 256), "adaptive"),
        ((1, 1400, 1400), "adaptive"),
    ],
)  # fmt: skip
def test_a_run_stays_within_what_its_header_was_checked_for(shape, method, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "small.npy", rng.integers(0, 2000, (64, 64), dtype=np.uint16))
    np.save(tmp_path / "large.npy", rng.integers(0, 2000, shape, dtype=np.uint16))
    need = int(np.prod(shape)) * (2 * 2 + STACK_BYTES) + shape[1] * shape[2] * SLICE_BYTES
    command = [sys.executable, "-c", CODE + RUN, tmp_path / "small.npy", tmp_path / "large.npy", method, str(need)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= need
    memory.set_budget(need - 1)
    try:
        with pytest.raises(InputError, match="more than the budget"):
            read_grey(tmp_path / "large.npy")
    finally:
        memory.set_budget(None)
