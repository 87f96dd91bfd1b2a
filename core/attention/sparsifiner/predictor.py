"""Sparsifiner's connectivity predictor: which keys every query needs, from a low-rank guess at the attention map.

Paper: CVPR 2023, arXiv 2303.13755. Specification: methods/sparsifiner.md, section 3.1; step numbers are its numbers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..equations import accumulator
from ..tokens.top_k import top_k_positions

ScaleRule = Literal["code", "dim"]
_LARGEST_RANDOM = 2 << 30  # bytes of an untrained predictor: its matrices grow with the square of the length


@dataclass(frozen=True)
class Rules:
    """How a prediction becomes a mask.

    Parameters
    ----------
    topk_coef : int
        Step 5: coefficients kept per query. 0: those above ``coef_threshold`` instead.
    coef_threshold : float
    basis_threshold : float
        Step 4: entries of |U| up to this are 0. Larger: sparser basis, more ties.
    score_threshold : float or None
        Step 7: None: the ``ceil(keep_ratio * N)`` best keys; else every key whose prediction exceeds this.
    scale_rule : {"code", "dim"}
        Step 3: the number of heads to the -1/2, as in the official code, or the reduced width c to the -1/2.
    class_token : bool
        Whether token 0 is a class token, which attends to every key.
    """

    topk_coef: int = 8
    coef_threshold: float = 0.05
    basis_threshold: float = 0.02
    score_threshold: float | None = None
    scale_rule: ScaleRule = "code"
    class_token: bool = True

    def __post_init__(self) -> None:
        if self.topk_coef < 0:
            raise ValueError(f"topk_coef is {self.topk_coef}: give a positive number, or 0 for a threshold.")
        if not self.basis_threshold >= 0:
            raise ValueError(f"basis_threshold is {self.basis_threshold}: it must not be negative.")
        if self.scale_rule not in ("code", "dim"):
            raise ValueError(f"scale_rule is {self.scale_rule!r}: it must be 'code' or 'dim'.")

    @property
    def first_row(self) -> int:
        """The first query that has a prediction."""
        return int(self.class_token)


def key_budget(num_tokens: int, keep_ratio: float) -> int:
    """Step 7. Keys per query: ceil(keep_ratio * N). Raises ``ValueError`` outside (0, 1]."""
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is {keep_ratio}: it must be above 0 and at most 1.")
    return math.ceil(keep_ratio * num_tokens)


@dataclass(frozen=True)
class MaskPrediction:
    """One prediction, dense: for training, and for sequences of a few hundred tokens.

    ``coef`` [B, H, R, n]: coefficients, after step 5 unless reconstructing; ``approx`` [B, H, R, N]: the predicted
    attention of the R queries that have one; ``mask``: bool [B, H, N, N], None while reconstructing.
    """

    coef: Tensor
    approx: Tensor
    mask: Tensor | None


class ConnectivityPredictor(nn.Module):
    """Steps 1-7, shared by the heads of a layer.

    Parameters
    ----------
    num_tokens : int
        N, class token included; the two matrices are tied to it (``resized`` makes them anew).
    head_dim : int
    reduce_n, reduce_c : int
        Basis vectors are N // reduce_n, channels head_dim // reduce_c, at least 1 each.
    share_basis : bool
        Use the "down" matrix P as "up" matrix U too.
    """

    def __init__(
        self, num_tokens: int, head_dim: int, *, reduce_n: int = 6, reduce_c: int = 2, share_basis: bool = False
    ) -> None:
        super().__init__()
        if min(num_tokens, head_dim, reduce_n, reduce_c) < 1:
            raise ValueError(
                f"num_tokens {num_tokens}, head_dim {head_dim}, reduce_n {reduce_n} and reduce_c {reduce_c} must be "
                "positive."
            )
        rank, channels = max(1, num_tokens // reduce_n), max(1, head_dim // reduce_c)
        self.proj_c_q = nn.Linear(head_dim, channels)
        self.proj_c_k = nn.Linear(head_dim, channels)
        self.proj_n = nn.Parameter(torch.empty(num_tokens, rank))  # P
        self.proj_back_n = None if share_basis else nn.Parameter(torch.empty(num_tokens, rank))  # U
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Truncated normal, std 0.02; zero biases."""
        for layer in (self.proj_c_q, self.proj_c_k):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        for matrix in (self.proj_n, self.proj_back_n):
            if matrix is not None:
                nn.init.trunc_normal_(matrix, std=0.02, generator=generator)

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.proj_n.shape[0]

    def reduced(
        self, q: Tensor, k: Tensor, rules: Rules, live: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Steps 1 and 2, and the scale of step 3: q' s [B, H, R, c] and kd [B, H, c, n].

        Parameters
        ----------
        q, k : Tensor [B, H, N, D]
        rules : Rules
        live : Tensor bool [B, N], optional
            False: a token that was pruned before; its q' and k' are 0.
        positions : Tensor int64 [B, N'], optional
            Of the tokens that are left, where pruned ones were taken out of q and k [B, H, N', D].

        Raises
        ------
        ValueError
            If N or D is not what the predictor was made for.
        """
        num_tokens = k.shape[2] if positions is None else self.num_tokens
        if num_tokens != self.num_tokens or k.shape[3] != self.proj_c_k.in_features:
            raise ValueError(
                f"the predictor was made for {self.num_tokens} tokens of head_dim {self.proj_c_k.in_features}, k is "
                f"{list(k.shape)}: use .resized(...) for another token map, or train one."
            )
        dtype = accumulator(q.dtype)
        reduced_q, reduced_k = (
            functional.linear(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))
            for x, layer in ((q[:, :, rules.first_row :], self.proj_c_q), (k, self.proj_c_k))
        )
        if live is not None:
            reduced_q = reduced_q * live[:, None, rules.first_row :, None]
            reduced_k = reduced_k * live[:, None, :, None]
        scale = (q.shape[1] if rules.scale_rule == "code" else reduced_q.shape[-1]) ** -0.5
        down = self.proj_n.to(dtype)
        if positions is not None:
            return reduced_q * scale, reduced_k.mT @ down[positions][:, None]
        # one product of two matrices: batched, torch would copy P for every head
        pooled = reduced_k.mT.reshape(-1, self.num_tokens) @ down
        return reduced_q * scale, pooled.view(*reduced_k.shape[:2], reduced_k.shape[3], down.shape[1])

    def basis(self, rules: Rules, dtype: torch.dtype, *, reconstruct: bool = False) -> Tensor:
        """Step 4. [n, N]: signed while reconstructing, else its size where above the threshold."""
        up = (self.proj_n if self.proj_back_n is None else self.proj_back_n).to(dtype)
        if not reconstruct:
            up = functional.threshold(up.abs(), rules.basis_threshold, 0.0)  # strictly above is kept
        return up.mT

    def forward(
        self, q: Tensor, k: Tensor, rules: Rules, *, keep_ratio: float = 0.25, live: Tensor | None = None,
        positions: Tensor | None = None, reconstruct: bool = False,
    ) -> MaskPrediction:  # fmt: skip
        """Steps 1-7, dense.

        Parameters
        ----------
        q, k : Tensor [B, H, N, D]
        rules : Rules
        keep_ratio : float
            Budget of a query as a share of N, in (0, 1].
        live : Tensor bool [B, N], optional
            Tokens that were not pruned before: as many in every sample.
        positions : Tensor int64 [B, N'], optional
            Instead of ``live``, where q and k hold only those tokens; ascending.
        reconstruct : bool
            Stage 1 of the training: signed basis, all coefficients, no mask.
        """
        reduced_q, pooled = self.reduced(q, k, rules, live, positions)
        coef = (reduced_q @ pooled).softmax(-1)  # step 3: [B, H, R, n]
        if not reconstruct:
            coef = sparse_coefficients(coef, rules)
        basis = self.basis(rules, coef.dtype, reconstruct=reconstruct)
        if positions is not None:
            basis = basis.mT[positions].mT[:, None]  # [B, 1, n, N']
        approx = coef @ basis  # step 6: [B, H, R, N]
        if reconstruct:
            return MaskPrediction(coef, approx, None)
        budget, first = key_budget(self.num_tokens, keep_ratio), rules.first_row
        if positions is not None:
            budget = min(budget, positions.shape[1] - first)
        if live is not None and len(live):
            approx = approx.masked_fill(~live[:, None, None, :], -torch.inf)
            budget = min(budget, int(live[0, first:].sum()))  # all samples keep equally many
        mask = torch.ones(*q.shape[:3], k.shape[2], dtype=torch.bool, device=q.device)
        mask[:, :, first:] = choose(approx.detach(), budget, rules)
        return MaskPrediction(coef, approx, mask)

    def resized(self, grid: tuple[int, int], new_grid: tuple[int, int], *, class_token: bool = True) -> (
        ConnectivityPredictor
    ):  # fmt: skip
        """The predictor for another token map: the patch rows of P and U, interpolated bilinearly in two dimensions.

        Parameters
        ----------
        grid, new_grid : (int, int)
            Height and width of the map it was trained on, and of the one it is wanted for.
        class_token : bool
            Whether row 0 belongs to a class token, which keeps its row.

        Raises
        ------
        ValueError
            If ``grid`` is not this predictor's.
        """
        first = int(class_token)
        if grid[0] * grid[1] + first != self.num_tokens or min(new_grid) < 1:
            raise ValueError(f"{self.num_tokens} tokens are not a {grid[0]}x{grid[1]} map; new map {new_grid}.")
        other = ConnectivityPredictor(new_grid[0] * new_grid[1] + first, self.proj_c_q.in_features)
        other.load_state_dict({**other.state_dict(), **{n: p for n, p in self.state_dict().items() if "_c_" in n}})

        def resize(matrix: nn.Parameter | None) -> nn.Parameter | None:
            if matrix is None:
                return None
            rows = matrix.detach()[first:].mT.reshape(1, -1, *grid)  # [1, n, h, w]
            rows = functional.interpolate(rows, size=new_grid, mode="bilinear", align_corners=False)
            return nn.Parameter(torch.cat([matrix.detach()[:first], rows[0].flatten(1).mT]))

        down = resize(self.proj_n)
        assert down is not None
        other.proj_n, other.proj_back_n = down, resize(self.proj_back_n)
        return other


def sparse_coefficients(coef: Tensor, rules: Rules) -> Tensor:
    """Step 5. The largest coefficients of each row, the rest 0, not normalised again: [..., n]."""
    if not rules.topk_coef:
        return functional.threshold(coef, rules.coef_threshold, 0.0)
    kept = top_k_positions(coef.detach(), rules.topk_coef).long()
    return torch.zeros_like(coef).scatter(-1, kept, coef.gather(-1, kept))


def choose(approx: Tensor, budget: int, rules: Rules) -> Tensor:
    """Step 7. bool, shape of ``approx`` [..., N]: the ``budget`` largest (ties: smaller position), or by threshold."""
    if rules.score_threshold is not None:
        return approx > rules.score_threshold
    kept = top_k_positions(approx, budget).long()
    return torch.zeros_like(approx, dtype=torch.bool).scatter(-1, kept, True)


@functools.lru_cache(maxsize=2)
def random_predictor(
    num_tokens: int, head_dim: int, reduce_n: int, reduce_c: int, seed: int, device: torch.device | None = None
) -> ConnectivityPredictor:
    """An untrained predictor, the same on every device: for measuring time, not quality.

    Raises
    ------
    ValueError
        If its two matrices of N x N // reduce_n numbers would take more than 2 GB.
    """
    size = 8 * num_tokens * max(1, num_tokens // max(1, reduce_n))
    if size > _LARGEST_RANDOM:
        fitting = math.ceil(8 * num_tokens * num_tokens / _LARGEST_RANDOM)
        raise ValueError(
            f"a predictor for {num_tokens} tokens with reduce_n={reduce_n} takes {size / 2**30:.1f} GB: raise reduce_n "
            f"to {fitting} or more."
        )
    with torch.random.fork_rng(devices=[]):
        predictor = ConnectivityPredictor(num_tokens, head_dim, reduce_n=reduce_n, reduce_c=reduce_c)
    predictor.reset_parameters(torch.Generator().manual_seed(seed))
    return predictor.requires_grad_(False).to(device)
