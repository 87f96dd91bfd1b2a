"""Attention operators: one file each, one contract (DESIGN.md, section 4), one door.

>>> import torch
>>> from attn.core.attention import attention
>>> q = k = v = torch.randn(1, 2, 100, 64)
>>> attention("dense", q, k, v, causal=True).shape
torch.Size([1, 2, 100, 64])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..registry import Method, Registry

if TYPE_CHECKING:
    from torch import Tensor

Backend = Literal["auto", "reference", "blocked", "triton"]

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


def operators() -> tuple[str, ...]:
    """The names of all operators."""
    return tuple(OPERATORS)


def attention(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
    grid: tuple[int, int] | None = None,
    backend: Backend = "auto",
    **params: Any,
) -> Tensor:
    """Run one attention operator.

    Parameters
    ----------
    name : str
        One of ``operators()``.
    q : Tensor [B, Hq, Lq, D]
        float32, bfloat16, float16 or float64. The queries are the last Lq of the Lk positions.
    k : Tensor [B, Hkv, Lk, D]
        Hkv divides Hq (grouped-query heads).
    v : Tensor [B, Hkv, Lk, Dv]
    causal : bool
        Whether a query sees only keys up to its own position. An operator may be able to do only one of the two.
    scale : float, optional
        Factor on q·kᵀ; None: the operator's own default, ``D ** -0.5`` unless its documentation says otherwise.
    grid : (int, int), optional
        Height and width of the token map, row-major; required by vision operators.
    backend : {"auto", "reference", "blocked", "triton"}
        ``reference``: the equations, dense, with quadratic memory. ``blocked``: linear memory. ``auto``: the fastest
        that the device has.
    **params
        The operator's parameters, such as ``mask_k=1024`` for ``hip``.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype and device of ``q``.

    Notes
    -----
    ``torch.autocast`` changes nothing: products are computed in the dtype of q, k and v, sums and softmax in float32
    (float64 for float64), so that an operator chooses the same keys in it as outside. Convert q, k and v for a smaller
    dtype. ``torch.compile`` and ``torch.export`` see one node, and give the same result; its gradient computes the
    forward pass again. The transforms of ``torch.func`` are not supported: take ``torch.autograd``.

    Raises
    ------
    ValueError
        If the tensors do not fit together, or ask for what the operator cannot do, or a parameter is unknown or out of
        range. The message names the shapes and the remedy.
    UsageError
        If there is no such operator, or it needs a package that is not installed.

    References
    ----------
    DESIGN.md, section 4. The operator's own file names its paper and specification.

    Examples
    --------
    >>> import torch
    >>> q, k, v = (torch.randn(1, 2, 300, 64) for _ in range(3))
    >>> attention("window+sink", q, k, v, causal=True, window=64).shape
    torch.Size([1, 2, 300, 64])
    """
    import torch

    from ..opaque import own_dtypes
    from .contract import check_call, check_gradients, check_qkv

    if torch.compiler.is_compiling():
        from .traced import TRACED

        operator = TRACED[name] if name in TRACED else OPERATORS[name].resolve()
    else:
        operator = OPERATORS[name].resolve()
    check_qkv(q, k, v)
    check_call(name, operator, q, k, causal=causal, grid=grid, params=params)
    check_gradients(name, operator, q, k, v, backend)
    if backend not in ("auto", "reference", "blocked", "triton"):
        raise ValueError(f"backend is auto, reference, blocked or triton, not {backend!r}.")
    if backend == "triton":
        raise ValueError(f"{name} has no Triton kernel yet. Use backend='blocked'.")
    if grid is not None:
        params["grid"] = grid
    run = operator.reference if backend == "reference" else operator.blocked
    with own_dtypes(q.device.type):
        out: Tensor = run(q, k, v, causal=causal, scale=scale, **params)
    return out
