"""Parity of Flux attention: methods/flux-attention.md, section 10.

Tolerances: logits 1e-5, soft 1e-6, masks exact, outputs 2e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..golden import Arrays, Check, max_error
from .operator import OPERATOR, select
from .router import LayerRouter
from .settings import Settings
from .xattention import block_sums

_NAMES = {"cls_feat_extractor": "features", "cls_router_head_agnostic": "classify"}


def check(stem: str, data: Arrays) -> Iterator[Check]:
    """Compare ours with one golden file."""
    if stem == "router":
        yield from _router(data)
    elif stem == "streaming_triangle":
        yield from _streaming(data)
    else:
        yield from _xattention(data)


def _router(data: Arrays) -> Iterator[Check]:
    x = torch.from_numpy(data["x"]).transpose(1, 2)  # [1, H, T, d]
    router = LayerRouter(x.shape[-1], pool_size=int(data["pool_size"][0]))
    weights = {}
    for official, ours in _NAMES.items():
        for name, value in data.items():
            if name.startswith(f"p_{official}_"):
                place = f"{ours}.{name.removeprefix(f'p_{official}_').replace('_', '.')}"
                weights[place.replace("classify.4", "last")] = torch.from_numpy(value)
    router.load_state_dict(weights)
    span = torch.from_numpy(data["range_ids"][:, 2:4])  # first and last token of the user's part
    tau, noise = float(data["tau"][0]), torch.from_numpy(data["u"])
    yield Check("train_pooled", max_error(router.pooled(x, span), data["train_pooled"]), 1e-5)
    decision = router.train()(x, span=span, tau=tau, noise=noise)
    yield Check("train_logits", max_error(decision.logits.detach(), data["train_logits"]), 1e-5)
    yield Check("train_soft", max_error(decision.prob.detach()[:, None], data["train_soft"]), 1e-6)
    yield Check("train_z", max_error(decision.full.detach()[:, None], data["train_z"]), 1e-6)
    entropy = -decision.prob.detach() * decision.prob.detach().log()
    yield Check("train_entropy", max_error(entropy, data["train_entropy"]), 1e-6)
    # the official z is one decision repeated for each head, and its sum was differentiated
    (grad,) = torch.autograd.grad(x.shape[1] * decision.full.sum(), router.last.bias)
    yield Check("grad_z_wrt_last_bias", max_error(grad, data["grad_z_wrt_last_bias"]), 1e-5)
    with torch.no_grad():
        decision = router.eval()(x)
    yield Check("eval_logits", max_error(decision.logits, data["eval_logits"]), 1e-5)
    yield Check("eval_soft", max_error(decision.prob[:, None], data["eval_soft"]), 1e-6)
    yield Check("eval_z", max_error(decision.full[:, None], data["eval_z"]), 0.0)


def _streaming(data: Arrays) -> Iterator[Check]:
    q, k, v = (torch.from_numpy(data[name])[None, None] for name in ("q", "k", "v"))
    _, _, sink_blocks, local_blocks, last, block = (int(x) for x in data["cfg"])
    sizes = {"sink": sink_blocks * block, "local": local_blocks * block, "last": last, "block_size": block}
    for name, params in (
        ("out_streaming", {"mode": "streaming"}),
        ("out_triangle", {"mode": "triangle"}),
        ("out_full", {"route": "full"}),
    ):
        out = OPERATOR.blocked(q, k, v, **sizes, **params)  # type: ignore[arg-type]
        yield Check(name, max_error(out[0, 0], data[name]), 2e-5)


def _xattention(data: Arrays) -> Iterator[Check]:
    q, k, v = (torch.from_numpy(data[name]) for name in ("q", "k", "v"))
    _, length, _, block, stride, chunk = (int(x) for x in data["cfg"])
    params: dict[str, Any] = {"mode": "xattn", "block_size": block, "stride": stride, "chunk": chunk}
    params["threshold"] = round(float(data["threshold"][0]), 6)
    yield Check("block_sums", max_error(block_sums(q, k, block_size=block, stride=stride), data["block_sums"]), 2e-5)
    selection = select(q, k, settings=Settings(**params))
    first = torch.arange(0, length, block)
    last = (first + block).clamp(max=length) - 1  # the last query of a block sees all that the block keeps
    mask = selection.mask(last)[..., first]
    yield Check("mask", max_error(mask, data["mask"]), 0.0)
    yield Check("out", max_error(OPERATOR.blocked(q, k, v, **params), data["out"]), 2e-5)
    yield Check("dense_out", max_error(OPERATOR.blocked(q, k, v, route="full"), data["dense_out"]), 2e-5)
