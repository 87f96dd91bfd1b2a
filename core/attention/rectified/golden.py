"""Rectified SpaAttn against the official selection functions and a float64 oracle: masks, probabilities, outputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..equations import masked_attention
from ..golden import Arrays, Check, max_error
from .operator import OPERATOR, rectify

MASK, PROB, OUT = 0.0, 1e-6, 2e-5  # methods/rectified-spaattn.md, section 10


def check(stem: str, data: Arrays) -> Iterator[Check]:
    """``data`` is the file's content by array name."""
    q, k, v = (torch.from_numpy(data[name]) for name in "qkv")
    _, _, len_video, _, block_size, *rest = data["cfg"].tolist()
    text_len, text_valid, top_k, first_frame_blocks = (0, 0, *rest) if stem == "video_only" else (*rest, 0)
    params = {
        "block_size": block_size, "drop_rate": 1 - top_k / (len_video // block_size), "tau_p": float(data["p"][0]),
        "text_len": text_len, "text_valid": text_valid, "first_frame_blocks": first_frame_blocks,
        "neighbours": torch.from_numpy(data["neighbours"]).bool(),
    }  # fmt: skip
    ours = rectify(q, k, v, **params)
    yield Check("block_mask", max_error(ours.blocks.keep, data["block_mask"]), MASK)
    yield Check("no_gain_mask", max_error(ours.blocks.no_gain, data["no_gain_mask"]), MASK)
    yield Check("probs", max_error(ours.blocks.prob, data["probs"]), PROB)
    yield Check("factor_R", max_error(ours.factor, data["factor_R"]), PROB)
    yield Check("compensation", max_error(ours.compensation, data["compensation"]), OUT)
    yield Check("sparse_out", max_error(ours.sparse[:, :, :len_video], data["sparse_out"]), OUT)
    for name, out in (("blocked", ours.out), ("reference", OPERATOR.reference(q, k, v, **params))):
        if stem == "video_only":
            yield Check(f"out, {name}", max_error(out, data["out"]), OUT)
        else:
            yield Check(f"out_video, {name}", max_error(out[:, :, :len_video], data["out_video"]), OUT)
            yield Check(f"out_text, {name}", max_error(out[:, :, len_video:], data["out_text"]), OUT)
    valid = torch.arange(len_video + text_len) < len_video + text_valid
    yield Check("dense_out", max_error(masked_attention(q, k, v, valid), data["dense_out"]), OUT)
