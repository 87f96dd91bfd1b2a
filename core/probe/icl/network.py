"""One layer of attention over the examples of a prompt. Specification: methods/icl-regression.md, section 3.2.

A head is two matrices: KQ (d + K, d + K), whose label columns the query never meets, since its label slots are 0; and
OV, of which only the last K rows are read. Several networks (seeds) are computed at once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .problem import Problem, Regressions, generator_of

Kind = Literal["softmax", "linear"]
INIT = 0x1C1
"""Part of the seed of start values, so that no step has the same."""


class HeadMatrices(NamedTuple):
    """``kq`` [S, H, d + K, d + K] and ``ov``, the rows that are read, [S, H, K, d + K]: S networks of H heads."""

    kq: Tensor
    ov: Tensor


def scores(kq: Tensor, prompts: Regressions, *, attend_query: bool = False) -> Tensor:
    """z_l^T KQ_h z_q of every example [S, B, H, L]; ``attend_query`` adds the query as one more, the last.

    ``prompts`` are [S, B, ...].
    """
    networks, heads, width, _ = kq.shape
    dim = prompts.query.shape[-1]
    columns = kq[..., :dim].permute(0, 3, 1, 2).reshape(networks, dim, heads * width)
    wanted = torch.bmm(prompts.query, columns)  # KQ_h z_q
    wanted = wanted.view(-1, heads, width)
    tokens = seen(prompts, attend_query=attend_query)
    return torch.bmm(wanted, tokens.flatten(0, 1)).view(*prompts.query.shape[:2], heads, -1)


def seen(prompts: Regressions, *, attend_query: bool) -> Tensor:
    """What the heads attend to [S, B, d + K, L or L + 1]."""
    if not attend_query:
        return prompts.tokens
    query = torch.zeros_like(prompts.tokens[..., :1])
    query[..., : prompts.query.shape[-1], 0] = prompts.query
    return torch.cat((prompts.tokens, query), -1)


def weights(s: Tensor, kind: Kind, over: int = 0) -> Tensor:
    """Attention of scores: their softmax, or, linear, themselves divided by ``over`` (0: by their number)."""
    return s.softmax(-1) if kind == "softmax" else s / (over or s.shape[-1])


def read_out(a: Tensor, ov: Tensor, prompts: Regressions, *, attend_query: bool = False) -> Tensor:
    """The last K entries of sum_h OV_h Z a_h: predictions [S, B, K]."""
    networks, batch = a.shape[:2]
    tokens = seen(prompts, attend_query=attend_query)
    gathered = torch.bmm(a.flatten(0, 1), tokens.flatten(0, 1).transpose(1, 2))
    rows = ov.transpose(2, 3).reshape(networks, -1, ov.shape[2])
    return torch.bmm(gathered.view(networks, batch, -1), rows)


def predict(
    heads: HeadMatrices, prompts: Regressions, kind: Kind = "softmax", *, over: int = 0, attend_query: bool = False
) -> Tensor:
    """Predictions [S, B, K] of S networks for prompts [S, B, ...]. See ``weights`` for ``over``."""
    a = weights(scores(heads.kq, prompts, attend_query=attend_query), kind, over)
    return read_out(a, heads.ov, prompts, attend_query=attend_query)


class InContextHeads(nn.Module):
    """Networks that learn side by side and know nothing of each other.

    Parameters
    ----------
    problem : Problem
    seeds : range
        A network each; start values are N(0, std^2).
    heads : int
    std : float
    kind : {"softmax", "linear"}
    factored : bool
        KQ = K^T Q and OV = O V are learnt as four matrices.
    paired : bool
        Every second head starts as the one before it, negated: KQ and OV.
    attend_query : bool
        The query is among the keys.
    """

    def __init__(
        self, problem: Problem, seeds: range, heads: int, std: float, *, kind: Kind = "softmax",
        factored: bool = False, paired: bool = False, attend_query: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.problem, self.kind, self.factored, self.attend_query = problem, kind, factored, attend_query
        width, tasks = problem.width, problem.tasks
        square, rows = (heads, width, width), (heads, tasks, width)
        shapes = (square, square, square, rows) if factored else (square, rows)
        drawn = []
        for seed in seeds:
            generator = generator_of(seed, 0, INIT)
            drawn.append([std * torch.randn(shape, generator=generator) for shape in shapes])
        values = [torch.stack(of) for of in zip(*drawn, strict=True)]
        if paired:  # of factors, one of the two is negated
            for value in (values[1], values[-1]) if factored else values:
                value[:, 1::2] = -value[:, 0 : heads - 1 : 2]
            if factored:
                for value in (values[0], values[2]):
                    value[:, 1::2] = value[:, 0 : heads - 1 : 2]
        self.parts = nn.ParameterList(values)

    @property
    def heads(self) -> HeadMatrices:
        """The merged matrices."""
        if not self.factored:
            return HeadMatrices(self.parts[0], self.parts[1])
        key, query, value, out = self.parts
        return HeadMatrices(key.transpose(-1, -2) @ query, out @ value)

    def forward(self, prompts: Regressions) -> Tensor:
        """Predictions [S, B, K]; linear attention divides by the length that is trained on."""
        over = self.problem.length
        return predict(self.heads, prompts, self.kind, over=over, attend_query=self.attend_query)
