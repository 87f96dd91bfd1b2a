"""Sparsifiner attention as a layer, the choice of tokens that go on, and what the layer costs.

Specification: methods/sparsifiner.md, sections 3.2, 3.3 and 7.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..attention.sparsifiner.predictor import ConnectivityPredictor, MaskPrediction, Rules
from ..opaque import own_dtypes


class AttentionRecord(NamedTuple):
    """What one layer did: ``scores`` [B, H, N, N] before any mask, ``prob`` after it, and the prediction."""

    scores: Tensor
    prob: Tensor
    prediction: MaskPrediction


class TokenSequence(NamedTuple):
    """The sequence between layers.

    ``live`` bool [B, N]: not pruned, class token included; None before the first pruning and in the short form.
    ``positions`` int64 [B, N']: where the tokens of a shortened sequence came from; None in the zeros form.
    """

    x: Tensor
    live: Tensor | None = None
    positions: Tensor | None = None


class SparsifinerAttention(nn.Module):
    """Section 3.2: predict who attends to whom, then attend."""

    def __init__(
        self, dim: int, num_heads: int, num_tokens: int, *, reduce_n: int = 6, reduce_c: int = 2,
        share_basis: bool = False, rules: Rules | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_heads, self.rules = num_heads, rules or Rules()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mask_predictor = ConnectivityPredictor(
            num_tokens, dim // num_heads, reduce_n=reduce_n, reduce_c=reduce_c, share_basis=share_basis
        )

    def forward(
        self, tokens: TokenSequence, *, keep_ratio: float, reconstruct: bool = False, exact_code: bool = True
    ) -> tuple[Tensor, AttentionRecord]:
        """Attention of ``tokens.x`` [B, N, D] -> [B, N, D] and what it did.

        Parameters
        ----------
        keep_ratio : float
        reconstruct : bool
            Stage 1: dense attention; the prediction is made beside it.
        exact_code : bool
            Short form: count the tokens that were taken out in the class token's softmax, where the official code has
            them with logit 0 and value 0 (pitfall 10).
        """
        x, live, positions = tokens
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # [B, H, N, d]
        if keep_ratio == 1 and live is None and not reconstruct:  # every key: nothing to predict
            mask = torch.ones(batch, self.num_heads, length, length, dtype=torch.bool, device=x.device)
            prediction = MaskPrediction(q.new_empty(0), q.new_empty(0), mask)
        else:
            with own_dtypes(x.device.type):  # a prediction is made in float32
                prediction = self.mask_predictor(
                    q, k, self.rules, keep_ratio=keep_ratio, live=live, positions=positions, reconstruct=reconstruct
                )
        if live is not None and not reconstruct:
            q, k, v = (part * live[:, None, :, None] for part in (q, k, v))
        scores = q @ k.mT * q.shape[-1] ** -0.5  # [B, H, N, N]
        if prediction.mask is None:
            prob = scores.softmax(-1)
        else:
            # by threshold a row may be empty: zeros, not NaN
            prob = scores.masked_fill(~prediction.mask, -torch.inf).softmax(-1).nan_to_num(0.0)
        if positions is not None and exact_code:
            gone = self.mask_predictor.num_tokens - length
            share = torch.sigmoid(scores[:, :, :1].logsumexp(-1, keepdim=True) - torch.tensor(float(gone)).log())
            prob = torch.cat([prob[:, :, :1] * share, prob[:, :, 1:]], 2)
        out = self.proj((prob @ v).transpose(1, 2).reshape(batch, length, dim))
        return out, AttentionRecord(scores, prob, prediction)


def kept_tokens(prob: Tensor, num_keep: int, live: Tensor | None = None) -> Tensor:
    """Section 3.3. The class token and the patch tokens it attends to most: int64 [B, 1 + num_keep], ascending.

    ``prob`` [B, H, N, N]; ``live`` bool [B, N]: tokens that may still be kept.
    """
    score = prob[:, :, 0].mean(1)  # [B, N]
    if live is not None:
        score = score.masked_fill(~live, -torch.inf)
    patches = score[:, 1:].topk(min(num_keep, score.shape[1] - 1)).indices.sort(-1).values + 1
    return torch.cat([torch.zeros_like(patches[:, :1]), patches], 1)


def attention_multiply_adds(
    num_tokens: int,
    dim: int,
    num_heads: int,
    *,
    channels: int,
    rank: int,
    topk_coef: int,
    basis_row: float,
    budget: int,
) -> dict[str, int]:
    """Section 7, one layer without projections: ``dense`` attention; ``sparse``: prediction and attention on the mask.

    ``basis_row``: entries of a basis vector that are not 0, on average.
    """
    reduce = 2 * num_tokens * (dim // num_heads) * channels + 2 * num_tokens * channels * rank
    predict = num_heads * (reduce + num_tokens * topk_coef * basis_row)
    return {"dense": 2 * num_tokens**2 * dim, "sparse": round(predict + 2 * num_tokens * budget * dim)}
