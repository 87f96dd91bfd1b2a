"""The attention operators, by name: a table that imports none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Method, Registry

if TYPE_CHECKING:
    pass


OPERATORS = Registry(
    "bench",
    [
        Method(
            "dense",
            home="attn.core.attention.dense:OPERATOR",
            summary="softmax attention over all keys, exact",
            paper="NeurIPS 2017, arXiv 1706.03762; blockwise: arXiv 2205.14135",
            year=2017,
            status="baseline",
        ),
        Method(
            "hip",
            home="attn.core.attention.hip.operator:OPERATOR",
            summary="hierarchical tree search for the keys of each query block, then sparse attention",
            paper="arXiv 2406.09827 (ICLR 2025)",
            year=2024,
        ),
        Method(
            "dsa",
            home="attn.core.attention.indexer.dsa:OPERATOR",
            summary="flat lightning indexer: exact top-k of a cheap multi-head index score",
            paper="DeepSeek-V3.2-Exp",
            year=2025,
        ),
        Method(
            "hisa",
            home="attn.core.attention.indexer.hisa:OPERATOR",
            summary="hierarchical indexing: pooled key blocks first, then tokens inside the best blocks",
            paper="arXiv 2603.28458",
            year=2026,
        ),
        Method(
            "superlinear",
            home="attn.core.attention.superlinear.operator:OPERATOR",
            summary="power-law comb of anchors, then spans of about sqrt(L) keys at the best of them",
            paper="arXiv 2601.18401",
            year=2026,
        ),
        Method(
            "lightning",
            home="attn.core.attention.lightning.operator:OPERATOR",
            summary="linear attention with decay, block by block; no softmax",
            paper="arXiv 2405.17381 (ICML 2024)",
            year=2024,
        ),
        Method(
            "flux",
            home="attn.core.attention.flux.operator:OPERATOR",
            summary="a router sends a whole layer to full or to sparse attention",
            paper="arXiv 2604.07394",
            year=2026,
        ),
        Method(
            "rectified",
            home="attn.core.attention.rectified.operator:OPERATOR",
            summary="block-sparse attention for video with weights rectified by pooled scores (not causal)",
            paper="arXiv 2511.19835",
            year=2025,
        ),
        Method(
            "bra",
            home="attn.core.attention.bra.operator:OPERATOR",
            summary="bi-level routing attention on a token map (vision)",
            paper="CVPR 2023, arXiv 2303.08810",
            year=2023,
        ),
        Method(
            "halo",
            home="attn.core.attention.halo.operator:OPERATOR",
            summary="blocked local attention with a halo and relative positions (vision)",
            paper="CVPR 2021, arXiv 2103.12731",
            year=2021,
        ),
        Method(
            "sparsifiner",
            home="attn.core.attention.sparsifiner.operator:OPERATOR",
            summary="per-instance masks from a low-rank connectivity predictor (vision)",
            paper="CVPR 2023, arXiv 2303.13755",
            year=2023,
            note="Without a trained predictor (predictor=) the keys are random: only the time means anything.",
        ),
        Method(
            "window+sink",
            home="attn.core.attention.window_sink:OPERATOR",
            summary="sliding window and the first keys (StreamingLLM)",
            paper="arXiv 2309.17453 (ICLR 2024)",
            year=2023,
            status="baseline",
        ),
        Method(
            "blocktopk",
            home="attn.core.attention.block_topk:OPERATOR",
            summary="key blocks chosen by their mean-pooled score",
            paper="arXiv 2502.13189 (MoBA), arXiv 2502.11089 (NSA): the selection alone",
            year=2025,
            status="baseline",
        ),
        Method(
            "oracle",
            home="attn.core.attention.oracle.operator:OPERATOR",
            summary="the exact top-k keys of every query: the upper bound of any selection",
            paper="exact search",
            year=2025,
            status="baseline",
        ),
        Method(
            "flex",
            home="attn.core.attention.flex:OPERATOR",
            summary="FlexAttention of PyTorch with a window+sink mask",
            paper="arXiv 2412.05496, torch.nn.attention.flex_attention",
            year=2024,
            status="baseline",
        ),
        Method(
            "fla",
            home="attn.core.attention.fla:OPERATOR",
            summary="linear attention with decay of flash-linear-attention",
            paper="package flash-linear-attention",
            year=2024,
            needs=(("fla", "flash-linear-attention"),),
            status="baseline",
        ),
    ],
)
