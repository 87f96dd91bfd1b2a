"""Damaged files: at least 500 of them through the real command, which may fail but never falls over."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

COUNT = 520
SEED = 20261123
MEMORY_LIMIT = 2 << 30  # bytes that the command may need, libraries included


@pytest.mark.slow
def test_five_hundred_damaged_files(tmp_path, fuzz_io, data_dir):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (name, damaged) in enumerate(fuzz_io.mutations(fuzz_io.corpus(data_dir), COUNT, SEED)):
        (folder / f"{number:03d}{Path(name).suffix}").write_bytes(damaged)
    start = time.monotonic()
    with open(tmp_path / "stdout", "w+") as out, open(tmp_path / "stderr", "w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "attn", "denoise", str(folder), "-o", str(tmp_path / "out"), "-m", "tv", "--json"],
            stdout=out, stderr=err, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        # of this child alone: RUSAGE_CHILDREN is the largest of all that the test process ever had
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout, stderr = (Path(stream.name).read_text() for stream in (out, err))
    peak = usage.ru_maxrss * 1024
    report = json.loads(stdout)
    print(f"seed {SEED}: {len(report['items'])} files, {time.monotonic() - start:.0f} s, peak {peak / 2**20:.0f} MiB")
    assert process.returncode == 1  # some are beyond help, and some come through
    assert "Traceback" not in stderr
    assert len(report["items"]) == COUNT
    internal = [f"{i['input']}: {i['error']}" for i in report["items"] if i["error"] and "internal error" in i["error"]]
    assert not internal, internal[:5]
    assert {item["status"] for item in report["items"]} == {"ok", "failed"}
    assert max(item["seconds"] for item in report["items"]) < 20
    assert peak < MEMORY_LIMIT
    for item in report["items"]:
        assert (item["output"] is not None and Path(item["output"]).exists()) == (item["status"] == "ok")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
