"""Saved features: NPZ and safetensors, what they hold, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attn.core.errors import AttnError
from attn.core.options import build
from attn.core.probe.classify.options import ClassifyOptions
from attn.core.probe.classify.run import run
from attn.core.report.model import Report


def arrays(count: int = 30, width: int = 16) -> dict[str, np.ndarray]:
    """Tokens in whose third place the class is."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    tokens = rng.normal(size=(count, 6, width)).astype(np.float32)
    tokens[:, 2, :3] += 6 * np.eye(3, dtype=np.float32)[labels]
    return {"tokens": tokens, "labels": labels, "grid": np.array([2, 3]), "cls": tokens[:, 2]}


def probe(file: Path, **more: Any) -> Report:
    settings = {"queries": 4, "epochs": 60, "warmup": 2, "seeds": 1, "poolings": "knn,linear,gap,ep", "device": "cpu"}
    given = {"data": str(file), "output": str(file.parent / "out"), "learning_rate": 0.05}
    return run(build(ClassifyOptions, {**given, **settings, **more}))


def test_an_archive_and_a_tensor_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "tokens.npz", **arrays(90), classes=np.array(["red", "green", "blue"]))
    report = probe(tmp_path / "tokens.npz")
    rows = {row["probe"]: row for of in report.sections if of.name == "ladder" for row in of.rows()}
    assert rows["linear"]["top1"] > 0.9
    assert any("no encoder whose weights" in notice for notice in report.notices)
    (control,) = [row for of in report.sections if of.name == "trust" for row in of.rows()]
    assert control["verdict"] == "passed"
    half = {name: torch.from_numpy(value).contiguous() for name, value in arrays(90).items()}
    half["tokens"] = half["tokens"].bfloat16()
    save_file(half, tmp_path / "tokens.safetensors")
    again = probe(tmp_path / "tokens.safetensors", output=str(tmp_path / "other"))
    assert again.items[0].metrics["accuracy"] > 0.9


def test_what_features_do_not_allow_is_left_out_of_all(tmp_path: Path) -> None:
    plain = {name: value for name, value in arrays().items() if name in ("tokens", "labels")}
    np.savez_compressed(tmp_path / "tokens.npz", **plain)
    report = probe(tmp_path / "tokens.npz", poolings="all", epochs=3)
    rows = [row["probe"] for of in report.sections if of.name == "ladder" for row in of.rows()]
    assert len(rows) == 15
    assert not {"linear", "cbam"} & set(rows)
    for word in ("linear is left out", "cbam is left out", "aim: 16 heads"):
        assert any(word in notice for notice in report.notices) == (word != "aim: 16 heads")
    with pytest.raises(AttnError, match="no grid"):
        probe(tmp_path / "tokens.npz", poolings="cbam", overwrite=True)


def changed(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in (arrays() | more).items() if value is not None}


def sick() -> np.ndarray:
    tokens = arrays()["tokens"]
    tokens[4, 1, 1] = np.nan
    return tokens


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(tokens=sick()), "NaN or infinite values in row 5"),
        (changed(labels=None), "has no array 'labels'"),
        (changed(labels=np.zeros(30, int)), "1 class only"),
        (changed(labels=np.r_[-1, np.arange(29) % 3]), "row 1 has no label"),
        (changed(labels=np.array(["a", "", *["b"] * 28])), "row 2 has no label"),
        (changed(labels=np.arange(12) % 3), "labels has 12 rows, tokens has 30"),
        (changed(labels=np.arange(30) / 2), "neither whole numbers nor texts"),
        (changed(tokens=np.zeros((30, 6))), "tokens is .30, 6."),
        (changed(tokens=np.zeros((30, 6, 16), int)), "no floating-point numbers"),
        (changed(grid=np.array([2, 2])), "grid 2 x 2 does not hold 6 tokens"),
        (changed(classes=np.array(["a"])), "labels go up to 2, classes has 1 names"),
        (changed(labels=np.array([{}] * 30, object)), "plain array|cannot be read"),
        (changed(labels=np.r_[0, 1, np.full(28, 2)]), "class '0' has 1 picture"),
    ],
)
def test_features_that_cannot_be(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "tokens.npz", **content)
    with pytest.raises(AttnError, match=words):
        probe(tmp_path / "tokens.npz")


def test_damaged_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "tokens.npz", **arrays())
    whole = (tmp_path / "tokens.npz").read_bytes()
    for name, data in (("cut.npz", whole[:2000]), ("no.safetensors", b"nothing at all")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AttnError, match="cannot be read as features"):
            probe(tmp_path / name)
    with pytest.raises(AttnError, match="one layer"):
        probe(tmp_path / "tokens.npz", layer="all")
