import math
from typing import Any

import pytest

from attn.core.denoise.physics.together import averaged, of_all
from attn.core.report.model import Item
from attn.core.report.sections import Table


def insert(scans: int, row: float = 5.0, **values: float) -> dict[str, Any]:
    known = {
        "contrast_truth_hu": 10.0, "contrast_before_hu": 9.0, "error_before_hu": 3.0, "contrast_after_hu": 6.0,
        "error_after_hu": 1.0, "cnr_before": 0.5, "cnr_after": 2.0, "d_prime_before": 2.0, "d_prime_after": 3.0,
    }  # fmt: skip
    return {"scans": scans, "row": row, "column": 7.0, "radius_mm": 4.0, **known, **values}


def test_scans_are_averaged_disc_by_disc() -> None:
    rows = averaged([insert(1, contrast_after_hu=4.0), insert(1, row=50), insert(3, contrast_after_hu=8.0)])
    assert [row["row"] for row in rows] == [5, 50]
    assert rows[0]["scans"] == 4
    assert rows[0]["contrast_after_hu"] == 7.0
    assert rows[1] == insert(1, row=50)


def test_errors_fall_with_the_root_of_the_scans() -> None:
    (row,) = averaged([insert(1)] * 9)
    assert row["error_before_hu"] == pytest.approx(1)
    assert row["contrast_before_hu"] == pytest.approx(9)


def test_what_is_unknown_once_is_unknown() -> None:
    (row,) = averaged([insert(1), insert(1, d_prime_after=math.nan)])
    assert math.isnan(row["d_prime_after"])
    assert row["d_prime_before"] == 2
    (section,) = of_all([Item("a", None, "ok", 0.0, sections=(Table("inserts", [row]),))])
    assert section.short_rows()[0]["d'"] == ""


def test_tables_of_a_report() -> None:
    noise = [{"image": "before", "noise_sd": 5.0}, {"image": "after", "noise_sd": 1.0}]
    sections = (Table("noise_power", noise), Table("inserts", [insert(1)]))
    items = [Item(name, None, "ok", 0.0, sections=sections) for name in "ab"]
    shown = {section.name: section for section in of_all([*items, Item("c", None, "skipped", 0.0)])}
    assert list(shown) == ["noise_power", "inserts"]
    assert [(row["input"], row["noise_sd"]) for row in shown["noise_power"].rows()] == [
        ("a", 5), ("a", 1), ("b", 5), ("b", 1)
    ]  # fmt: skip
    (short,) = shown["inserts"].short_rows()
    assert short["d'"] == "2 -> 3"
    assert short["scans"] == 2
    assert not list(of_all([]))
