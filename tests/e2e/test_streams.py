"""Standard streams that cannot be written, and text of others on its way to a terminal."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import attn.cli

CLI = Path(attn.cli.__file__).parent
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")
EVIL = "\x1b]0;owned\x07\x1b[31m[bold red]x[/]:smile:\u202egnp\nattn: all is well"


def shell(line: str) -> subprocess.CompletedProcess:
    command = line.replace("attn", f"{sys.executable} -m attn")
    return subprocess.run(command, shell=True, executable="/bin/bash", capture_output=True, text=True, check=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("attn methods >/dev/full", 1, "No space left on device"),
        ("attn methods --json >/dev/full", 1, "No space left on device"),
        ("attn --help >/dev/full", 1, "No space left on device"),
        ("attn --version >&-", 1, "it is closed"),
        ("attn methods | head -0; exit ${PIPESTATUS[0]}", 141, ""),
        ("attn methods >/dev/null 2>&-", 0, ""),
        ("attn nothing 2>/dev/full", 2, ""),
        ("attn methods >&- 2>&-", 1, ""),
        ("attn denoise - <&-", 2, "- reads a list from standard input, which is closed."),
    ],
)
def test_streams_that_cannot_be_written(line, code, reason):
    done = shell(line)
    assert done.returncode == code, done
    assert done.stderr.count("\n") == bool(reason), done.stderr
    assert reason in done.stderr
    assert "internal error" not in done.stderr


def test_only_one_file_prints():
    """``typer.echo``, ``print``, a console or a stream of its own would let a file's name steer the terminal."""
    printing = re.compile(r"\bprint\(|\becho\(|secho|console\.print|\.stdout\.(write|buffer)|\.stderr\.write|Console\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(CLI.glob("*.py"))
        if path.name not in ("say.py", "streams.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if printing.search(line)
    ]
    assert found == ["show.py: self._progress = Progress(*columns, console=Console(stderr=True), transient=True)"]


def test_a_name_in_a_progress_bar_is_no_markup(capsys, monkeypatch):
    from attn.cli.show import Watch
    from attn.core.report.model import Item

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    watch = Watch(quiet=False)
    watch.step("[/closing" + EVIL, 1, 2)
    watch.item(Item("[/" + EVIL, None, "failed", 0.0, error=EVIL), 1, 2)
    watch.close()
    shown = capsys.readouterr().err
    assert "owned\x07" not in shown
    assert "[bold red]x[/]:smile:" in shown
    assert "\nattn: all is well" not in shown


@pytest.mark.parametrize(
    "args",
    [
        ["denoise", EVIL],
        ["denoise", "x.npy", "--method", EVIL],
        ["denoise", "x.npy", "--steps", EVIL],
        ["denoise", "x.npy", "--region", EVIL],
        ["denoise", "x.npy", f"--{EVIL}"],
        ["denoise", "x.npy", "--reference", EVIL],
        ["denoise", "x.npy", "--filter", EVIL],
        ["denoise", "x.npy", "--save-filter", EVIL],
        ["denoise", "x.npy", "--report", EVIL],
        ["denoise", "x.npy", "--device", EVIL],
        ["denoise", "x.npy", "--window", EVIL],
        ["denoise", "x.npy", "--fit", EVIL, "-v"],
        ["denoise", "x.npy", "--max-memory", EVIL],
        ["segment", EVIL],
        ["segment", "x.npy", "--model", EVIL],
        ["segment", "x.npy", "--truth", EVIL],
        ["segment", "x.npy", "--compare", EVIL],
        ["bench", EVIL],
        ["bench", "--set", EVIL],
        ["bench", "--seq", EVIL],
        ["bench", "--inputs", EVIL],
        ["bench", "dense", "--plot", EVIL],
        ["retrieve", EVIL],
        ["retrieve", "index", EVIL, "-o", "i"],
        ["retrieve", "search", EVIL, EVIL],
        ["retrieve", "similar", EVIL, EVIL],
        ["retrieve", "dedup", EVIL],
        ["retrieve", "eval", EVIL],
        ["retrieve", "tune-temperature", EVIL],
        ["retrieve", "info", EVIL],
        ["retrieve", "export", EVIL, "-o", EVIL],
        ["retrieve", "compact", EVIL],
        ["train", EVIL],
        ["train", "fsgnet", EVIL],
        ["train", "fsgnet", "--data", EVIL, "-o", EVIL],
        ["train", "ga-dms", "--data", EVIL, "-o", "o"],
        ["train", "priorclip", "--data", EVIL, "-o", "o"],
        ["train", "image-text-head", "--data", EVIL, "-o", "o"],
        ["methods", EVIL],
        ["doctor", EVIL],
        ["man", f"{EVIL}\0"],
        [EVIL],
    ],
    ids=lambda args: " ".join("EVIL" if EVIL in word else word for word in args),
)
def test_no_word_of_others_steers_the_terminal(cli, tmp_path, args):
    np.save(tmp_path / "x.npy", np.zeros((16, 16), np.float32))
    ran = cli(*args)
    assert ran.code in (1, 2), ran
    assert not CONTROL.search(ran.stdout), ran.stdout
    assert not CONTROL.search(ran.stderr), ran.stderr
    assert "\nattn: all is well" not in ran.stderr.replace(f"{EVIL!r}", "")
    assert ran.stderr


def test_results_of_a_file_with_such_a_name(cli, tmp_path):
    name = EVIL.replace("/", "") + os.fsdecode(b"\xff") + ".npy"
    np.save(tmp_path / name, np.random.default_rng(0).random((16, 16), np.float32))
    for suffix in (".md", ".html", ".csv", ".json"):
        ran = cli("denoise", name, "-m", "tv", "--figure", "--overwrite", "--report", f"r{suffix}")
        assert ran.code == 0, ran
        assert not CONTROL.search(ran.stdout + ran.stderr)
    assert not CONTROL.search((tmp_path / "r.md").read_text())
    assert json.loads((tmp_path / "r.json").read_text())["items"][0]["input"] == name
    listed = f"{name}\0"
    ran = cli("denoise", "-", "-0", "-m", "tv", "-o", "out", "--json", stdin=os.fsencode(listed))
    assert [item["status"] for item in ran.report["items"]] == ["ok"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strength", "nan"], "--strength"),
        (["--strength", "inf"], "--strength"),
        (["--strength", "1e300"], "--strength"),
        (["--sigma", "nan", "-m", "tv"], "--sigma"),
        (["--sigma", "1e308", "-m", "wavelet"], "--sigma"),
        (["--fill", "nan"], "--fill"),
        (["--fill", "inf"], "--fill"),
        (["--item-timeout", "nan"], "--item-timeout"),
        (["--item-timeout", "inf"], "--item-timeout"),
        (["--simulate-dose", "nan"], "--simulate-dose"),
        (["--region", "0,0,5,5=1e300"], "--region"),
        (["--region", "0,0,5,5=nan"], "--region"),
        (["--window", "1e300,1"], "--window"),
        (["--seed", "99999999999999999999"], "--seed"),
        (["--workers", "100000"], "--workers"),
        (["--threads", "0"], "--threads"),
        (["--threads", "99999999"], "--threads"),
        (["--steps", "9999999999999"], "--steps"),
        (["-o", "clean.npy", "x.npy"], "-o clean.npy names one file"),
        (["-o", "x.npy/y"], "-o x.npy/y"),
        (["-o", "a\0b"], "-o"),
        (["--report", "x.npy/r.html"], "--report"),
        (["--report", "d.html"], "--report d.html: is a directory"),
        (["--report", "a\0b.json"], "--report"),
        (["--save-filter", "x.npy/f.safetensors"], "--save-filter"),
        (["--save-filter", "f.bin"], "--save-filter f.bin: the file is written as .safetensors"),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, list) else "",
)
def test_what_can_never_work_is_refused_before_the_work(cli, tmp_path, args, message):
    np.save(tmp_path / "x.npy", np.zeros((16, 16), np.float32))
    np.save(tmp_path / "y.npy", np.zeros((16, 16), np.float32))
    (tmp_path / "d.html").mkdir()
    ran = cli("denoise", "y.npy", *args)
    assert ran.code == 2, ran
    assert message in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.html", "x.npy", "y.npy"]


