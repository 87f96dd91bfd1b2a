"""Exact top k with ties by position."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn.core.attention._topk import top_k_positions


def by_sorting(row, top_k):
    """The definition: largest first, then smallest position; what is -inf is not there."""
    order = sorted((i for i in range(len(row)) if row[i] != -torch.inf), key=lambda i: (-row[i], i))
    return sorted(order[:top_k])


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 3).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([-torch.inf, -2.0, -0.5, 0.0, 0.0, 1.0, 3.0]), min_size=n, max_size=n), min_size=1
        )
    ),
    top_k=st.integers(1, 5),
)
def test_against_the_definition(rows, top_k):
    found = top_k_positions(torch.tensor(rows), top_k)
    assert found.dtype == torch.int32
    assert found.shape == (len(rows), min(top_k, len(rows[0])))
    for row, positions in zip(rows, found.tolist(), strict=True):
        expected = by_sorting(row, top_k)
        assert positions == expected + [-1] * (len(positions) - len(expected))
