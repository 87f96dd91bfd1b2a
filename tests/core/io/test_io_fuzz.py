"""Damaged bytes of every kind: an image or an ``InputError``, quickly, in little memory, without a word on stderr."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import peak
import pytest
from fuzz_seed import SEED

from attn.core.errors import InputError
from attn.core.io import Derivation, read_grey, write_grey


def run(mutations, folder):
    """Read each file and write what could be read; (files read, files refused, longest CPU seconds)."""
    read, refused, longest, lines = 0, 0, 0.0, []
    for name, data in mutations:
        path = folder / name
        path.write_bytes(data)
        start = time.process_time()
        try:
            image = read_grey(path, luma=True)
            read += 1
            assert np.isfinite(image.pixels).all(), name
            write_grey(image, image.pixels + 1, folder / "out", Derivation("fuzz", "fuzzed", "2.25.1"))
        except InputError as error:
            refused += 1
            lines.append(str(error))
        longest = max(longest, time.process_time() - start)
        path.unlink()
    assert [line for line in lines if not line.isprintable()] == []
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    return read, refused, longest


@pytest.mark.parametrize("part", range(4))
def test_damaged_files(part, fuzz_io, data_dir, tmp_path, capfd):
    files = fuzz_io.corpus(data_dir)
    read, refused, longest = run(fuzz_io.mutations(files, 50, SEED + part), tmp_path)
    assert read > 5  # neither is the damage total
    assert refused > 5  # nor harmless
    assert longest < 10  # a hang, not a benchmark: of the CPU's time, whatever else runs here
    assert capfd.readouterr().err == ""


def test_the_same_seed_gives_the_same_files(fuzz_io):
    files = fuzz_io.corpus(None)
    assert list(fuzz_io.mutations(files, 40, 1)) == list(fuzz_io.mutations(fuzz_io.corpus(None), 40, 1))


@pytest.mark.slow
def test_a_thousand_damaged_files_within_two_gigabytes(fuzz_io, data_dir, tmp_path):
    code = (
        f"{peak.CODE}"
        "import sys, pathlib, importlib.util as u\n"
        "def load(name, path):\n"
        "    spec = u.spec_from_file_location(name, path); m = u.module_from_spec(spec); spec.loader.exec_module(m)\n"
        "    return m\n"
        "fuzz, test = load('fuzz_io', sys.argv[1]), load('test', sys.argv[2])\n"
        "files = fuzz.corpus(pathlib.Path(sys.argv[3]))\n"
        "print(*test.run(fuzz.mutations(files, 1000, test.SEED + 4), pathlib.Path(sys.argv[4])))\n"
        "print(peak())\n"
    )
    command = [sys.executable, "-c", code, fuzz_io.__file__, __file__, str(data_dir), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(Path(peak.__file__).parent)}  # the child imports this file
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    counts, most = done.stdout.splitlines()
    assert float(counts.split()[2]) < 10
    assert int(most) < 2**31
