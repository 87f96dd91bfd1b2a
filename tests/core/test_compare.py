"""Methods side by side: a row and a picture each, and the means over files."""

import numpy as np
import pytest
from PIL import Image

from attn.core.compare import Compared, Comparison, mean_table, side_by_side
from attn.core.errors import UsageError
from attn.core.report.model import Item
from attn.core.report.sections import Table


def run(name):
    if name == "gone":
        raise UsageError("not installed: pip install gone")
    return Compared(name, {"psnr": 30.0}, np.full((8, 8), 2.0))


def test_one_table_and_one_figure(tmp_path):
    known = {"tv": Compared("total variation", {"psnr": 31.0}, np.ones((8, 8)))}
    made = side_by_side(("tv", "gone", "nlm"), run, known, {"noisy": np.zeros((8, 8))})
    assert made.table.plain()[:2] == (
        {"method": "total variation", "psnr": 31.0}, {"method": "gone", "note": "not installed: pip install gone"},
    )  # fmt: skip
    assert made.rows[2].keys() == {"method", "psnr", "seconds"}
    assert list(made.pictures) == ["noisy", "total variation", "nlm"]
    made.draw(tmp_path / "c.png", unit="")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] > 3 * 640


def test_a_slip_of_ours_is_no_note():
    def slip(name):
        raise KeyError(name)

    with pytest.raises(KeyError):
        side_by_side(("tv",), slip, {}, {})


def item(*rows, status="ok"):
    return Item("a", None, status, 0.0, sections=(Table("other", []), Comparison(rows, {}).table))


def test_means_are_over_the_files_that_a_method_finished():
    bad = {"method": "bm3d", "note": "not installed"}
    items = [
        item({"method": "tv", "psnr": 30.0}, {"method": "nlm", "psnr": 34.0}, bad),
        item({"method": "tv", "psnr": 32.0}, {"method": "nlm", "note": "too small"}, bad),
        item({"method": "tv", "psnr": float("inf")}, status="failed"),
        Item("old", None, "skipped", 0.0),
    ]
    table = mean_table(items, best="psnr")
    assert table.heading == "mean over the files"
    assert list(table.rows()) == [
        {"method": "nlm", "files": 1, "psnr": 34.0, "wins_psnr": 1},
        {"method": "tv", "files": 2, "psnr": 31.0, "wins_psnr": 1},
        bad,
    ]
    unsorted = mean_table(items[:1])
    assert unsorted.heading == "side by side"
    assert [row["method"] for row in unsorted.rows()] == ["tv", "nlm", "bm3d"]
    assert mean_table([]).rows() == []
