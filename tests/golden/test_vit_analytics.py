"""Capture, head masks and attention distance against vectors of a timm ViT: methods/vit-analytics.md, section 10."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from attn.core.models.geometry import geometry_of
from attn.core.models.hooks import capture, edit
from attn.core.models.images import PreparedImage
from attn.core.models.rows import attention_rows
from attn.core.probe.vit.importance import importance
from attn.core.probe.vit.restart import HeadSite
from attn.core.probe.vit.run import attention_distance

TOLERANCE = 1e-5
"""Absolute, of section 10."""


@cache
def vectors() -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "vectors" / "vit-analytics" / "vit_heads.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


@pytest.fixture
def model() -> Any:
    """The network of the vectors, as a ViT of transformers in float64."""
    v = vectors()
    dim, heads, depth = (int(v[name]) for name in ("dim", "heads", "depth"))
    config = hf.ViTConfig(
        hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=2 * dim,
        image_size=int(v["img"]), patch_size=int(v["patch"]), layer_norm_eps=1e-6, num_labels=v["logits"].shape[1],
    )  # fmt: skip
    state: dict[str, Tensor] = {}
    for key, value in v.items():
        if not key.startswith("p."):
            continue
        for old, new in (
            ("p.cls_token", "vit.embeddings.cls_token"), ("p.pos_embed", "vit.embeddings.position_embeddings"),
            ("p.patch_embed.proj", "vit.embeddings.patch_embeddings.projection"), ("p.blocks", "vit.layers"),
            ("p.norm", "vit.layernorm"), ("p.head", "classifier"), ("attn.proj", "attention.o_proj"),
            ("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
        ):  # fmt: skip
            key = key.replace(old, new)
        if "attn.qkv" in key:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                state[key.replace("attn.qkv", f"attention.{name}_proj")] = part
        else:
            state[key] = value
    network = hf.ViTForImageClassification(config).double().eval()
    network.load_state_dict(state)
    return network


def within(actual: Any, expected: Tensor) -> None:
    assert float((torch.as_tensor(actual).double() - expected.double()).abs().max()) <= TOLERANCE


def test_captured_attention(model: Any) -> None:
    v = vectors()
    with torch.no_grad(), capture(model) as seen:
        within(model(v["x"].double()).logits, v["logits"])
    assert len(seen) == v["attn"].shape[1]
    for layer in seen:
        within((layer.q @ layer.k.mT * layer.scale).softmax(-1), v["attn"][:, layer.layer])


def test_pruned_heads(model: Any) -> None:
    v = vectors()
    layers, heads = v["pruned_logits"].shape[:2]
    for layer in range(layers):
        for head in range(heads):
            factors = torch.ones(heads, dtype=torch.float64)
            factors[head] = 0
            with torch.no_grad(), edit(model, heads={layer: factors}):
                within(model(v["x"].double()).logits, v["pruned_logits"][layer, head])


def test_distance_and_entropy(model: Any) -> None:
    v = vectors()
    side = float(v["img"])
    reaches = []
    for image in v["x"]:
        prepared = PreparedImage(image, (int(side), int(side)), (0, 0, side, side))
        reaches.append(attention_distance(model, prepared, geometry_of(model, prepared)))
    within(np.mean([reach.patches for reach in reaches], 0), v["mean_distance"])
    within(np.mean([reach.pixels for reach in reaches], 0) / float(v["patch"]), v["mean_distance"])
    within(np.mean([reach.entropy for reach in reaches], 0), v["entropy"])


def test_mass_on_columns(model: Any) -> None:
    """Section 3.3: what the class token and the patches give each other, and themselves."""
    v = vectors()
    with torch.no_grad(), capture(model, what=("q", "k")) as seen:
        model(v["x"].double())
    tokens = v["attn"].shape[-1]
    columns = torch.eye(tokens, dtype=torch.bool)
    for layer in seen:
        mass = attention_rows(layer.q, layer.k, scale=layer.scale, columns=columns).mass
        assert mass is not None
        within(mass[:, :, 0, 1:].sum(-1).mean(0), v["cls_to_patch"][layer.layer])
        within(mass[:, :, 1:, 0].mean((0, 2)), v["patch_to_cls"][layer.layer])
        within(mass.diagonal(dim1=-2, dim2=-1)[..., 1:].mean((0, 2)), v["self_mass"][layer.layer])


def test_importance(model: Any) -> None:
    """Section 3.1, target the predicted class, from the layers' own inputs on; and that of a whole layer by hand."""
    v = vectors()
    with torch.inference_mode():
        found = importance(HeadSite(model), v["x"].double())
        factors = torch.zeros(int(v["heads"]))
        with edit(model, heads={1: factors}):
            q = model(v["x"].double()).logits.softmax(-1)
    assert found.before.logits is not None
    within(found.before.logits, v["logits"])
    within(found.before.feature, v["cls"])
    for name in ("dprob", "kl", "jsd", "cos", "dloss", "flip"):
        within(found.heads[name], v[f"imp_{name}"])
    p, y = v["logits"].double().softmax(-1), v["logits"].argmax(-1, keepdim=True)
    within(found.layers["dprob"][1], (p - q).gather(1, y)[:, 0])
