"""`attn probe collapse` on a tiny encoder: results, resuming, what is warned of and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_folders import text_folder

from attn.core.bundles import Placement
from attn.core.errors import UsageError
from attn.core.options import OptionError
from attn.core.probe.collapse.options import CollapseOptions, Texts, parse_buckets, parse_lengths
from attn.core.probe.collapse.run import run
from attn.core.report.sections import Trust
from attn.core.retrieve.options.encoder import ModelOptions


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return text_folder(tmp_path / "model")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    words = "cat dog river town old new red blue near far".split()
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, length in enumerate([2, 3, 4, 5, 8, 9, 10, 12, 20, 22, 25, 28, 40]):
        (folder / f"{number:02}.txt").write_text(" ".join(generator.choice(words, length)) + ".", encoding="utf-8")
    return folder


def options(model: Path, collection: Path, output: Path, **changed: Any) -> CollapseOptions:
    given = {"lengths": (), "buckets": 3, "measured": 2} | changed
    return CollapseOptions(Texts((str(collection),), str(output)), ModelOptions(str(model)), **given)


def test_every_temperature_and_all_together(model: Path, collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(options(model, collection, out, temperatures=(1.0, 0.5)))
    assert [item.status for item in report.items] == ["ok", "ok"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"collapse{part}.{suffix}" for part in ("", "-T1", "-T0.5") for suffix in ("png", "npz", "json")
    )
    with np.load(out / "collapse.npz") as arrays:
        assert arrays["temperature"].tolist() == [1.0, 0.5]
        assert arrays["pair_similarity"].shape == (2, 3)
        assert arrays["cross_similarity"].shape == (2, 3, 3)
        assert arrays["hf_ratio"].shape == (2, 3, 3)
        assert arrays["sigma"].shape == (2, 3, 2)
        assert (arrays["sigma"][1] > arrays["sigma"][0]).all()  # sharper attention stretches more
    for item in report.items:
        assert item.metrics["texts"] == 13
        trust = next(section for section in item.sections if isinstance(section, Trust))
        assert [line.check for line in trust.lines] == [
            "randomised weights: layers", "randomised weights: similarity by length",
        ]  # fmt: skip


def test_an_untrained_encoder_is_not_trusted(model: Path, collection: Path, tmp_path: Path) -> None:
    """The tiny encoder has random weights: every line is red."""
    lengths = {"lengths": (24, 32), "rounds": 1}
    report = run(options(model, collection, tmp_path / "out", temperatures=(1.0,), **lengths))
    trust = next(section for section in report.items[0].sections if isinstance(section, Trust))
    assert [line.check for line in trust.lines][-1] == "pass key"
    assert not any(line.passed for line in trust.lines)


def test_a_second_run_reads_what_the_first_measured(model: Path, collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(options(model, collection, out, temperatures=(1.0,)))
    report = run(options(model, collection, out, temperatures=(1.0, 0.5)))
    assert [item.status for item in report.items] == ["skipped", "ok"]
    assert not report.items[0].warnings
    assert (out / "collapse.png").exists()
    (collection / "new.txt").write_text("another river", encoding="utf-8")
    changed = run(options(model, collection, out, temperatures=(1.0, 0.5)))
    assert all("other settings" in item.warnings[0] for item in changed.items)
    again = run(options(model, collection, out, temperatures=(1.0,), placement=Placement(overwrite=True)))
    assert again.items[0].metrics["texts"] == 14


def test_what_is_left_out_is_said(model: Path, collection: Path, tmp_path: Path) -> None:
    (collection / "empty.txt").write_text("  ", encoding="utf-8")
    (collection / "latin.txt").write_bytes(b"caf\xe9")
    report = run(options(model, collection, tmp_path / "out", temperatures=(1.0,), lengths=(24, 4096), rounds=1))
    said = " | ".join(report.notices)
    assert "4096 are left out" in said
    assert "1 of 14 texts are empty" in said
    failed = [item for item in report.items if item.status == "failed"]
    assert [item.input for item in failed] == [str(collection / "latin.txt")] or failed[0].input.endswith("latin.txt")
    assert "UTF-8" in str(failed[0].error)
    assert report.exit_code == 1


def test_the_report_is_one_json_document(model: Path, collection: Path, tmp_path: Path) -> None:
    report = run(options(model, collection, tmp_path / "out", temperatures=(1.0,)))
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["items"][0]["details"]["buckets"][0]["texts"] == 5


def test_bad_input(model: Path, collection: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"no text can be read\."):
        run(options(model, empty, tmp_path))
    (empty / "one.txt").write_text("one", encoding="utf-8")
    with pytest.raises(UsageError, match="4 texts or more, got 1"):
        run(options(model, empty, tmp_path))
    with pytest.raises(OptionError, match="temperatures"):
        options(model, collection, tmp_path, temperatures=(0.0,))
    with pytest.raises(OptionError, match=r"lengths.*24 do"):
        options(model, collection, tmp_path, lengths=(4,))
    with pytest.raises(OptionError, match=r"lengths.*at most"):
        options(model, collection, tmp_path, lengths=tuple(range(24, 200, 20)))
    with pytest.raises(OptionError, match="buckets"):
        options(model, collection, tmp_path, buckets=(9, 3))


def test_lists_are_parsed() -> None:
    assert parse_buckets("5") == 5
    assert parse_buckets("0,64,128") == (0, 64, 128)
    assert parse_lengths("64,32,64") == (32, 64)
    assert parse_lengths("none") == ()
    for parse in (parse_buckets, parse_lengths):
        with pytest.raises(ValueError, match="x,y"):
            parse("x,y")
