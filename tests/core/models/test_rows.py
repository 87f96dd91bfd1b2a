"""Streamed statistics of attention rows against the whole matrix."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from attn.core.models.rows import attention_rows, attention_sums


def dense(q: Any, k: Any, rows: Any, causal: bool, visible: Any, columns: Any, positions: Any) -> tuple[Any, ...]:
    """Entropy, maximum, mass and distance of the matrix of all rows, in float64."""
    lq, lk = q.shape[2], k.shape[2]
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q.double() @ k.double().mT * q.shape[-1] ** -0.5
    keep = torch.ones(lq, lk, dtype=torch.bool).tril(lk - lq) if causal else torch.ones(lq, lk, dtype=torch.bool)
    keep = keep & visible[:, None, None]
    prob = scores.masked_fill(~keep, -torch.inf).softmax(-1).nan_to_num(0)[:, :, rows]
    places = positions.double()
    far = (places[rows + lk - lq, None] - places[None]).norm(dim=-1)
    return -torch.xlogy(prob, prob).sum(-1), prob.amax(-1), prob @ columns.double().mT, (prob * far).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("shape", "tile"),
    [((2, 4, 2, 37, 37, 8), (5, 7)), ((1, 2, 2, 1, 9, 4), (2, 3)), ((2, 2, 1, 6, 20, 4), (256, 1024))],
    ids=str,
)
def test_equals_the_whole_matrix(shape: tuple[int, ...], tile: tuple[int, int], causal: bool, dtype: Any) -> None:
    batch, heads, kv_heads, lq, lk, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))
    q = (3 * torch.randn(batch, heads, lq, dim, generator=generator)).to(dtype)
    k = torch.randn(batch, kv_heads, lk, dim, generator=generator).to(dtype)
    rows = torch.randperm(lq, generator=generator)[: max(1, lq - 2)]
    visible = torch.ones(batch, lk, dtype=torch.bool)
    visible[-1, :3] = False
    columns = torch.rand(3, lk, generator=generator) > 0.5
    positions = torch.randn(lk, 2, generator=generator)
    out = attention_rows(q, k, rows, causal=causal, visible=visible, columns=columns, positions=positions, tile=tile)
    expected = dense(q, k, rows, causal, visible, columns, positions)
    limit = 1e-6 if dtype == torch.float64 else 2e-5  # positions are float32
    for name, value in zip(("entropy", "largest", "mass", "distance"), expected, strict=True):
        torch.testing.assert_close(getattr(out, name).double(), value, atol=limit, rtol=limit)


def test_rows_confined_to_some_keys_are_renormalised() -> None:
    q, k = torch.randn(2, 1, 2, 12, 4).unbind()
    some = torch.arange(3, 12)
    prob = (q @ k.mT * 0.5).softmax(-1)[:, :, some][..., some]
    prob = prob / prob.sum(-1, keepdim=True)
    out = attention_rows(q[:, :, some], k[:, :, some])
    torch.testing.assert_close(out.entropy, -torch.xlogy(prob, prob).sum(-1))


def test_sharp_and_uniform_rows() -> None:
    q, k = torch.zeros(1, 1, 3, 4), torch.randn(1, 1, 5, 4)
    uniform = attention_rows(q, k)
    torch.testing.assert_close(uniform.entropy, torch.full((1, 1, 3), 5.0).log())
    torch.testing.assert_close(uniform.largest, torch.full((1, 1, 3), 0.2))
    sharp = attention_rows(1000 * k, k, positions=torch.arange(10.0).view(5, 2))
    assert (sharp.entropy < 1e-3).float().mean() > 0.5
    assert bool((sharp.largest <= 1).all())


def test_no_rows_and_rows_without_keys() -> None:
    q = torch.randn(2, 2, 3, 4)
    none = attention_rows(q, q, torch.arange(0), columns=torch.ones(2, 3, dtype=torch.bool))
    assert (none.entropy.shape, none.mass.shape, none.distance) == ((2, 2, 0), (2, 2, 0, 2), None)
    blind = attention_rows(q, q, visible=torch.zeros(2, 3, dtype=torch.bool))
    assert blind.entropy.abs().max() == blind.largest.abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(k=torch.zeros(1, 3, 4, 4)), "do not fit"),
        (dict(k=torch.zeros(1, 2, 2, 4)), "do not fit"),
        (dict(columns=torch.ones(4, dtype=torch.bool)), r"columns is \[4\], \[4, 4\]"),
        (dict(positions=torch.zeros(3, 2)), r"positions is \[3, 2\], \[4, 2\]"),
    ],
)
def test_shapes_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    given = dict(q=torch.zeros(1, 2, 4, 4), k=torch.zeros(1, 2, 4, 4)) | arguments
    with pytest.raises(ValueError, match=message):
        attention_rows(**given)


@pytest.mark.parametrize("tile", [(1, 1), (7, 13), (256, 1024)], ids=str)
@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (1, 6)], ids=str)
def test_sums_over_rows_equal_those_of_the_whole_matrix(grid: tuple[int, int], tile: tuple[int, int]) -> None:
    """Offsets one by one, as section 7 of methods/vit-analytics.md has them."""
    (h, w), n = grid, grid[0] * grid[1]
    generator = torch.Generator().manual_seed(n)
    q = 3 * torch.randn(2, 4, n, 8, generator=generator, dtype=torch.float64)
    k = torch.randn(2, 2, n, 8, generator=generator, dtype=torch.float64)
    prob = (q @ k.repeat_interleave(2, 1).mT * 8**-0.5).softmax(-1)
    rows = attention_rows(q, k, tile=tile)
    sums = attention_sums(q, k, rows.log_total, grid=grid, eps=1e-3, tile=tile)
    torch.testing.assert_close(sums.received, prob.sum(-2))
    torch.testing.assert_close(sums.entropy, -(prob * (prob + 1e-3).log()).sum(-1))
    torch.testing.assert_close(rows.where, prob.argmax(-1))
    expected = torch.zeros(2, 4, 2 * h - 1, 2 * w - 1, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            expected[:, :, h - 1 + j // w - i // w, w - 1 + j % w - i % w] += prob[:, :, i, j]
    torch.testing.assert_close(sums.offsets, expected)


def test_sums_of_other_rows_than_keys() -> None:
    q, k = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 9, 4)
    sums = attention_sums(q, k, attention_rows(q, k).log_total, tile=(2, 4))
    assert (sums.offsets, sums.entropy) == (None, None)
    torch.testing.assert_close(sums.received, (q @ k.mT / 2).softmax(-1).sum(-2).double())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(dict(log_total=torch.zeros(1, 2, 3)), "do not fit"), (dict(grid=(3, 2)), "no grid of 3 x 2")],
)
def test_sums_of_shapes_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    given = dict(log_total=torch.zeros(1, 2, 4)) | arguments
    with pytest.raises(ValueError, match=message):
        attention_sums(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), **given)


LONG = """
import resource, torch
from attn.core.models.rows import attention_rows, attention_sums
h = w = 320
q, k = torch.randn(2, 1, 1, h * w, 16, generator=torch.Generator().manual_seed(0)).unbind()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = attention_rows(q, k)
sums = attention_sums(q, k, rows.log_total, grid=(h, w))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, float(sums.offsets.sum()) / (h * w))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_map_of_100_000_tokens_takes_less_than_two_gigabytes() -> None:
    """The whole process, torch with it; the map itself would be 42 GB."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    _, most, total = map(float, done.stdout.split())
    assert most * 1024 < 2 * 2**30
    assert total == pytest.approx(1, abs=1e-6)
