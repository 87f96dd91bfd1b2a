"""ToMe: "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461 (methods/pruning-peers.md, section 3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ..methods.base import Keep
from .base import StagedPruner
from .site import ImageSite
from .stages import DropStage, MergeStages


@dataclass(frozen=True)
class ToMe(StagedPruner):
    """Similar tokens become one, in every block from ``layer`` on; attention to a token counts those that are in it.

    Parameters
    ----------
    layer : int or None
        First block that merges; None: 0.
    pairs : int or None
        Merged in each block (the paper's r); None: as many as meet the budget.
    """

    layer: int | None = None
    pairs: int | None = None

    def stages(self, site: ImageSite, keep: Keep) -> tuple[Sequence[DropStage], MergeStages | None]:
        first = self.layer or 0
        if not 0 <= first < site.depth - 1:
            raise UsageError(
                f"layer {first}: {type(site.model).__name__} has blocks 0 to {site.depth - 1}, of which the first that "
                "merges cannot be the last."
            )
        if self.pairs is not None and self.pairs < 1:
            raise UsageError(f"pairs: {self.pairs} is no number of tokens from 1 on.")
        if keep.share == 1 and self.pairs is None:
            return (), None

        def schedule(patches: int) -> Sequence[int]:
            if self.pairs is not None:
                return clipped([self.pairs] * (site.depth - first), first, patches)
            return schedule_for(keep.share or (keep.count or 0) / patches, first, site.depth, patches)

        return (), MergeStages(schedule, merge_owners)


def merge_owners(metric: Tensor, pairs: int, prefix: int) -> Tensor:
    """Which new token each token goes into.

    Tokens at even places (A) look for the most similar at odd places (B); the ``pairs`` best of A go into theirs. The
    new order: those in front of the patches, the rest of A, then B.

    Parameters
    ----------
    metric : Tensor [B, N, d]
        Mean of the heads' keys.
    pairs : int
        At most (N - prefix) // 2.
    prefix : int
        Tokens that neither go into others nor take others in.

    Returns
    -------
    Tensor of int64 [B, N], from 0 to N - pairs - 1
    """
    batch, n, _ = metric.shape
    metric = F.normalize(metric.float(), dim=-1)
    a, b = metric[:, ::2], metric[:, 1::2]
    similarity = a @ b.mT  # [B, A, B]
    similarity[:, : (prefix + 1) // 2] = -torch.inf
    similarity[:, :, : prefix // 2] = -torch.inf
    best, partner = similarity.max(-1)
    gone = best.argsort(-1, descending=True)[:, :pairs]  # [B, pairs] of A
    stays = torch.ones(batch, n, dtype=torch.bool, device=metric.device)
    stays[:, ::2] = stays[:, ::2].scatter(1, gone, False)
    # the new order: prefix, A, B
    place = torch.arange(n, device=metric.device)
    rank = torch.where(place < prefix, place, torch.where(place % 2 == 0, n + place, 2 * n + place))
    order = torch.argsort(rank)
    number = torch.empty(batch, n, dtype=torch.int64, device=metric.device)
    number[:, order] = stays[:, order].cumsum(1) - 1
    into = 2 * partner.gather(1, gone) + 1  # of the whole sequence
    return number.scatter(1, 2 * gone, number.gather(1, into))


def clipped(wanted: Sequence[int], first: int, patches: int) -> list[int]:
    """Pairs of all blocks, of which none merges more than half of the patches it has."""
    pairs, left = [0] * first, patches
    for count in wanted:
        pairs.append(min(count, left // 2))
        left -= pairs[-1]
    return pairs


def schedule_for(share: float, first: int, depth: int, patches: int) -> list[int]:
    """As many pairs in each block as nearly as they can be equal, so that the blocks behind ``first`` have ``share``.

    Raises ``UsageError`` where halving in every block leaves more.
    """
    behind = depth - first - 1

    def rounded(rate: float) -> list[int]:
        return clipped([round((i + 1) * rate) - round(i * rate) for i in range(behind + 1)], first, patches)

    def mean(pairs: Sequence[int]) -> float:
        left = [patches - sum(pairs[: block + 1]) for block in range(first, depth - 1)]
        return sum(left) / (behind * patches)

    if (least := mean(rounded(patches))) > share:
        raise UsageError(f"keep {share:.3g}: merging half of the patches in every block leaves {least:.3g}.")
    low, high = 0.0, float(patches)  # the more pairs, the fewer are left
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(rounded(middle)) > share else (low, middle)
    return min((rounded(low), rounded(high)), key=lambda pairs: abs(mean(pairs) - share))
