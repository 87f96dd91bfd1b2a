"""A benchmark run as a whole, on small inputs: what is reported is what was asked for, measured, and consistent."""

import math

import numpy as np
import pytest

from attn.core.bench import GENERATOR_NAMES, measure
from attn.core.bench import run as bench
from attn.core.bench.inputs import GENERATORS
from attn.core.bench.options import BenchOptions, convert, parse_setting
from attn.core.bench.result import add_speedups
from attn.core.errors import InputError, UsageError

SMALL = {"head_dim": 32, "rows": 32, "memory": False, "repeat": 1}


def test_the_names_for_completion_are_the_generators():
    assert set(GENERATOR_NAMES) == set(GENERATORS)


@pytest.fixture
def no_ceilings(monkeypatch):
    """The machine's ceilings take a second a run and are measured by the tests that look at them."""
    monkeypatch.setattr(bench.machine, "ceilings", lambda device, dtypes: {"gflops_float32": 100.0, "copy_gb_s": 10.0})


def items(**options):
    report = bench.run(BenchOptions(**{**SMALL, "lengths": (512,), **options}))
    return {item.details.get("label", item.input): item for item in report.items}, report


def summary(report):
    """As JSON has it, sections included."""
    return report.to_dict()["summary"]


def test_every_language_operator_is_measured_against_dense():
    found, report = items(lengths=(1024,))
    language = {"dense", "hip", "dsa", "hisa", "superlinear", "lightning", "flux", "window+sink", "blocktopk", "oracle"}
    assert set(found) == language | {"sdpa"}
    assert report.exit_code == 0
    for name, item in found.items():
        assert item.status == "ok", item.error
        m = item.metrics
        assert m["median_ms"] > 0
        assert 0 < m["ceiling_share"] < 5
        assert m["gflops_executed"] >= 0.999 * m["gflops_useful"] > 0, name
        assert m["speedup"] > 0
        if "mass_recall" in m:
            assert 0 < m["mass_recall"] <= 1 + 1e-6
            assert m["mass_recall"] <= m["oracle_recall"] + 1e-6, name
            assert 0 < m["density"] <= 1
    assert found["sdpa"].metrics["speedup"] == 1
    for exact in ("sdpa", "dense", "lightning"):
        assert found[exact].metrics["relative_error"] < 1e-5
    assert summary(report)["ceilings"]["gflops_float32"] > 0
    assert len(summary(report)["inputs"][0]["sha256"]) == 64


def test_several_lengths_are_fitted(no_ceilings):
    _, report = items(operators=("lightning",), lengths=(256, 512, 1024))
    rows = {row["operator"]: row for row in summary(report)["scaling"]}
    assert set(rows) == {"lightning", "sdpa"}
    assert rows["lightning"]["lengths"] == "256..1k"
    assert "crossover" in rows["lightning"]
    assert "crossover" not in rows["sdpa"]


def test_vision_operators_on_a_grid(no_ceilings):
    found, _ = items(operators=("bra", "halo"), grid=(16, 16), lengths=(256,), settings={"bra": {"n_win": 4}})
    assert [found[name].status for name in ("sdpa", "bra", "halo")] == ["ok"] * 3
    assert found["bra"].details["causal"] is False


def test_an_operator_that_is_not_causal_gets_its_own_baseline(no_ceilings):
    found, _ = items(operators=("window+sink", "rectified"), lengths=(512,))
    assert found["sdpa"].details["causal"]
    assert not found["sdpa (not causal)"].details["causal"]
    assert found["rectified"].metrics["speedup"] == pytest.approx(
        found["sdpa (not causal)"].metrics["median_ms"] / found["rectified"].metrics["median_ms"]
    )


def test_backward(no_ceilings):
    found, _ = items(operators=("lightning", "superlinear"), backward=True, lengths=(256,))
    for name in ("sdpa", "lightning", "superlinear"):
        assert 0 < found[name].metrics["backward_ms"] <= found[name].metrics["max_ms"]


def test_decode(no_ceilings):
    found, _ = items(operators=("hip", "lightning", "window+sink"), mode="decode", lengths=(2048,))
    for name in ("sdpa", "hip", "lightning", "window+sink"):
        assert found[name].status == "ok", found[name].error
    assert found["lightning"].metrics["relative_error"] < 1e-4


def test_sweep_makes_one_row_a_value(no_ceilings):
    found, _ = items(operators=("hip",), sweep=("hip", "mask_k", (64, 128)), lengths=(1024,))
    assert set(found) == {"sdpa", "hip mask_k=64", "hip mask_k=128"}
    assert found["hip mask_k=64"].metrics["keys_attended"] < found["hip mask_k=128"].metrics["keys_attended"]


def test_equal_budget_is_about_equal(no_ceilings):
    found, _ = items(operators=("blocktopk", "window+sink", "oracle"), keys=300, lengths=(2048,))
    for name in ("blocktopk", "window+sink"):
        m = found[name].metrics
        assert 150 <= m["keys_searched"] + m["keys_attended"] <= 450, name


def test_what_outruns_the_budget_is_skipped_with_its_prediction(no_ceilings, monkeypatch):
    monkeypatch.setattr(measure, "PILOT", 256)
    monkeypatch.setattr(measure.timing, "SLOW", 0.0)
    found, report = items(operators=("window+sink",), lengths=(4096,), budget=1e-6)
    assert found["sdpa"].status == "skipped"
    assert "predicted" in found["sdpa"].error
    assert "median_ms" not in found["sdpa"].metrics
    assert "speedup" not in found["window+sink"].metrics
    assert report.exit_code == 0


