"""`attn probe compare`: known differences of two results, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn.core.errors import InputError, UsageError
from attn.core.options import OptionError
from attn.core.probe.difference import DifferenceOptions, run
from attn.core.probe.panel import FigureData, Origin, write_figure


def result(path: Path, distance: Any, *, model: str = "a", kind: str = "difference", **arrays: Any) -> str:
    distance = np.asarray(distance, np.float32)
    all_arrays = {
        "distance_patches": distance, "distance_px": 2 * distance, "entropy": np.ones_like(distance),
        "distance_px_by_patch": np.zeros((2, 4, 4), np.float32), "picture": np.zeros((8, 8, 3), np.uint8), **arrays,
    }  # fmt: skip
    facts = {"size": [8, 8], "box": [0, 0, 8, 8]}
    return write_figure(path, FigureData(kind, path.stem, all_arrays, facts, Origin("c", model, model * 64, "p")))[
        "facts"
    ]


def test_what_changed(tmp_path: Path) -> None:
    one = result(tmp_path / "x/a.vit.png", [[1, 2], [3, 4]], flat=np.ones(4))
    two = result(tmp_path / "y/a.vit.png", [[1, 2], [3, 9]], model="b", extra=np.ones(3), flat=np.ones(3))
    report = run(DifferenceOptions((one, two)))
    (item,) = report.items
    assert item.output == str(tmp_path / "y/a.vit.difference.png")
    with np.load(item.files["arrays"]) as arrays:
        assert arrays["distance_patches"].tolist() == [[0, 0], [0, 5]]
        assert sorted(arrays.files) == ["distance_patches", "distance_px", "distance_px_by_patch", "entropy"]
    rows = {row["array"]: row for row in item.sections[0].rows()}
    assert rows["distance_patches"]["mean_change"] == 1.25
    assert rows["distance_patches"]["largest_change"] == 5
    assert rows["distance_patches"]["rank_correlation"] == pytest.approx(1)
    (first, second) = item.sections[1].rows()
    assert {first["array"], second["array"]} == {"distance_patches", "distance_px"}
    assert (first["row"], first["column"]) == (1, 1)
    assert first["change_over_spread"] == second["change_over_spread"] == pytest.approx(5 / np.std([1, 2, 3, 4]))
    assert any("not compared" in text and "extra, flat" in text for text in item.warnings)
    assert not any("same weights" in text for text in item.warnings)
    again = run(DifferenceOptions((one, one), str(tmp_path / "o.png"))).items[0]
    assert "both results are of the same weights" in again.warnings
    assert again.sections[1].rows() == []


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one = result(tmp_path / "a.png", [[1, 2], [3, 4]])
    with pytest.raises(OptionError, match="two files are compared, 1"):
        DifferenceOptions((one,))
    other = tmp_path / "b.json"
    other.write_text(Path(one).read_text().replace('"kind": "difference"', '"kind": "vit"'))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    with pytest.raises(OptionError, match="one is of kind difference, the other of vit"):
        run(DifferenceOptions((one, str(other))))
    with pytest.raises(UsageError, match=r"results are written as .png, not as .pdf"):
        run(DifferenceOptions((one, one), str(tmp_path / "o.pdf")))
    with pytest.raises(InputError, match=r"gone\.json"):
        run(DifferenceOptions((one, str(tmp_path / "gone.json"))))
