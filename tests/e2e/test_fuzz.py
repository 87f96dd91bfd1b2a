"""Damaged files: a hundred of them through the command, under ``slow`` 500; it may fail but never falls over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import peak
import pytest
from fuzz_seed import SEED

MEMORY_LIMIT = 2 << 30  # bytes that the command may need, libraries included


def damage(folder: Path, fuzz_io, data_dir: Path, count: int, seed: int) -> Path:
    """A new ``folder`` with so many damaged files."""
    folder.mkdir()
    for number, (name, damaged) in enumerate(fuzz_io.mutations(fuzz_io.corpus(data_dir), count, seed)):
        (folder / f"{number:03d}{Path(name).suffix}").write_bytes(damaged)
    return folder


def check(report: dict, count: int) -> None:
    """Every file has its line, some came through and some did not, and none fell over; nothing half-written is left."""
    items = report["items"]
    assert len(items) == count
    internal = [f"{i['input']}: {i['error']}" for i in items if i["error"] and "internal error" in i["error"]]
    assert not internal, internal[:5]
    assert {item["status"] for item in items} == {"ok", "failed"}
    for item in items:
        assert (item["output"] is not None and Path(item["output"]).exists()) == (item["status"] == "ok")


def test_a_hundred_damaged_files(tmp_path, fuzz_io, data_dir, cli):
    folder = damage(tmp_path / "in", fuzz_io, data_dir, 100, SEED)
    done = cli("denoise", folder, "-o", tmp_path / "out", "-m", "tv", "--json")
    assert done.code == 1
    check(done.report, 100)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]


@pytest.mark.slow
def test_five_hundred_damaged_files(tmp_path, fuzz_io, data_dir):
    folder = damage(tmp_path / "in", fuzz_io, data_dir, 520, SEED + 1)
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
    assert process.returncode == 1  # some are beyond help, and some come through
    assert "Traceback" not in stderr
    check(json.loads(process.stdout), 520)
    assert most < MEMORY_LIMIT
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
