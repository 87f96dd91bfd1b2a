"""Golden vectors of BiFormer: methods/biformer.md, section 10, at its tolerances."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ...nets.biformer import AttentionLePE, BiFormer, BiLevelRoutingAttention, BiLevelRoutingAttentionNCHW
from ..golden import Arrays, Check, max_error
from .operator import attention_maps
from .regions import region_means


def _weights(data: Arrays) -> dict[str, torch.Tensor]:
    return {name[2:]: torch.from_numpy(np.asarray(array)) for name, array in data.items() if name.startswith("p.")}


@torch.no_grad()
def check(stem: str, data: Arrays) -> Iterator[Check]:
    """Compare ours with one file."""
    x = torch.from_numpy(data["x"])
    if stem == "tiny_model":
        yield from _tiny_model(x, data)
    elif stem == "attention_lepe":
        dim, heads = data["cfg"].tolist()
        layer = AttentionLePE(dim, num_heads=heads)
        layer.load_state_dict(_weights(data))
        yield Check("out", max_error(layer(x), data["out"]), 2e-5)
    elif stem == "bra_nchw":
        yield from _nchw(x, data)
    else:
        yield from _legacy(x, data, auto_pad=stem == "bra_autopad")


def _legacy(x: torch.Tensor, data: Arrays, *, auto_pad: bool) -> Iterator[Check]:
    dim, heads, qk_dim, n_win, topk, side = data["cfg"].tolist()
    layer = BiLevelRoutingAttention(
        dim, num_heads=heads, qk_dim=qk_dim, n_win=n_win, topk=topk, side_dwconv=side, auto_pad=auto_pad
    )
    layer.load_state_dict(_weights(data))
    routing = layer.routing(x)
    yield Check("route_idx", float((routing.index.numpy() != data["route_idx"]).sum()), 0)
    if not auto_pad:
        q, k, v = layer.heads(x)
        for name, t in (("q_region", q), ("k_region", k)):
            yield Check(name, max_error(region_means(t, routing.regions, only_inside=False), data[name]), 1e-5)
        yield Check("region_logits", max_error(routing.logits, data["region_logits"]), 1e-5)
        yield Check("route_weight", max_error(routing.weight, data["route_weight"]), 1e-5)
        maps = attention_maps(q, k, routing, scale=layer.scale).flatten(0, 1)
        yield Check("attn", max_error(maps, data["attn"]), 2e-5)
        image = v.transpose(2, 3).reshape(x.shape[0], dim, *x.shape[1:3])
        assert layer.lepe is not None
        yield Check("lepe", max_error(layer.lepe(image).permute(0, 2, 3, 1), data["lepe"]), 2e-5)
    yield Check("out", max_error(layer(x), data["out"]), 2e-5)


def _nchw(x: torch.Tensor, data: Arrays) -> Iterator[Check]:
    dim, heads, _, n_win, topk, side = data["cfg"].tolist()
    layer = BiLevelRoutingAttentionNCHW(dim, num_heads=heads, n_win=n_win, topk=topk, side_dwconv=side)
    layer.load_state_dict(_weights(data))
    q, k, _ = layer.heads(x)
    routing = layer.route(q, k, (x.shape[2], x.shape[3]))
    maps = attention_maps(q, k, routing, scale=layer.scale).transpose(1, 2)  # [B, M, P, T, topk * T]
    yield Check("attn", max_error(maps, data["attn"]), 2e-5)
    yield Check("out", max_error(layer(x), data["out"]), 2e-5)


def _tiny_model(x: torch.Tensor, data: Arrays) -> Iterator[Check]:
    model = BiFormer(
        data["cfg_depth"].tolist(),
        data["cfg_dims"].tolist(),
        head_dim=int(data["cfg_head_dim"]),
        mlp_ratio=float(data["cfg_mlp"][0]),
        topks=[topk if topk > 0 else None for topk in data["cfg_topk"].tolist()],
        n_win=int(data["cfg_n_win"]),
        num_classes=len(data["p.head.bias"]),
    ).eval()
    model.load_state_dict(_weights(data))
    for i, stage in enumerate(model.features(x), 1):
        yield Check(f"stage{i}", max_error(stage, data[f"stage{i}"]), 1e-4)
    yield Check("logits", max_error(model(x), data["logits"]), 1e-4)
