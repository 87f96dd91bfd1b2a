"""The table of attentions against the real classes of transformers."""

from __future__ import annotations

import pytest
import torch
from small_models import ALL, build
from torch import nn

from attn.core.errors import UsageError
from attn.core.models.family import attention_places, heads_of, layout_of, norm_of

NORMLESS = {"modernbert": [0]}
"""Layers without a normalisation in front."""


@pytest.mark.parametrize("name", ALL)
def test_every_part_is_where_the_table_says(name: str) -> None:
    places = attention_places(build(name))
    assert len(places) == {"albert": 1}.get(name, 4 if "whole" in name else 2)
    for place in places:
        layout = layout_of(place.module)
        for part in (layout.query, layout.key, layout.value, layout.output, *layout.qk_norms):
            assert part == "" or hasattr(place.module, part)
        assert heads_of(place.module) == 2
        assert place.module in set(place.block.modules())
        if place.number not in NORMLESS.get(name, []):
            assert "norm" in type(norm_of(place)).__name__.lower()


def test_blocks_are_numbered_in_each_tower() -> None:
    places = attention_places(build("llava (whole)"), [1])
    assert [type(place.block).__name__ for place in places] == ["CLIPEncoderLayer", "LlamaDecoderLayer"]
    assert [place.number for place in places] == [1, 1]


class Attention(nn.Module):
    """Another package's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_unknown_classes_are_named() -> None:
    with pytest.raises(UsageError, match=r"Attention is no attention that attn knows. Known: AlbertAttention, "):
        layout_of(Attention())
    with pytest.raises(UsageError, match="Linear has no attention"):
        attention_places(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="does not say how many heads"):
        heads_of(Attention())
