"""DeepSeek Sparse Attention: the flat lightning indexer picks each query's tokens, softmax runs over them.

DeepSeek-V3.2-Exp (2025). Specification: methods/hisa.md, sections 3.2 and 3.4. Without an index branch the query heads
of one key/value head serve as index heads (weights 1/group), that head's keys as index keys, and the group shares the
selection. The scores pass through a ReLU: keys with negative dot products tie at zero, and the earliest of them win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...choose import Formulation
from ..contract import Cost, Operator, Shape, shape_of
from ..equations import causal_mask, masked_attention
from ..tokens.attend import LISTS, TokenSelection
from ..tokens.top_k import top_k_positions
from . import operator as shared
from .decode import IndexDecoder
from .index import FlatIndex, TokenIndex
from .search import SEARCH


@dataclass(frozen=True, slots=True)
class Settings:
    """How many tokens are chosen.

    Parameters
    ----------
    top_k : int
        Tokens per query. The search looks at every visible key whatever it is.

    Raises
    ------
    ValueError
        If ``top_k`` is not positive.
    """

    top_k: int = 2048

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; choose at least one token.")

    def index(self, k: Tensor) -> TokenIndex:
        """Index keys [Lk, D] of a head, ready to be searched."""
        return FlatIndex(k, top_k=self.top_k)


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings
) -> Tensor:
    """Section 3.2, dense: all index scores, the best ``top_k`` visible ones, attention to those."""
    scores = shared.dense_scores(q, k, "none")  # [B, Hkv, Lq, Lk]
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), -torch.inf)
    selection = TokenSelection(top_k_positions(scores, settings.top_k), q.shape[1], k.shape[2], 0)
    return masked_attention(q, k, v, selection.mask(torch.arange(q.shape[2], device=q.device)), scale=scale)


def select(
    q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, settings: Settings, engine: Formulation
) -> TokenSelection:
    """The lists of all queries at once: 4 bytes x ``top_k`` for each key/value head and query."""
    positions = shared.search(
        q, k, settings.index, causal=causal, quant="none", top_k=settings.top_k, engine=engine
    )  # fmt: skip
    return TokenSelection(positions, q.shape[1], k.shape[2], shape_of(q, k, k, causal=causal).pairs)


def fused(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings, backend: str
) -> Tensor:
    """Attention to the tokens with the best flat index scores; differentiable through them, the choice constant."""
    return shared.run(
        q, k, v, settings.index, causal=causal, scale=scale, quant="none", top_k=settings.top_k, backend=backend
    )


def session(*, scale: float | None = None, settings: Settings) -> IndexDecoder:
    """A decoder whose index grows with the cache."""
    return IndexDecoder(settings.index, scale=scale, quant="none", top_k=settings.top_k)


def decoder(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, settings: Settings
) -> Callable[[], Tensor]:  # fmt: skip
    """The last query's output against a cache whose index keys are laid out beforehand."""
    return shared.decoder(q, k, v, settings.index, scale=scale, quant="none", top_k=settings.top_k)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Every visible key is searched, the best ``top_k`` are gathered."""
    seen, capped = shared.visible(shape)
    return shared.predict(shape, searched=seen, attended=capped(settings.top_k))


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(SEARCH.used_by("dsa", select), LISTS.used_by("dsa", shared.attend)),
    fused=fused,
    cost=cost,
    decoder=decoder,
    session=session,
    no_budget="it scores every key, whatever top_k is.",
    differentiable=True,
    small={"top_k": 32},
    golden=shared.GOLDEN,
)
