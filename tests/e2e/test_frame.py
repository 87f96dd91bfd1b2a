"""What all commands share: start-up, help, versions, usage errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attn.cli.main import COMMANDS
from attn.cli.retrieve.main import VERBS
from attn.core.bundles import Placement
from attn.core.catalogue import registry

SNAPSHOTS = Path(__file__).parent / "snapshots"
HEAVY = {"torch", "numpy", "PIL", "pydantic", "rich", "pydicom", "skimage", "matplotlib", "numba", "triton"}


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["denoise", "--help"],
        ["segment", "--help"],
        ["bench", "-h"],
        ["prune", "--help"],
        ["prune", "calibrate", "-h"],
        ["probe", "vit", "-h"],
        ["train", "-h"],
        ["train", "fsgnet", "-h"],
        ["retrieve", "-h"],
        ["retrieve", "search", "-h"],
        ["methods", "-h"],
        ["doctor", "-h"],
        ["--version"],
    ],
    ids=str,
)
def test_help_loads_nothing_heavy(args):
    """Start-up is tested by what is loaded, not by seconds: an import that creeps in shows on any machine."""
    code = f"""
import sys
sys.argv = ['attn', *{args!r}]
try:
    from attn.cli.main import main
    main()
except SystemExit:
    pass
print('\\nloaded:', *sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "loaded:"


def test_importing_the_command_does_not_import_torch():
    code = "import sys, attn.cli.main, attn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        [],
        *([command] for command in COMMANDS if command != "man"),
        *(["retrieve", verb] for verb in VERBS),
        ["prune", "calibrate"],
        ["probe", "compare"],
        ["probe", "redraw"],
        *([*group.split(), row] for group in ("train", "probe", "prune calibrate") for row in registry(group)),
    ],
    ids=lambda args: "-".join(["attn", *args]),
)
def test_help_snapshot(attn, args):
    """A changed snapshot is a reviewed change: run with ATTN_UPDATE_SNAPSHOTS=1 and read the diff."""
    shown = attn(*args, "--help")
    assert shown.code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 100
    path = SNAPSHOTS / f"{'-'.join(['attn', *args])}.txt"
    if os.environ.get("ATTN_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown.stdout)
    assert shown.stdout == path.read_text()


def test_version(cli):
    import attn as package

    assert cli("--version").stdout == f"attn {package.__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["denois"], "no command named 'denois'. Did you mean denoise?"),
        (["denoise"], "nothing to read"),
        (["denoise", "x.npy", "--method", "filter2nosie"], "Did you mean filter2noise?"),
        (["denoise", "x.npy", "--quality", "best"], "'best' is not one of 'fast', 'balanced', 'paper'"),
        (["denoise", "x.npy", "--quallity", "fast"], "--quality"),
        (["denoise", "x.npy", "--steps", "0"], "--steps"),
        (["denoise", "x.npy", "--steps", "many"], "--steps"),
        (["denoise", "x.npy", "--window", "lunge"], "Did you mean lung?"),
        (["denoise", "x.npy", "--window", "40,0"], "the width must be a positive number"),
        (["denoise", "x.npy", "--fit", "last"], "--fit"),
        (["denoise", "x.npy", "--lambda", "much"], "neither auto nor a number"),
        (["denoise", "x.npy", "--lambda", "-1"], "neither auto nor a number"),
        (["denoise", "x.npy", "--lambda", "auto", "--quality", "paper"], "not part of the published recipe"),
        (["denoise", "x.npy", "--region", "1,2,3=1"], "X0,Y0,X1,Y1=S"),
        (["denoise", "x.npy", "--region", "9,9,3,3=1"], "X0 < X1"),
        (["denoise", "x.npy", "--strength", "-1"], "--strength"),
        (
            ["denoise", "x.npy", "--method", "tv", "--strength", "2"],
            "--strength works with --method adaptive or filter2noise only",
        ),
        (["denoise", "x.npy", "--quality", "balanced"], "--quality works with --method filter2noise or zs-n2n only"),
        (
            ["denoise", "x.npy", "--steps", "9"],
            "--steps works with --method filter2noise or zs-n2n only, not with adaptive",
        ),
        (["denoise", "x.npy", "--stages", "3"], "--stages works with --method filter2noise only, not with adaptive"),
        (["denoise", "x.npy", "--lambda", "5"], "--lambda works with --method filter2noise only, not with adaptive"),
        (
            ["denoise", "x.npy", "--sigma", "0.1"],
            "--sigma works with --method bm3d or nlm or bilateral or tv or wavelet only",
        ),
        (["denoise", "x.npy", "--method", "tv", "--maps"], "--maps works with --method adaptive or filter2noise only"),
        (["denoise", "x.npy", "--simulate-dose", "1.5"], "no fraction of a dose"),
        (["denoise", "x.npy", "--reference", "missing.npy"], "missing.npy does not exist"),
        (["denoise", "x.npy", "--filter", "missing.safetensors"], "missing.safetensors"),
        (["denoise", "x.npy", "--preset", "half-dose"], "'half-dose' is not one of 'default', 'full-dose'"),
        (["denoise", "x.npy", "--preset", "full-dose", "--filter", "f.safetensors"], "--preset is for fitting"),
        (
            ["denoise", "x.npy", "-m", "filter2noise", "--preset", "full-dose"],
            "--preset works with --method adaptive only",
        ),
        (["denoise", "x.npy", "--device", "gpu"], "no device named 'gpu'"),
        (["denoise", "x.npy", "--device", "cuda:7"], "cuda:7 is not here"),
        (["denoise", "x.npy", "--dtype", "bf16"], "too small for half precision"),
        (["denoise", "x.npy", "--report", "out.pdf"], ".json, .csv, .md"),
        (["denoise", "x.npy", "--cluster", "127.0.0.1:9", "--method", "tv"], "no dask scheduler answers"),
        (["denoise", "example:nothing"], "example:"),
        (["denoise", "--workers", "0", "x.npy"], "--workers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_are_one_line_and_exit_2(cli, tmp_path, monkeypatch, args, message):
    *defaults, _ = Placement.__init__.__defaults__
    monkeypatch.setattr(Placement.__init__, "__defaults__", (*defaults, 0.5))  # seconds until a scheduler is given up
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((16, 16), np.float32))
    ran = cli(*args)
    assert ran.code == 2, ran
    assert message in ran.stderr
    assert ran.stdout == ""
    lines = [line for line in ran.stderr.splitlines() if not re.match(r"Usage:|Try |\s*$", line)]
    assert len(lines) == 1
    assert list(tmp_path.glob("*denoised*")) == []


@pytest.mark.parametrize(
    "args",
    [
        ["denois"],
        ["denoise", "x.npy", "--method", "filter2nosie"],
        ["denoise", "--workers", "0", "x.npy"],
        ["--version"],
    ],
    ids=str,
)
def test_the_program_ends_as_it_does_in_process(attn, cli, args):
    """So that tests of messages and exit codes may do without a process each."""
    assert attn(*args, prog="attn") == cli(*args)


def test_methods_as_table_and_json(cli):
    assert "adaptive" in cli("methods").stdout
    rows = json.loads(cli("methods", "--json").stdout)
    assert {"method", "command", "paper", "year", "status", "needs", "note"} <= set(rows[0])
    assert json.loads(cli("denoise", "--list", "--json").stdout) == [row for row in rows if row["command"] == "denoise"]


def test_doctor(cli):
    import torch

    ran = cli("doctor", "--json")
    assert ran.code == 0
    found = json.loads(ran.stdout)
    assert found["versions"]["torch"] == torch.__version__
    assert found["devices"][0]["device"] == "cpu"
    assert "torch=" in found["devices"][0]["flags"]
    assert {part["status"] for part in found["optional"]} <= {"found", "missing"}
    assert "optional parts" in cli("doctor").stdout


def test_completion_knows_commands_and_methods(attn):
    commands = attn(env={"_ATTN_COMPLETE": "complete_bash", "COMP_WORDS": "attn den", "COMP_CWORD": "1"}, prog="attn")
    assert "denoise" in commands.stdout
    words = {"_ATTN_COMPLETE": "complete_bash", "COMP_WORDS": "attn denoise --method wa", "COMP_CWORD": "3"}
    assert "wavelet" in attn(env=words, prog="attn").stdout


def test_a_closed_pipe_is_no_fault():
    done = subprocess.run(
        f"{sys.executable} -m attn denoise --help | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("Usage: ")
    assert "Traceback" not in done.stderr