def test_the_baseline_of_a_large_map_is_predicted_too(no_ceilings, monkeypatch):
    monkeypatch.setattr(measure, "PILOT", 256)
    monkeypatch.setattr(measure.timing, "SLOW", 0.0)
    found, _ = items(operators=("halo",), grid=(64, 64), lengths=(4096,), budget=1e-6)
    assert "predicted" in found["sdpa"].error
    assert found["halo"].status == "ok"


def test_a_failed_exactness_gate_fails_the_row(no_ceilings, monkeypatch):
    monkeypatch.setitem(measure.GATE, __import__("torch").float32, 0.0)
    found, report = items(operators=("dense",), lengths=(256,))
    assert found["dense"].status == "failed"
    assert "exactness gate" in found["dense"].error
    assert found["dense"].details["gate_failed"]
    assert report.exit_code == 3


def test_an_operator_that_raises_fails_alone(no_ceilings, monkeypatch):
    found, report = items(operators=("hip", "lightning"), settings={"hip": {"mask_k": -5}}, lengths=(256,))
    assert found["hip"].status == "failed"
    assert "mask_k" in found["hip"].error
    assert found["lightning"].status == "ok"
    assert report.exit_code == 1


def test_real_files(no_ceilings, tmp_path):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 300, 32)).astype(np.float16) for _ in range(3))
    np.savez(tmp_path / "ok.npz", q=q, k=k, v=v, scale=np.float32(0.2))
    np.savez(tmp_path / "nan.npz", q=q, k=k, v=np.where(v > 2, np.nan, v))
    found, report = items(operators=("window+sink",), inputs=(str(tmp_path / "ok.npz"),), lengths=(300,))
    assert found["window+sink"].details["inputs"] == "ok.npz"
    assert summary(report)["inputs"][0]["seed"] is not None
    found, _ = items(operators=("window+sink",), inputs=(str(tmp_path / "ok.npz"),), lengths=(700,), tile=True)
    assert "tiled" in found["window+sink"].details["inputs"]
    with pytest.raises(InputError, match="NaN"):
        items(inputs=(str(tmp_path / "nan.npz"),), lengths=(300,))
    with pytest.raises(InputError, match="300"):
        items(inputs=(str(tmp_path / "ok.npz"),), lengths=(700,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operators": ("hop",)}, "Did you mean hip"),
        ({"inputs": ("neddle",)}, "Did you mean needle"),
        ({"head_dim": 7}, "multiples of 8"),
        ({"num_heads": 4, "num_kv_heads": 3}, "does not divide"),
        ({"lengths": (2**33,)}, "needs about"),
        ({"operators": ("hip",), "causal": False}, "only causal"),
        ({"operators": ("rectified",), "causal": True}, "not causal"),
        ({"operators": ("hip",), "grid": (16, 16), "lengths": (300,)}, "has not 300 tokens"),
        ({"backward": True, "mode": "decode"}, "exclude each other"),
        ({"device": "cuda:99"}, "cuda:99 is not here"),
        ({"dtype": "fp31"}, "no dtype named"),
        ({"operators": ("bra",)}, "--grid"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_allocated(options, message):
    with pytest.raises(UsageError, match=message):
        items(**options)


def test_settings_take_the_type_of_the_parameter():
    assert parse_setting("hip.mask_k=128,1k") == ("hip", "mask_k", ["128", "1k"])
    assert convert("hip", "mask_k", "1k") == 1024
    assert convert("hip", "sliding_window", "0") == 0
    assert convert("hip", "representative", "center") == "center"
    assert convert("superlinear", "backward_factor", "3.0") == 3.0
    assert convert("rectified", "video", "4x8x16") == (4, 8, 16)
    assert convert("rectified", "video", "none") is None
    assert convert("bra", "pad", "yes") is True
    with pytest.raises(UsageError, match="from Python"):
        convert("bra", "lepe", "x")
    for text, message in (("hip.maskk=3", "Did you mean mask_k"), ("hip.mask_k=many", "is no size")):
        name, parameter, values = parse_setting(text)
        with pytest.raises(UsageError, match=message):
            convert(name, parameter, values[0])
    for text in ("hip", "hip.mask_k", "mask_k=3", "hip.=3", "hip.mask_k="):
        with pytest.raises(UsageError, match="is no setting"):
            parse_setting(text)
    with pytest.raises(UsageError, match="Did you mean hip"):
        parse_setting("hop.mask_k=3")


def test_the_plot_is_drawn(no_ceilings, tmp_path):
    items(operators=("window+sink", "hip"), lengths=(256, 512), plot=tmp_path / "out.svg")
    text = (tmp_path / "out.svg").read_text()
    assert "sequence length" in text
    assert "attention mass kept" in text


def test_speedups_compare_like_with_like(no_ceilings):
    _, report = items(operators=("window+sink",), lengths=(256, 512), seeds=2, inputs=("gaussian", "lowrank"))
    again = add_speedups(list(report.items))
    assert len(report.items) == 2 * 2 * 2 * 2
    for item in again:
        base = next(
            other for other in report.items
            if other.details["label"] == "sdpa" and other.metrics["seq_len"] == item.metrics["seq_len"]
            and all(other.details[key] == item.details[key] for key in ("inputs", "seed"))
        )  # fmt: skip
        assert math.isclose(item.metrics["speedup"], base.metrics["median_ms"] / item.metrics["median_ms"])
