"""DeepSeek Sparse Attention: the flat lightning indexer picks each query's tokens, softmax runs over them.

DeepSeek-V3.2-Exp (2025). Specification: methods/hisa.md, sections 3.2 and 3.4. Without an index branch the query heads
of one key/value head serve as index heads (weights 1/group), that head's keys as index keys, and the group shares the
selection. The scores pass through a ReLU: keys with negative dot products tie at zero, and the earliest of them win.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...opaque import opaque
from ..contract import Cost, Shape, Unphased, shape_of
from ..equations import attention_result, causal_mask, masked_attention
from ..tokens.attend import TokenSelection
from ..tokens.top_k import top_k_positions
from . import operator as shared
from .search import FlatIndex, TokenIndex


@opaque(attention_result)
def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 2048
) -> Tensor:
    """Section 3.2, dense: all index scores, the best ``top_k`` visible ones, attention to those."""
    _check(top_k)
    scores = shared.dense_scores(q, k, "none")  # [B, Hkv, Lq, Lk]
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), -torch.inf)
    selection = TokenSelection(top_k_positions(scores, top_k), q.shape[1], k.shape[2], 0)
    return masked_attention(q, k, v, selection.mask(torch.arange(q.shape[2], device=q.device)), scale=scale)


@opaque(attention_result)
def blocked(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 2048) -> Tensor:
    """Attention to the tokens with the best flat index scores.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
    causal : bool
    scale : float, optional
        Default ``D ** -0.5``.
    top_k : int
        Tokens per query. The search looks at every visible key whatever it is.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``. Differentiable in q, k, v through the chosen tokens, the choice constant.

    Raises
    ------
    ValueError
        If ``top_k`` is not positive.

    References
    ----------
    methods/hisa.md, sections 3.2 and 3.4.
    """
    _check(top_k)
    return shared.run(q, k, v, _index(top_k), causal=causal, scale=scale, quant="none", top_k=top_k)


def select(q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 2048) -> TokenSelection:
    """The lists of all queries at once: 4 bytes x ``top_k`` for each key/value head and query."""
    _check(top_k)
    found = shared.search(q.detach(), k.detach(), _index(top_k), causal=causal, quant="none", top_k=top_k)
    shape = shape_of(q, k, k, causal=causal)
    return TokenSelection(found, q.shape[1], k.shape[2], shape.pairs)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: TokenSelection, *, causal: bool, scale: float | None = None
) -> Tensor:
    """Second phase of ``blocked``."""
    return shared.attend(q, k, v, selection.indices, scale=scale)


def decoder(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, top_k: int = 2048
) -> Callable[[], Tensor]:  # fmt: skip
    """The last query's output against a cache whose index keys are laid out beforehand."""
    _check(top_k)
    return shared.decoder(q, k, v, _index(top_k), scale=scale, quant="none", top_k=top_k)


def cost(shape: Shape, *, top_k: int = 2048) -> Cost:
    """Every visible key is searched, the best ``top_k`` are gathered."""
    seen, capped = shared.visible(shape)
    return shared.predict(shape, searched=seen, attended=capped(top_k))


def _check(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; choose at least one token.")


def _index(top_k: int) -> shared.MakeIndex:
    def make(k: Tensor) -> TokenIndex:
        return FlatIndex(k, top_k=top_k)

    return make


OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    select=select,
    attend=attend,
    decoder=decoder,
    no_budget="it scores every key, whatever top_k is.",
    differentiable=True,
    small={"top_k": 32},
    golden=shared.GOLDEN,
)
