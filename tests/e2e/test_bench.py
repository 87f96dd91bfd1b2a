"""`attn bench` as users type it."""

import csv
import json
import os
import warnings
import zipfile

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _ceilings_once(monkeypatch):
    """What the machine can do is measured by the first command alone: no test here asks how fast it is."""
    from attn.core.bench import machine

    def once(device, dtypes, measure=machine.ceilings):
        if (device, dtypes) not in CEILINGS:
            CEILINGS[device, dtypes] = measure(device, dtypes)
        return dict(CEILINGS[device, dtypes])

    monkeypatch.setattr(machine, "ceilings", once)


CEILINGS = {}
FAST = ["--dim", "32", "--rows", "16", "--repeat", "1", "--no-memory"]


def test_one_json_document_and_nothing_else(attn):
    done = attn("bench", "window+sink", "lightning", "--seq", "512", "--json", *FAST)
    assert done.code == 0
    report = json.loads(done.stdout)
    assert report["command"] == "bench"
    assert [item["details"]["label"] for item in report["items"]] == ["sdpa", "window+sink", "lightning"]
    assert all(item["status"] == "ok" and item["metrics"]["median_ms"] > 0 for item in report["items"])
    assert report["summary"]["machine"]["threads"] >= 1
    assert "torch=" in report["summary"]["machine"]["cpu_flags"]
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
    np.savez(tmp_path / "words.npz", q=np.array(["a"]), k=k, v=v)
    np.savez(tmp_path / "objects.npz", q=np.array([None]), k=k, v=v)
    np.save(tmp_path / "single.npy", q)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with zipfile.ZipFile(tmp_path / "digits.npz", "w") as archive:
        for name in "qkv":
            header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, " + b"9" * 5000 + b", 8), }\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 99999999999, 8), }\n"
        for name in "qkv":
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()


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
        ("words.npz", "q holds values of type <U1"),
        ("objects.npz", "pickled Python objects"),
        ("single.npz", "is a single array"),
        ("digits.npz", "cannot be read"),
        ("huge.npz", "cut off"),
        ("pipe.npz", "is not a regular file"),
        ("folder.npz", "is a directory"),
    ],
)
def test_bad_files_get_one_line_and_exit_1(cli, tmp_path, name, message, monkeypatch):
    """And before anything is measured or compiled."""
    from attn.core.bench import machine, measure

    for module, work in ((machine, "ceilings"), (measure, "warm")):
        monkeypatch.setattr(module, work, lambda *args, **kwargs: pytest.fail("worked before it refused"))
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
        (["--head", "9" * 5000], "no list of head numbers"),
        (["--head", "0"], "--inputs names none"),
        (["--tile"], "--inputs names none"),
        (["hip", "--set", "dsa.top_k=3"], "dsa is not measured"),
        (["hip", "--set", "hip.mask_k=abc"], "hip.mask_k: 'abc' is no size"),
        (["hip", "--set", "hip.representative=x"], "none of first, center, random"),
        (["superlinear", "--set", "superlinear.gate_scale=nan"], "is no number"),
        (["hip", "--set", "hip.sink=1", "--sweep", "hip.sink=1,2"], "both set and swept"),
        (["hip", "--sweep", "hip.mask_k="], "is no setting"),
        (["hip", "--sweep", "hip.mask_k=,"], "'' is no size"),
        (["hip", "--grid", "16x16"], "token maps"),
        (["hip", "--peers"], "Name the peers"),
        (["hip", "--set", "hip.seed=3"], "no effect without representative='random'"),
        (["hip", "--sweep", "hip.mask_refresh=1,2"], "no effect without --mode decode"),
        (["flux", "--sweep", "flux.threshold=0.5,0.7"], "no effect without mode='xattn'"),
        (["rectified", "--set", "rectified.order=raster"], "no effect without video"),
        (["hip", "dsa", "--keys", "1k"], "dsa has no budget of keys"),
        (["lightning", "--keys", "1k"], "lightning has no budget of keys"),
        (["dense", "--keys", "1k"], "dense has no budget of keys"),
        (["--quick", "--dim", "128"], "--dim would have no effect"),
        (["--quick", "--seq", "8k"], "4k tokens at most"),
        (["--selftest", "--seq", "8k"], "--seq would have no effect"),
        (["--kernels", "--seq", "8k"], "--seq would have no effect"),
        (["--target", "sm_90"], "without --kernels: --target would have no effect"),
        (["--kernels", "--target", "sm_12"], "no chip 'sm_12'"),
        (["--memory", "--mode", "decode"], "--memory measures a forward pass"),
        (["--seeds", "100000"], "more than 10000 measurements"),
        (["--seed", "9" * 30], "--seed"),
        (["--heads", "9" * 9], "needs about"),
        (["--seq", "9" * 400], "is no size"),
        (["--budget", "nan"], "--budget"),
        (["--repeat", "0"], "--repeat"),
        (["--inputs", "/dev/zero"], "no generator named"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(cli, args, message):
    done = cli("bench", *args)
    assert done.code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1 or "Usage:" in done.stderr
    assert done.stdout == ""


def test_a_peer_that_is_not_installed(cli, monkeypatch):
    """Asked for by name it is a usage error; with all the others it is left out, and the report says why."""
    from attn.core.bench.candidates import choose
    from attn.core.bench.options import BenchOptions
    from attn.core.registry import Method

    monkeypatch.setattr(Method, "missing", lambda self: ["flash-linear-attention"] if self.name == "fla" else [])
    done = cli("bench", "fla", *FAST)
    assert done.code == 2
    assert "pip install flash-linear-attention" in done.stderr
    names, left_out = choose(BenchOptions(peers=True))
    assert "fla" not in names
    assert "pip install flash-linear-attention" in left_out["fla"]


def test_python_warnings_stay_in_the_report(cli):
    """hip rounds an uneven budget up, and says so by a Python warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = cli("bench", "hip", "--set", "hip.mask_k=33", "--seq", "256", *FAST, "--json")
    assert done.code == 0, done.stderr
    (row,) = [item for item in done.report["items"] if item["details"]["label"] == "hip"]
    assert any("multiple" in text for text in row["warnings"])
    assert "Warning" not in done.stderr


def test_what_memory_does_not_hold_is_skipped(cli):
    done = cli("bench", "hip", "--seq", "256,1m", "--dim", "64", *FAST[2:], "--max-memory", "256m", "--json")
    assert done.code == 0
    states = {(item["details"]["label"], item["metrics"]["seq_len"]): item for item in done.report["items"]}
    assert states["hip", 256]["status"] == "ok"
    assert states["hip", 2**20]["status"] == "skipped"
    assert "budget of memory is 256.0 MiB" in states["hip", 2**20]["error"]


def test_what_outruns_the_budget_is_skipped_before_its_inputs_are_made(cli, monkeypatch):
    from attn.core.bench import run

    sizes = []
    make = run.generate
    monkeypatch.setattr(run, "generate", lambda *args, **kwargs: sizes.append(kwargs["len_k"]) or make(*args, **kwargs))
    done = cli("bench", "dense", "--seq", "512k", "--dim", "128", "--budget", "1", "--no-memory", "--json")
    assert {item["status"] for item in done.report["items"]} == {"skipped"}
    assert all("predicted" in item["error"] for item in done.report["items"])
    assert max(sizes) <= 16384


def test_numbers_beyond_the_dtype_are_not_an_operators_fault(cli, tmp_path):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 300, 32)).astype(np.float32) for _ in range(3))
    files = {
        "scores": (q * 1e15, k * 1e15, v),
        "alone": (q, k * 1e30, v),
        "products": (q * 1e30, k * 1e30, v),
        "values": (q, k, v * 3e37),
    }
    for name, arrays in files.items():
        np.savez(tmp_path / f"{name}.npz", **dict(zip("qkv", arrays, strict=True)))
        done = cli("bench", "dense", "lightning", "--inputs", f"{name}.npz", "--seq", "300", *FAST, "--json")
        assert done.code == 0, (name, done.stderr)
        told = [text for item in done.report["items"] for text in item["warnings"]]
        if name in ("products", "values"):  # scores of 1e30 have a right answer, one key, and may be judged
            assert any(f"{name}.npz: its " in text for text in told), name


def test_a_file_is_refused_where_it_has_other_sizes_than_asked_for(cli, tmp_path):
    q = np.ones((2, 64, 32), dtype=">f4")  # big-endian
    np.savez(tmp_path / "a.npz", q=q, k=q, v=q)
    done = cli("bench", "window+sink", "--inputs", "a.npz", "--seq", "64", "--dim", "64")
    assert done.code == 1
    assert "has head dim 32, asked for 64" in done.stderr
    done = cli("bench", "window+sink", "--inputs", "a.npz", "--seq", "64", *FAST, "--json")
    assert done.code == 0, done.stderr
    done = cli("bench", "window+sink", "--inputs", "a.npz", "--seq", "64", "--seeds", "2")
    assert done.code == 2
    assert "the same for every seed" in done.stderr


@pytest.mark.parametrize("damage", ["missing", "cut", "other arrays"])
def test_selftest_with_damaged_vectors_names_them(cli, tmp_path, monkeypatch, damage):
    import shutil

    from attn.core.attention import golden as parity

    folder = tmp_path / "golden" / "lightning"
    shutil.copytree(parity.golden_dir() / "lightning", folder)
    path = folder / "slopes.npz"
    path.chmod(0o644)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "missing":
        path.unlink()
    else:
        np.savez(path, nothing=np.zeros(3))
    monkeypatch.setattr(parity, "golden_dir", lambda: tmp_path / "golden")
    done = cli("bench", "lightning", "--selftest")
    assert done.code == 3
    (line,) = done.stderr.splitlines()
    assert "lightning/slopes" in line
    assert "Install attn again" in line
    shutil.rmtree(tmp_path / "golden")
    done = cli("bench", "lightning", "--selftest")
    assert done.code == 1
    assert "the golden vectors are not here" in done.stderr


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
    from attn.core.attention.golden import golden_dir

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


def test_operators_inside_a_model(attn, tmp_path):
    from small_languages import language_folder

    language_folder(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the quick brown fox 12345 jumps over a lazy dog. " * 20)
    model = ["--model", str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), "--seq", "256", "--tokens", "4"]
    done = attn("bench", "window+sink", *model, "--set", "window+sink.window=32", "--depths", "none", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [item["input"] for item in report["items"]] == ["sdpa @ 256", "window+sink @ 256"]
    assert report["items"][1]["metrics"]["kv_share"] < 0.2
    assert report["summary"]["ran"][-1]["ran"] == "window+sink"
    for more, words in ((["--heads", "1"], "--heads would have no effect"), (["--dense-layers", "x"], "no list of")):
        done = attn("bench", "window+sink", *model, *more)
        assert (done.code, done.stderr.count("\n")) == (2, 1)
        assert words in done.stderr
    done = attn("bench", "window+sink", "--depths", "0")
    assert done.code == 2
    assert "without a --model: --depths would have no effect" in done.stderr
    done = attn("bench", "--model", str(tmp_path / "model"), "--text", str(tmp_path / "none.txt"), "--seq", "256")
    assert done.code == 1
    assert "none.txt: does not exist" in done.stderr