def test_a_report_that_cannot_be_written_costs_nothing_else(cli, tmp_path, monkeypatch):
    from attn.core.errors import InputError

    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((16, 16), np.float32))

    def full(report, path):
        raise InputError(path, "cannot be written (No space left on device)")

    monkeypatch.setattr("attn.cli.show.write_report", full)
    ran = cli("denoise", "x.npy", "-m", "tv", "--json", "--report", "r.json")
    assert ran.code == 1
    assert ran.stderr == "attn: r.json: cannot be written (No space left on device)\n"
    assert ran.report["items"][0]["status"] == "ok"
    assert cli("denoise", "x.npy", "-m", "tv", "--json").code == 0  # the next run is not blamed


def test_a_traceback_is_for_who_asks(tmp_path, monkeypatch, cli):
    from typer.testing import CliRunner

    from attn.cli.main import app

    np.save(tmp_path / "x.npy", np.zeros((16, 16), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attn.core.denoise.run.noise_metrics", lambda *_: 1 / 0)
    for verbose in ([], ["-v"]):
        ran = CliRunner().invoke(app, ["denoise", "x.npy", "-m", "tv", "--json", "--report", "r.json", *verbose])
        assert ran.exit_code == 1
        for text in (ran.stdout, (tmp_path / "r.json").read_text()):
            details = json.loads(text)["items"][0]["details"]
            assert ("traceback" in details) == bool(verbose)
        assert ("Traceback" in ran.stderr) == bool(verbose)


@pytest.mark.parametrize("where", ["attn.cli.show.read_list", "attn.core.denoise.run.expand_inputs"])
def test_an_interrupt_before_the_first_file_gives_a_report(cli, tmp_path, monkeypatch, where):
    import attn.core.denoise.run  # noqa: F401

    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    ran = cli("denoise", "-", "[", "--json", "--report", "r.json")
    assert ran.code == 130
    assert ran.report["summary"]["left"] == ["-", "["]
    assert json.loads((tmp_path / "r.json").read_text()) == ran.report
    assert ran.stderr == "attn: interrupted, 2 inputs left; the same command again goes on from here\n"


def test_an_interrupt_while_fitting_gives_a_report(cli, tmp_path, monkeypatch):
    (tmp_path / "[").mkdir()
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / "[" / name, np.random.default_rng(0).random((16, 16), np.float32))

    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("attn.core.denoise.series.fit_filter", interrupted)
    ran = cli("denoise", "[", "--fit", "middle", "--json", "-o", "out")
    assert ran.code == 130
    assert ran.report["summary"]["left"] == ["[/a.npy", "[/b.npy"]
    assert "interrupted" in cli("denoise", "[", "--fit", "middle", "-o", "out").stderr


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP))]
)
def test_signals_at_any_time(tmp_path, number):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((64, 64), np.float32))
    command = [sys.executable, "-m", "attn", "denoise", "a.npy", "-m", "filter2noise", "--steps", "100000", "--json"]
    for wait in (0.7, 3.0):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(wait)
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
        assert "Traceback" not in err or wait < 1  # before our first line Python itself answers
        if process.returncode == 130 and out:
            assert json.loads(out)["summary"]["left"] == ["a.npy"]
