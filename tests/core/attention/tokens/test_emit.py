"""Packing what a row has chosen: sixteen at a time as one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn.core.attention.tile_cpu import target_has
from attn.core.attention.tokens.emit_cpu import emit_one_by_one, emit_packed, emit_ties

ROOM = 16
SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf])


def emitted(emit, scores, start, stop, *cut):
    """Numbers and values written from place 3 on; values are those of a longer array, from place 5 on."""
    x = np.array([*scores, *[9.0] * ROOM], np.float32)
    values = np.arange(5 + x.size, dtype=np.float32)
    numbers, out = np.full(x.size + 3 + ROOM, -7, np.int32), np.full(2 * x.size + ROOM, -7, np.float32)
    result = emit(x, start, stop, *cut, 100, numbers, np.int64(3), values, 5, out, x.size)
    end = result[0] if isinstance(result, tuple) else result
    assert (numbers[:3] == -7).all()
    return numbers[3:end].tolist(), out[x.size + 3 : x.size + end].tolist(), result


@settings(deadline=None, max_examples=60)
@given(scores=st.lists(SCORES, max_size=70), cut=st.sampled_from([-np.inf, 0.5, np.nan]), data=st.data())
def test_what_is_at_least_the_cut(scores, cut, data):
    start = data.draw(st.integers(0, len(scores)))
    stop = data.draw(st.integers(start, len(scores)))
    expected = [i for i in range(start, stop) if scores[i] >= cut]
    for emit in (emit_one_by_one, emit_packed) if target_has("avx512f") else (emit_one_by_one,):
        numbers, values, _ = emitted(emit, scores, start, stop, np.float32(cut))
        assert numbers == [100 + i - start for i in expected]
        assert values == [5 + i - start for i in expected]


@settings(deadline=None, max_examples=30)
@given(scores=st.lists(SCORES, max_size=40), ties=st.integers(1, 5))
def test_the_first_ties_come_along(scores, ties):
    numbers, values, (_, left) = emitted(emit_ties, scores, 0, len(scores), np.float32(2.0), np.float32(0.0), ties)
    equal = [i for i in range(len(scores)) if scores[i] == 0]
    expected = sorted([i for i in range(len(scores)) if scores[i] >= 2] + equal[:ties])
    assert numbers == [100 + i for i in expected]
    assert values == [5 + i for i in expected]
    assert left == max(0, ties - len(equal))


@pytest.mark.parametrize("emit", [emit_one_by_one, emit_packed])
def test_values_may_be_left_alone(emit):
    if emit is emit_packed and not target_has("avx512f"):
        pytest.skip("numba does not compile for AVX-512 here")
    x, numbers = np.array([1, 0, 1] + [1] * ROOM, np.float32), np.empty(3 + ROOM, np.int32)
    end = emit(x, 0, 3, np.float32(1), 0, numbers, np.int64(0), x, 0, np.empty(0, np.float32), 0)
    assert numbers[:end].tolist() == [0, 2]
