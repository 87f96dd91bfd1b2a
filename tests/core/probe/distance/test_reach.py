"""How far attention looks, against the whole matrix written out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from small_models import build

from attn.core.errors import UsageError
from attn.core.models.geometry import geometry_of
from attn.core.models.hooks import Seen
from attn.core.models.images import PreparedImage
from attn.core.probe.distance import reach as reaching
from attn.core.probe.distance.reach import attention_distance, diagonal, uniform_distance


@pytest.mark.parametrize("name", ["deit", "dinov2 with registers", "siglip"])
def test_masses_and_oblong_patches(name: str) -> None:
    """Prefix tokens dropped and told, objects and background told apart, pixels that are no multiple of patches."""
    model: Any = build(name)
    prepared = PreparedImage(torch.randn(3, 16, 16), (32, 96), (0, 0, 32, 96))
    geometry = geometry_of(model, prepared)
    objects = np.zeros(16, bool)
    objects[[1, 2, 5, 6, 9]] = True
    reach = attention_distance(model, prepared, geometry, objects)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = torch.stack(model(prepared.pixels[None], output_attentions=True).attentions)[:, 0].double()
    rows = whole[:, :, geometry.prefix :]
    a = rows[..., geometry.prefix :]
    assert np.allclose(reach.dropped, 1 - a.sum(-1).mean(-1), atol=1e-5)
    assert (reach.dropped > 0).all() == bool(geometry.prefix)
    a = a / a.sum(-1, keepdim=True)
    middles = geometry.positions()
    assert np.allclose(reach.pixels, (a * torch.cdist(middles, middles)).sum(-1).mean(-1), atol=1e-4)
    assert reach.inside is not None
    inside = torch.from_numpy(objects)
    of = a[:, :, inside]
    assert np.allclose(reach.inside.fg_to_fg, of[..., inside].sum(-1).mean(-1), atol=1e-5)
    assert np.allclose(reach.inside.fg_to_bg, of[..., ~inside].sum(-1).mean(-1), atol=1e-5)
    assert np.allclose(reach.inside.bg_to_fg, a[:, :, ~inside][..., inside].sum(-1).mean(-1), atol=1e-5)
    place = geometry.grid_positions()
    assert np.allclose(reach.inside.distance, (of * torch.cdist(place[inside], place)).sum(-1).mean(-1), atol=1e-5)


@pytest.mark.parametrize("grid", [(1, 1), (3, 7), (16, 16)])
def test_uniform_attention(grid: tuple[int, int]) -> None:
    place = torch.cartesian_prod(2.0 * torch.arange(grid[0]), 3.0 * torch.arange(grid[1])).double().view(-1, 2)
    assert uniform_distance(grid, (2, 3)) == pytest.approx(torch.cdist(place, place).mean().item())
    assert uniform_distance((200, 200)) / 200 == pytest.approx(0.5214, abs=1e-4)
    assert diagonal((1, 1)) == 1
    assert diagonal((4, 5)) == 5


def test_masked_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def masked(*_: Any, **__: Any) -> Iterator[list[Seen]]:
        yield [Seen(3, torch.zeros(1, 1, 17, 2), torch.zeros(1, 1, 17, 2), mask=torch.ones(17, 17).bool())]

    model: Any = build("vit")
    prepared = PreparedImage(torch.zeros(3, 16, 16), (16, 16), (0, 0, 16, 16))
    monkeypatch.setattr(reaching, "capture", masked)
    with pytest.raises(UsageError, match="ViTModel: layer 3 masks or biases its attention"):
        attention_distance(model, prepared, geometry_of(model, prepared))
