"""What a terminal shows of a report."""

import pytest

from attn.cli.show import cell


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (3, "3"), (0.12345, "0.1235"), (-12.345, "-12.35"), (1234567.8, "1234567.80"), (9e305, "9e+305")],
)
def test_numbers_are_short(value: float | None, shown: str) -> None:
    assert cell(value) == shown
