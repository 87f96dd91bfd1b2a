"""Damaged files: at least 500 of them through the real command, which may fail but never falls over."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

COUNT = 520
SEED = 20261123
MEMORY_LIMIT = 2 << 30  # bytes that the command may need, libraries included


def seeds(folder: Path) -> dict[str, bytes]:
    """Small sound files of every kind that is fuzzed; each is mutated."""
    from PIL import Image
    from pydicom.data import get_testdata_file

    rng = np.random.default_rng(0)
    grey = (rng.random((24, 24)) * 255).astype(np.uint8)
    Image.fromarray(grey).save(folder / "a.png")
    Image.fromarray(grey.astype(np.uint16) << 8).save(folder / "b.png")
    np.save(folder / "c.npy", grey.astype(np.float32))
    np.savez(folder / "d.npz", image=grey)
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for number, name in enumerate(
        ("CT_small.dcm", "MR_small_RLE.dcm", "MR_small.dcm", "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm")
    ):
        found[f"{number}.dcm"] = Path(get_testdata_file(name, download=False)).read_bytes()
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One of: a few flipped bits, a cut tail, a hole, a repeated piece, bytes of extreme value, noise in the header."""
    raw = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice((1, 3, 20))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del raw[rng.randrange(len(raw)) :]
    elif kind == 2:
        start = rng.randrange(len(raw))
        del raw[start : start + rng.choice((1, 2, 7, 64, 1000))]
    elif kind == 3:
        start = rng.randrange(len(raw))
        raw[start:start] = raw[start : start + rng.choice((1, 4, 100))]
    elif kind == 4:  # absurd sizes, NaN: runs of 0xFF and 0x7F where lengths, shapes and floats live
        start = rng.randrange(len(raw))
        raw[start : start + rng.choice((2, 4, 8))] = rng.choice((b"\xff", b"\x7f", b"\x00")) * rng.choice((2, 4, 8))
    else:
        for _ in range(4):
            raw[rng.randrange(min(len(raw), 600))] = rng.randrange(256)
    return bytes(raw)


@pytest.mark.slow
def test_five_hundred_damaged_files(tmp_path):
    folder, sound = tmp_path / "in", tmp_path / "sound"
    folder.mkdir()
    sound.mkdir()
    originals = seeds(sound)
    rng = random.Random(SEED)
    for number in range(COUNT):
        name = rng.choice(sorted(originals))
        (folder / f"{number:03d}{Path(name).suffix}").write_bytes(mutate(originals[name], rng))
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "attn", "denoise", str(folder), "-o", str(tmp_path / "out"), "-m", "tv", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=280)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
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
