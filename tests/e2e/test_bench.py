"""`attn bench` as users type it."""

import csv
import json

import numpy as np
import pytest

FAST = ["--dim", "32", "--rows", "16", "--repeat", "1", "--no-memory"]


def test_one_json_document_and_nothing_else(attn):
    done = attn("bench", "window+sink", "lightning", "--seq", "512", "--json", *FAST)
    assert done.code == 0
    report = json.loads(done.stdout)
    assert report["command"] == "bench"
    assert [item["details"]["label"] for item in report["items"]] == ["sdpa", "window+sink", "lightning"]
    assert all(item["status"] == "ok" and item["metrics"]["median_ms"] > 0 for item in report["items"])
    assert report["summary"]["machine"]["threads"] >= 1
    assert report["arguments"]["lengths"] == [512]


def test_the_table_a_report_and_a_plot(cli, tmp_path):
    done = cli("bench", "window+sink", "--seq", "256..1k", *FAST, "--report", "r.csv", "--plot", "p.png")
    assert done.code == 0, done.stderr
    for word in ("operator", "x dense", "recall", "scaling: time", "ceilings:"):
        assert word in done.stdout
    with open(tmp_path / "r.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert float(rows[0]["median_ms"]) > 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_html_report_holds_the_plot(cli, tmp_path):
    done = cli("bench", "window+sink", "--seq", "256,512", *FAST, "--report", "r.html", "--plot", "p.png")
    assert done.code == 0, done.stderr
    assert "data:image/png" in (tmp_path / "r.html").read_text()


def test_files_of_real_qkv(cli, tmp_path):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 300, 32)).astype(np.float16) for _ in range(3))
    np.savez(tmp_path / "ok.npz", q=q, k=k, v=v)
    done = cli("bench", "hip", "--inputs", "ok.npz", "--seq", "300", "--head", "1", *FAST, "--json")
    assert done.code == 0, done.stderr
    assert done.report["summary"]["inputs"][0]["heads"] == [1]


def _broken(tmp_path):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 300, 32)).astype(np.float32) for _ in range(3))
    np.savez(tmp_path / "nan.npz", q=q, k=np.where(k > 2, np.nan, k), v=v)
    np.savez(tmp_path / "shapes.npz", q=q, k=k[:, :200], v=v)
    np.savez(tmp_path / "no_v.npz", q=q, k=k)
    np.savez(tmp_path / "flat.npz", q=q[0], k=k[0], v=v[0])
    np.savez(tmp_path / "short.npz", q=q, k=k, v=v)
    (tmp_path / "text.npz").write_text("hello")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan.npz", "k holds NaN"),
        ("shapes.npz", "do not fit together"),
        ("no_v.npz", "has no array v"),
        ("flat.npz", "has shape [300, 32]"),
        ("short.npz", "holds 300 positions, asked for 512"),
        ("text.npz", "cannot be read"),
        ("missing.npz", "does not exist"),
    ],
)
def test_bad_files_get_one_line_and_exit_1(cli, tmp_path, name, message):
    _broken(tmp_path)
    done = cli("bench", "hip", "--inputs", name, "--seq", "512", *FAST)
    assert done.code == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"attn: {name}: ")
    assert message in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seq", "0"], "'0' is no size"),
        (["--seq", "abc"], "'abc' is no size"),
        (["--dim", "7"], "multiples of 8"),
        (["hop"], "Did you mean hip?"),
        (["hip", "--inputs", "neddle"], "Did you mean needle?"),
        (["hip", "--seq", "8g"], "needs about"),
        (["hip", "--set", "hip.maskk=3"], "Did you mean mask_k?"),
        (["hip", "--set", "hip.mask_k=1,2"], "Use --sweep"),
        (["hip", "--sweep", "hip"], "is no setting"),
        (["hip", "--sweep", "hip.mask_k=1k,2k", "--sweep", "hip.sink=1,2"], "one parameter of one operator"),
        (["hip", "--no-causal"], "only causal"),
        (["bra"], "--grid"),
        (["--mode", "training"], "'training' is not one of"),
        (["--budget", "0"], "--budget"),
        (["--report", "x.txt"], "reports end in"),
        (["--plot", "x.txt"], "figures end in"),
        (["--head", "a"], "no list of head numbers"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(cli, args, message):
    done = cli("bench", *args)
    assert done.code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_skipped_rows_carry_their_prediction(cli):
    # 64k: a machine fast enough to do that within a second does not exist; 16k it was
    done = cli("bench", "oracle", "--seq", "64k", "--dim", "128", "--budget", "1", "--no-memory", "--json")
    by_name = {item["details"]["label"]: item for item in done.report["items"]}
    assert done.code == 0
    assert "skipped (predicted" in by_name["oracle"]["error"]
    assert "median_ms" not in by_name["oracle"]["metrics"]


def test_list(cli):
    done = cli("bench", "--list", "--json")
    names = {row["method"] for row in json.loads(done.stdout)}
    assert {"hip", "lightning", "bra", "oracle", "fla"} <= names


@pytest.mark.slow
def test_selftest(attn):
    done = attn("bench", "--selftest", "--json")
    assert done.code == 0, done.stderr
    assert len(done.report["items"]) == 38
    assert all(item["status"] == "ok" for item in done.report["items"])


def test_selftest_exits_3_when_a_vector_differs(attn, tmp_path, monkeypatch):
    """The golden vectors are read from beside the package: a copy of it with one number changed must be noticed."""
    import shutil

    import attn as package
    from attn.core.bench.parity import golden_dir

    source = golden_dir().parent
    copy = tmp_path / "site" / "attn"
    shutil.copytree(source, copy, symlinks=False, ignore=shutil.ignore_patterns("__pycache__", "vectors"))
    path = copy / "golden" / "lightning" / "slopes.npz"
    with np.load(path) as stored:
        data = {name: stored[name] for name in stored.files}
    data["h8"] = data["h8"] + 0.01
    path.chmod(0o644)
    np.savez(path, **data)
    monkeypatch.setenv("PYTHONPATH", str(copy.parent))
    done = attn("bench", "lightning", "--selftest")
    assert done.code == 3
    assert "lightning/slopes" in done.stderr
    assert package.__version__
