"""HISA: hierarchical indexing. Pooled key blocks first, then the index scores of the tokens in the best blocks.

Paper: arXiv 2603.28458 (2026). Specification: methods/hisa.md, sections 3.3 and 3.4; step numbers are those of 3.3.
Index operands are those of ``dsa``. Up to ``top_blocks * block_size`` keys (8192) the flat search does the same work;
on CPUs both take as long at 16k keys, and the flat one 1.4 to 1.6 times as long at 32k. ``min_seq`` switches to it.
Differs from the official kernels in step 5: blocks are compared in float32 unless ``coarse_dtype`` is bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...choose import Formulation
from ..contract import Cost, Operator, Shape, shape_of
from ..equations import accumulator, masked_attention
from ..tokens.attend import LISTS, TokenSelection
from ..tokens.top_k import top_k_positions
from . import operator as shared
from .decode import IndexDecoder
from .index import FlatIndex, HisaIndex, TokenIndex
from .module import QUANTS, Quant, fake_quantise, head_weights
from .pool import CoarseDtype, block_scores, candidate_blocks, pool_blocks
from .search import SEARCH, check_hisa


@dataclass(frozen=True, slots=True)
class Settings:
    """The two searches.

    Parameters
    ----------
    top_k : int
        Tokens per query, at most ``top_blocks * block_size``.
    block_size : int
        Keys per pooled key. Larger: a cheaper, blunter first pass.
    top_blocks : int
        Candidate blocks per query, at least 2: the first and the last one it sees are always among them.
    coarse_dtype : {"fp32", "bf16"}
        What block scores are compared in.
    quant : {"none", "fp8", "fp8-ue8m0"}
        Rounding of index queries, keys and pooled keys to e4m3; the attention itself is not rounded.
    min_seq : int
        Search flat where there are fewer keys than this; 0: never.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    top_k: int = 2048
    block_size: int = 128
    top_blocks: int = 64
    coarse_dtype: CoarseDtype = "fp32"
    quant: Quant = "none"
    min_seq: int = 0

    def __post_init__(self) -> None:
        check_hisa(self.top_k, self.block_size, self.top_blocks, self.coarse_dtype)
        if self.quant not in QUANTS:
            raise ValueError(f"quant is one of {', '.join(QUANTS)}, not {self.quant!r}.")
        if self.min_seq < 0:
            raise ValueError(
                f"min_seq is {self.min_seq}; pass a number of keys, or 0 to search hierarchically at any length."
            )

    @property
    def pool(self) -> int:
        """Keys in all candidate blocks of a query: one that sees no more of them is searched as if flat."""
        return self.top_blocks * self.block_size

    def index(self, k: Tensor) -> TokenIndex:
        """Index keys [Lk, D] of a head, ready to be searched."""
        if k.shape[0] < self.min_seq:
            return FlatIndex(k, top_k=self.top_k)
        return HisaIndex(
            k, top_k=self.top_k, block_size=self.block_size, top_blocks=self.top_blocks,
            coarse_dtype=self.coarse_dtype, quant=self.quant,
        )  # fmt: skip


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings
) -> Tensor:
    """Section 3.3, dense: index scores of all pairs, hidden outside the candidate blocks."""
    quant, block_size = settings.quant, settings.block_size
    scores = shared.dense_scores(q, k, quant)  # [B, Hkv, Lq, Lk]
    ks, ke = shared.windows(q.shape[2], k.shape[2], causal, q.device)
    position = torch.arange(k.shape[2], device=q.device)
    seen = (position < ke[:, None]).expand_as(scores)
    if k.shape[2] >= settings.min_seq:
        group = q.shape[1] // k.shape[1]
        candidate = torch.zeros_like(scores, dtype=torch.bool)
        for b in range(k.shape[0]):
            for h in range(k.shape[1]):
                keys = fake_quantise(k[b, h].to(accumulator(k.dtype)), quant)
                queries = fake_quantise(q[b, h * group : (h + 1) * group].to(keys.dtype), quant).transpose(0, 1)
                coarse = block_scores(
                    queries, pool_blocks(keys, block_size, quant=quant).keys,
                    head_weights(queries), ks, ke, block_size=block_size,
                    coarse_dtype=settings.coarse_dtype,
                )  # fmt: skip
                blocks = candidate_blocks(coarse, settings.top_blocks)  # [Lq, m]
                candidate[b, h] = (blocks[:, :, None] == position // block_size).any(1)
        seen = seen & candidate
    positions = top_k_positions(scores.masked_fill(~seen, -torch.inf), settings.top_k)
    selection = TokenSelection(positions, q.shape[1], k.shape[2], 0)
    return masked_attention(q, k, v, selection.mask(torch.arange(q.shape[2], device=q.device)), scale=scale)


def select(
    q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, settings: Settings, engine: Formulation
) -> TokenSelection:
    """The lists of all queries at once: 4 bytes x ``top_k`` for each key/value head and query."""
    positions = shared.search(
        q, k, settings.index, causal=causal, quant=settings.quant, top_k=settings.top_k, engine=engine
    )  # fmt: skip
    shape = shape_of(q, k, k, causal=causal)
    searched = _searched(shape, settings) * shape.batch * shape.num_heads * shape.len_q
    return TokenSelection(positions, q.shape[1], k.shape[2], round(searched))


def fused(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings, backend: str
) -> Tensor:
    """Attention to the tokens with the best index scores inside the best key blocks.

    Differentiable in q, k, v through the chosen tokens, the choice constant.
    """
    return shared.run(
        q, k, v, settings.index, causal=causal, scale=scale, quant=settings.quant, top_k=settings.top_k,
        backend=backend,
    )  # fmt: skip


def session(*, scale: float | None = None, settings: Settings) -> IndexDecoder:
    """A decoder whose index and pooled keys grow with the cache."""
    return IndexDecoder(
        settings.index, scale=scale, quant=settings.quant, top_k=settings.top_k, rebuild_at=settings.min_seq
    )


def decoder(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, settings: Settings
) -> Callable[[], Tensor]:  # fmt: skip
    """The last query's output against a cache that is pooled beforehand, as ``IncrementalPool`` keeps it."""
    return shared.decoder(q, k, v, settings.index, scale=scale, quant=settings.quant, top_k=settings.top_k)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7: pooled keys, the tokens of the candidate blocks, then the chosen tokens."""
    _, capped = shared.visible(shape)
    return shared.predict(shape, searched=_searched(shape, settings), attended=capped(settings.top_k))


def at_budget(keys: int, shape: Shape) -> dict[str, int]:
    """Parameters for about ``keys`` keys per query, pooled keys included; candidates : tokens = 4 : 1 as by default."""
    seen, _ = shared.visible(shape)
    for block_size in (128, 64, 32, 16):
        top_k = max(1, round((keys - seen / block_size) / 5))
        if 4 * top_k >= 8 * block_size:  # fewer candidate blocks than that choose badly
            break
    top_blocks = max(2, 4 * top_k // block_size)
    return {"block_size": block_size, "top_blocks": top_blocks, "top_k": min(top_k, top_blocks * block_size)}


def _searched(shape: Shape, settings: Settings) -> float:
    """Mean number of keys, pooled ones included, that are scored per query."""
    seen, capped = shared.visible(shape)
    if shape.len_k < settings.min_seq:
        return seen
    return seen / settings.block_size + capped(settings.top_blocks * settings.block_size)


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(SEARCH.used_by("hisa", select), LISTS.used_by("hisa", shared.attend)),
    fused=fused,
    cost=cost,
    decoder=decoder,
    session=session,
    at_budget=at_budget,
    differentiable=True,
    small={"top_k": 32, "block_size": 16, "top_blocks": 4},
    golden=shared.GOLDEN,
)
