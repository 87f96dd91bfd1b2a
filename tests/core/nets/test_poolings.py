"""Properties of the poolings that the golden vectors do not show."""

from __future__ import annotations

import pytest
import torch

from attn.core.nets.poolings import POOLINGS
from attn.core.nets.poolings.contract import TokenShape, fitting_heads, pooling_of
from attn.core.nets.poolings.ep import EfficientPooling

SHAPE = TokenShape(16, 6, (2, 3), queries=4)


def test_uniform_queries_are_the_mean() -> None:
    pooling = pooling_of("ep", TokenShape(16, 6, None, queries=1))
    x = torch.randn(3, 6, 16)
    with torch.no_grad():
        pooling.get_parameter("cls_token").zero_()
        pooling.get_parameter("v.weight").copy_(torch.eye(16))
    torch.testing.assert_close(pooling(x), pooling_of("gap", SHAPE)(x))


@pytest.mark.parametrize("name", POOLINGS)
def test_one_picture_alone(name: str) -> None:
    shape = TokenShape(16, 9, (3, 3), queries=4)
    pooling = pooling_of(name, shape).eval()
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(pooling(x[:1]), pooling(x)[:1])
    assert pooling(x).shape == (2, pooling.out_width)
    maps = pooling.maps(x)
    if maps is not None:
        assert maps.shape == (2, pooling.heads or 1, 9)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("ep", TokenShape(384, 196, None, queries=36), "32, 48"),
        ("ep", TokenShape(384, 196, None, queries=32, d_out=5), "d_out 5"),
        ("cbam", SHAPE, "a grid of 2 x 3"),
        ("cbam", TokenShape(16, 9), "no grid"),
    ],
)
def test_shapes_that_cannot_be(name: str, shape: TokenShape, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pooling_of(name, shape)


def test_heads_divide_the_width() -> None:
    assert [fitting_heads(width, 12) for width in (768, 64, 7)] == [12, 8, 7]


def test_efficient_probing_compiles_before_it_ran_once():
    head = EfficientPooling(TokenShape(width=24, tokens=9, queries=4))
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(head, fullgraph=True, backend="eager")(x)
    assert torch.equal(compiled, head(x))
