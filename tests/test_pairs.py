"""Our all-pairs: every two values of two axes meet, in few rows, the same ones each time."""

from itertools import combinations, product

from pairs import pairs


def test_every_two_values_meet_in_few_rows() -> None:
    axes = [range(8), "abc", (True, False), (0, 1)]
    rows = pairs(*axes)
    for i, j in combinations(range(4), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(axes[i], axes[j]))
    assert len(rows) == 24  # as many as the two longest axes need, of 96
    assert rows == pairs(*axes)
