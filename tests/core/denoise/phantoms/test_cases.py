"""The evaluation sets: what chose the options and what judges them share nothing; a stale score counts for nothing."""

import importlib.util
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from denoise_cases import FIRST_SEED, REAL, SETS, Case, Scaled, cases, make

from attn.core.denoise.phantoms.phantom import KERNELS, KINDS

TABLE = Path(__file__).resolve().parents[3] / "benchmarks" / "denoise_table.py"


@pytest.fixture(scope="module")
def table():
    """The benchmark script as a module."""
    spec = importlib.util.spec_from_file_location("denoise_table", TABLE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TABLE.parents[1])  # and back to what it was, whatever the script adds
        patch.setitem(sys.modules, "denoise_table", module)
        spec.loader.exec_module(module)
        yield module


def test_the_halves_share_nothing():
    dev, test = cases("dev"), cases("test")
    assert len(dev) + len(test) == len(cases()) == len({(case.split, case.name) for case in cases()})
    sources = [{case.source for case in half if case.group != "phantom"} for half in (dev, test)]
    assert not sources[0] & sources[1]
    for which in (0, 1):  # anatomy, noise
        seeds = [{case.seeds[which] for case in half if case.group == "phantom"} for half in (dev, test)]
        assert not seeds[0] & seeds[1]
    assert max(case.seeds[1] for case in dev if case.group == "phantom") < FIRST_SEED["test"]


def test_every_half_has_every_kind_dose_and_kernel():
    for split in ("dev", "test"):
        phantoms = cases(split, ("phantom",))
        assert len(phantoms) == 12
        assert {(case.source, case.dose) for case in phantoms} == set(product(KINDS, (0.1, 0.25, 0.5)))
        assert {case.kernel for case in phantoms} == set(KERNELS)
    assert [sum(case.group == group for case in cases()) for group in SETS] == [1, 24, 3, 15]
    assert sorted(REAL.values()) == ["dev"] * 8 + ["test"] * 7


def test_a_phantom_case_is_scaled_as_a_window_does():
    case = next(case for case in cases("dev") if case.name == "phantom-inserts-0.1-smooth")
    scaled = make(case, Path())
    assert (scaled.noisy.shape, scaled.noisy.dtype, scaled.valid) == ((320, 320), np.float32, None)
    assert (scaled.noisy.min(), scaled.noisy.max()) == (0, 1)
    assert 0.005 < (scaled.noisy - scaled.truth).std() < 0.05


def test_a_real_case_is_read(data_dir):
    case = next(case for case in cases("dev") if case.name == "real-ge_rhapsode_128_small")
    scaled = make(case, data_dir)
    assert scaled.noisy.shape == (128, 128)
    assert (scaled.noisy != scaled.truth).any()


def test_a_line_counts_for_the_same_pixels_code_and_options_alone(table, tmp_path, monkeypatch):
    noisy = np.random.default_rng(0).random((64, 64), np.float32)
    monkeypatch.setattr(table, "make", lambda case, data: Scaled(noisy, noisy * 0.5, None))
    case, keys = Case("phantom-x", "phantom", "dev", "head", 0.1, "smooth", (0, 0)), {table.Row("tv"): "code"}
    lines, faults = table.score_case(case, keys, Path(), {})
    assert [line["row"] for line in lines] == [table.NOISY, "tv"]
    assert faults == []
    known = {lines[1]["key"]: {**lines[1], "seconds": -1.0}}
    assert table.score_case(case, keys, Path(), known)[0][1]["seconds"] == -1
    assert table.score_case(case, {table.Row("tv"): "other code"}, Path(), known)[0][1]["seconds"] >= 0
    noisy[0, 0] += 0.1
    assert table.score_case(case, keys, Path(), known)[0][1]["seconds"] >= 0
    file = tmp_path / "scores.jsonl"
    file.write_text(json.dumps(lines[1]) + "\n" + json.dumps(lines[0])[:30], encoding="utf-8")
    assert list(table.kept(file)) == [lines[1]["key"]]  # half a line of a run that was killed


def test_code_of_a_method_is_its_own(table):
    names = {path.name for path in table.sources(["attn.core.denoise.zs_n2n"])}
    assert {"zs_n2n.py", "method.py"} <= names  # it takes a step from Filter2Noise
    assert not names & {"bm3d.py", "options.py", "base.py"}
    assert table.code_of("tv") != table.code_of("nlm")


def test_the_table(table):
    some = [case for case in cases("dev") if case.name.startswith(("phantom-head", "decimated"))]
    scores = {("dev", case.name, table.NOISY): table.Score(30.0, 0.8, 0.0) for case in some}
    scores |= {("dev", case.name, "tv"): table.Score(40.0, 0.9, 1.5) for case in some}
    scores["dev", some[0].name, "nlm"] = table.Score(41.0, 0.95, 2.0)
    text = table.tables(some, ["tv", "nlm", "bm3d"], scores)
    assert len(text) == 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text[0].splitlines()]
    assert rows[0] == ["dev", "phantom (3)", "decimated (2)", "CPU seconds a slice", "best PSNR of 5"]
    assert rows[2] == ["tv", "40.000 / 0.9000", "40.000 / 0.9000", "1.50", "4"]
    assert rows[3] == ["nlm", "41.000 / 0.9500 (on 1)", "–", "2.00", "1"]
    assert rows[4:] == [["bm3d", "–", "–", "–", "0"], ["noisy input", "30.000 / 0.8000", "30.000 / 0.8000", "–", "0"]]
