"""Golden vectors of astigmatism (arXiv 2603.18541), of an oracle written from its equations: no code is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attn.core.probe.distance.reach import diagonal, layer_reach

VECTORS = Path(__file__).parent / "vectors" / "astigmatism"


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_attention_distance(precision: torch.dtype) -> None:
    """Logits that are the logarithm of the stored attention: keys are unit vectors."""
    known = np.load(VECTORS / "attention_distance.npz")
    a = torch.from_numpy(known["attn"]).to(precision)
    objects, positions = torch.from_numpy(known["fg_mask"]), torch.from_numpy(known["pos"])
    k = torch.eye(63, dtype=precision).expand_as(a)
    found = layer_reach(a.log(), k, positions, scale=1.0, foreground=objects)
    assert found.masses is not None
    on_object, on_ground = found.masses.unbind(-1)
    layers = (1, 2)
    for name, value in {
        "dist_query": found.distance, "dist_head": found.distance.mean(-1), "dist_layer": found.distance.mean(layers),
        "dist_layer_normalised": found.distance.mean(layers) / diagonal(tuple(known["grid"])),
        "entropy_layer": found.entropy.mean(layers), "fg_to_fg": on_object[..., objects].mean(layers),
        "fg_to_bg": on_ground[..., objects].mean(layers), "bg_to_fg": on_object[..., ~objects].mean(layers),
        "dist_fg_queries": found.distance[..., objects].mean(layers),
    }.items():  # fmt: skip
        np.testing.assert_allclose(value.numpy(), known[name], atol=1e-5, rtol=1e-5, err_msg=name)
