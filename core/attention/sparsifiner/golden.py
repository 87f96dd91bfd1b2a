"""Sparsifiner against the official code. Specification: methods/sparsifiner.md, sections 10 and 11.

Ties are compared as far as they are decided (section 9.9). Queries of pruned tokens are ties throughout: their reduced
query is 0, all their coefficients are equal, and which of them are kept is ``torch.topk``'s whim. Their rows are left
out, in masks and in outputs; no other row depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...nets.sparsifiner_layers import SparsifinerAttention, TokenSequence, kept_tokens
from ...nets.sparsifiner_losses import distillation_loss, reconstruction_loss
from ...nets.sparsifiner_vit import SparsifinerConfig, SparsifinerViT
from ..golden import Arrays, Check, max_error, stored
from .predictor import Rules

TOLERANCE, LOSS_TOLERANCE, TIE = 2e-5, 1e-5, 1e-6


def check(stem: str, data: Arrays) -> Iterator[Check]:
    """Compare ours with one golden file."""
    with torch.no_grad():
        yield from {
            "attention_eval": _attention_eval, "attention_recon": _attention_recon, "losses": _losses,
            "tiny_model": _tiny_model,
        }[stem](data)  # fmt: skip


def _attention(data: Arrays, cfg: Any) -> SparsifinerAttention:
    dim, heads, tokens, _, reduce_n, reduce_c, topk, _, threshold = cfg.tolist()
    rules = Rules(int(topk), basis_threshold=threshold)
    layer = SparsifinerAttention(
        int(dim), int(heads), int(tokens), reduce_n=int(reduce_n), reduce_c=int(reduce_c), rules=rules
    )
    layer.load_state_dict(_weights(data))
    return layer


def _attention_eval(data: Arrays) -> Iterator[Check]:
    cfg = data["cfg"]
    layer, x = _attention(data, cfg), torch.from_numpy(data["x"])
    keep_ratio, token_keep = round(float(cfg[3]), 6), round(float(cfg[7]), 6)  # stored in float32
    num_keep = int(np.ceil(token_keep * (x.shape[1] - 1)))
    out, record = layer(TokenSequence(x), keep_ratio=keep_ratio)
    mask = record.prediction.mask
    yield Check("basis_coef", max_error(record.prediction.coef, data["basis_coef"]), TOLERANCE)
    yield Check("approx_attn", max_error(record.prediction.approx, data["approx_attn"]), TOLERANCE)
    yield _mask("attn_mask", mask, data["attn_mask"], record.prediction.approx)
    yield Check("masked_attn", max_error(record.prob, data["masked_attn"]), TOLERANCE)
    yield Check("unmasked_attn", max_error(record.scores.softmax(-1), data["unmasked_attn"]), TOLERANCE)
    yield Check("out", max_error(out, data["out"]), TOLERANCE)
    basis = layer.mask_predictor.basis(layer.rules, torch.float32)
    yield Check("basis_sparsity", max_error((basis == 0).float().mean(), data["basis_sparsity"]), TOLERANCE)
    yield Check("attn_mask_sparsity", max_error(1 - mask.float().mean(), data["attn_mask_sparsity"]), TOLERANCE)
    live = _live(kept_tokens(record.prob, num_keep), x.shape[1])
    yield Check("token_mask", max_error(live[:, 1:], data["token_mask"]), 0)

    live = torch.cat([live[:, :1], torch.from_numpy(data["token_mask"]).bool()], 1)
    out, record = layer(TokenSequence(x, live), keep_ratio=keep_ratio)
    prediction = record.prediction
    yield _mask("attn_mask_with_prev", prediction.mask, data["attn_mask_with_prev"], prediction.approx, live)
    yield Check("out_with_prev_mask", max_error(out[live], data["out_with_prev_mask"][live.numpy()]), TOLERANCE)
    live = _live(kept_tokens(record.prob, num_keep, live), x.shape[1])
    yield Check("token_mask2", max_error(live[:, 1:], data["token_mask2"]), 0)


def _attention_recon(data: Arrays) -> Iterator[Check]:
    layer = _attention(data, _other("attention_eval")["cfg"])
    out, record = layer(TokenSequence(torch.from_numpy(data["x"])), keep_ratio=1.0, reconstruct=True)
    yield Check("basis_coef", max_error(record.prediction.coef, data["basis_coef"]), TOLERANCE)
    yield Check("approx_attn", max_error(record.prediction.approx, data["approx_attn"]), TOLERANCE)
    yield Check("unmasked_attn", max_error(record.prob, data["unmasked_attn"]), TOLERANCE)
    yield Check("out", max_error(out, data["out"]), TOLERANCE)


def _model(data: Arrays) -> SparsifinerViT:
    dim, heads, keep_ratio, reduce_n, reduce_c, topk, depth, image, patch, threshold = data["cfg"].tolist()
    config = SparsifinerConfig(
        image_size=int(image), patch_size=int(patch), in_channels=data["x"].shape[1],
        num_classes=data["logits"].shape[1], dim=int(dim), depth=int(depth), num_heads=int(heads),
        mlp_ratio=data["p.blocks.0.mlp.fc1.bias"].shape[0] / dim, keep_ratio=round(keep_ratio, 6),
        reduce_n=int(reduce_n), reduce_c=int(reduce_c), rules=Rules(int(topk), basis_threshold=threshold),
        token_keep={1: 0.7},
    )  # fmt: skip
    model = SparsifinerViT(config)
    model.load_state_dict(_weights(data))
    return model


def _tiny_model(data: Arrays) -> Iterator[Check]:
    result = _model(data)(torch.from_numpy(data["x"]))
    first, last = result.layers[0].prediction, result.layers[-1].prediction
    yield Check("logits", max_error(result.logits, data["logits"]), TOLERANCE)
    kept = data["token_mask_last"].astype(bool)
    yield Check("features", max_error(result.tokens.numpy()[kept], data["features"][kept]), TOLERANCE)
    yield Check("token_mask_last", max_error(result.live, data["token_mask_last"]), 0)
    yield _mask("attn_mask_0", first.mask, data["attn_mask_0"], first.approx)
    yield _mask(
        "attn_mask_last",
        last.mask,
        data["attn_mask_last"],
        last.approx,
        torch.cat([torch.ones(len(kept), 1, dtype=torch.bool), result.live], 1),
    )
    sparsity = 1 - torch.stack([record.prediction.mask.float().mean() for record in result.layers]).mean()
    yield Check("attn_mask_sparsity", max_error(sparsity, data["attn_mask_sparsity"]), TOLERANCE)


def _losses(data: Arrays) -> Iterator[Check]:
    tiny = _other("tiny_model")
    model, image = _model(tiny), torch.from_numpy(tiny["x"])
    labels, logits, tokens = (torch.from_numpy(data[key]) for key in ("labels", "teacher_logits", "teacher_tokens"))
    result = model(image)
    loss = distillation_loss(result.logits, result.tokens, labels, logits, tokens, live=result.live)
    for key, value in zip(("loss_stage2", "cls", "cls_distill", "token_distill"), loss, strict=True):
        yield _relative(key, value, data[key])
    approx = [record.prediction.approx for record in model(image, reconstruct=True).layers]
    yield Check("approx_attn_train", max_error(torch.stack(approx), data["approx_attn_train"]), TOLERANCE)
    stage1 = reconstruction_loss(approx, list(torch.from_numpy(data["teacher_attn"])))
    yield _relative("loss_stage1", stage1, data["loss_stage1"])
    yield _relative("attn_recon", stage1, data["attn_recon"])


def _weights(data: Arrays) -> dict[str, Tensor]:
    return {name[2:]: torch.from_numpy(array) for name, array in data.items() if name.startswith("p.")}


def _other(stem: str) -> Arrays:
    """Another file of this method: the configuration, or the student of the losses."""
    return stored("sparsifiner", stem)


def _live(kept: Tensor, num_tokens: int) -> Tensor:
    return torch.zeros(len(kept), num_tokens, dtype=torch.bool).scatter(1, kept, True)


def _relative(name: str, ours: Tensor, golden: Any) -> Check:
    return Check(name, abs(float(ours) / float(golden) - 1), LOSS_TOLERANCE)


def _mask(name: str, ours: Tensor | None, golden: Any, approx: Tensor, live: Tensor | None = None) -> Check:
    """Rows of ``live`` queries that differ, but for those whose K-th and K+1-th scores tie within 1e-6."""
    if ours is None or tuple(ours.shape) != golden.shape:
        return Check(name, float("inf"), 0)
    theirs = torch.from_numpy(golden).bool()
    wrong = (ours != theirs).any(-1)
    ordered = approx.sort(-1, descending=True).values
    budget = int(theirs[0, 0, 1].sum())
    if budget < ordered.shape[-1]:
        tied = ordered[..., budget - 1] - ordered[..., budget] <= TIE
        same = theirs[:, :, 1:].sum(-1) == budget
        wrong[:, :, 1:] &= ~(tied & same)
    if live is not None:
        wrong &= live[:, None]
    return Check(name, float(wrong.sum()), 0)
