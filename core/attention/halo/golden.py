"""Golden vectors of HaloNet: methods/halonet.md, section 10, at its tolerances."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ...nets.halonet import HaloAttn
from ..golden import Arrays, Check, max_error, stored
from .blocks import relative_logits


@torch.no_grad()
def check(stem: str, data: Arrays) -> Iterator[Check]:
    """Compare ours with one file; the masked ones hold outputs only, for the inputs of their namesake."""
    if stem.endswith("_masked"):
        given = stored("halonet", stem.removesuffix("_masked"))
        x = torch.from_numpy(given["x"])
        yield Check("out_oracle64", max_error(_layer(given)(x), data["out_oracle64"]), 2e-5)
        yield Check("out_masked", max_error(_layer(given, mask_border=True)(x), data["out_masked"]), 2e-5)
        return
    layer, x = _layer(data), torch.from_numpy(data["x"])
    layout = layer.layout(x)
    q, _, _ = layer.heads(x, layout)
    yield Check("q_blocks", max_error(q.flatten(1, 2), data["q_blocks"]), 2e-5)
    position = relative_logits(q.flatten(0, 2), layout, layer.pos_embed.height_rel, layer.pos_embed.width_rel)
    yield Check("rel_logits", max_error(position.reshape(data["rel_logits"].shape), data["rel_logits"]), 1e-5)
    yield Check("out", max_error(layer(x), data["out"]), 2e-5)


def _layer(data: Arrays, *, mask_border: bool = False) -> HaloAttn:
    dim, dim_out, heads, dim_head, block, halo, stride, avg_down, scale_pos, bias = data["cfg"].tolist()
    layer = HaloAttn(
        dim, dim_out, num_heads=heads, dim_head=dim_head or None, block_size=block, halo_size=halo, stride=stride,
        avg_down=bool(avg_down), scale_pos_embed=bool(scale_pos), qkv_bias=bool(bias), mask_border=mask_border,
    )  # fmt: skip
    layer.load_state_dict({n[2:]: torch.from_numpy(np.asarray(a)) for n, a in data.items() if n.startswith("p.")})
    return layer
