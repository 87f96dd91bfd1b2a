"""Damaged files: at least 500 of them through the real command, which may fail but never falls over."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import peak
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
    code = (
        f"{peak.CODE}"
        "import sys, pathlib\n"
        "from attn.cli.main import main\n"
        "most = pathlib.Path(sys.argv.pop())\n"
        "try: main()\n"
        "finally: most.write_text(str(peak()))\n"
    )
    command = ["denoise", folder, "-o", tmp_path / "out", "-m", "tv", "--json", tmp_path / "peak"]
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], env={**os.environ, "NO_COLOR": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    most, stderr = int((tmp_path / "peak").read_text()), process.stderr
    report = json.loads(process.stdout)
    print(f"seed {SEED}: {len(report['items'])} files, {time.monotonic() - start:.0f} s, peak {most / 2**20:.0f} MiB")
    assert process.returncode == 1  # some are beyond help, and some come through
    assert "Traceback" not in stderr
    assert len(report["items"]) == COUNT
    internal = [f"{i['input']}: {i['error']}" for i in report["items"] if i["error"] and "internal error" in i["error"]]
    assert not internal, internal[:5]
    assert {item["status"] for item in report["items"]} == {"ok", "failed"}
    assert max(item["seconds"] for item in report["items"]) < 20
    assert most < MEMORY_LIMIT
    for item in report["items"]:
        assert (item["output"] is not None and Path(item["output"]).exists()) == (item["status"] == "ok")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
