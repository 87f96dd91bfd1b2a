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
from attn.core.nets.pattern_autoencoder import PatternAutoencoder
from attn.core.probe.vit.importance import importance
from attn.core.probe.vit.maps import head_maps, reference_statistics
from attn.core.probe.vit.patterns import scaled
from attn.core.probe.vit.restart import HeadSite

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


def maps_of(model: Any) -> list[Any]:
    """Of each image."""
    v, site = vectors(), HeadSite(model)
    side = float(v["img"])
    found = []
    with torch.no_grad():
        for image in v["x"].double():
            prepared = PreparedImage(image, (int(side), int(side)), (0, 0, side, side))
            _, plain = site.plain(image[None])
            found.append(head_maps(site, plain.layers, geometry_of(model, prepared)))
    return found


def test_rings_distance_and_class_statistics(model: Any) -> None:
    """Sections 3.2 and 3.3, streamed; means over the images."""
    v, found = vectors(), maps_of(model)
    patch = float(v["patch"])
    for name, expected in {
        "ring_sum": "ring_sum", "ring_mean": "ring_mean", "distance": "mean_distance", "entropy": "entropy",
        "cls_to_patch": "cls_to_patch", "patch_to_cls": "patch_to_cls", "self_mass": "self_mass",
    }.items():  # fmt: skip
        within(np.mean([getattr(maps, name) for maps in found], 0), v[expected])
    for maps in found:
        within(maps.ring_sum.sum(-1), torch.ones(maps.entropy.shape))
        within(maps.distance_px / patch, torch.from_numpy(maps.distance))


def test_reference_statistics(model: Any) -> None:
    v, site = vectors(), HeadSite(model)
    places = torch.arange(1, v["attn"].shape[-1])
    columns = torch.ones(1, v["attn"].shape[-1], dtype=torch.bool)
    columns[0, 0] = False
    with torch.no_grad():
        _, plain = site.plain(v["x"].double())
    for number, layer in enumerate(plain.layers):
        rows = attention_rows(layer.q, layer.k, scale=layer.scale, columns=columns)
        assert rows.mass is not None
        made = reference_statistics(layer, rows.log_total, rows.mass[..., 0], places)
        for value, name in zip(made, ("stat_diag", "stat_diag_adj", "stat_entropy_pos"), strict=True):
            within(value, v[name][:, number])


def test_autoencoder_of_the_vectors_patterns() -> None:
    """Section 10: shapes, determinism, and a reconstruction error that falls by more than half."""
    v = vectors()
    a = v["attn"][..., 1:, 1:]
    samples = torch.from_numpy(scaled((a / a.sum(-1, keepdim=True)).numpy(), a.shape[-1])).flatten(0, 2)

    def trained() -> tuple[float, float, Tensor]:
        torch.manual_seed(0)
        net = PatternAutoencoder(samples.shape[1])
        assert net.encode(samples).shape == (len(samples), 16)
        before = float((net(samples) - samples).square().mean().detach())
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(60):
            optimiser.zero_grad()
            loss = (net(samples) - samples).square().mean()
            loss.backward()
            optimiser.step()
        return before, float(loss.detach()), net.encode(samples).detach()

    before, after, codes = trained()
    assert after < 0.5 * before
    assert torch.equal(codes, trained()[2])
