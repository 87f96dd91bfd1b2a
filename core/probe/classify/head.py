"""What is trained on frozen tokens: a pooling, batch norm without a scale, a linear classifier; and k-NN, which is not.

Specification: methods/efficient-probing.md, sections 3.1, step 5, and 3.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nets.poolings.contract import Pooling, TokenShape, pooling_of

NEIGHBOURS = (5, 10, 15, 20, 50, 100, 200)
TEMPERATURES = (0.07, 0.1, 0.2)
"""Section 3.6."""


class ProbeHead(nn.Sequential):
    """Tokens [B, N, C] to logits [B, K]. Its state is that of the official code: 0 the pooling, 1 the norm, 2 linear.

    Parameters
    ----------
    name : str
        Of ``POOLINGS``.
    shape : TokenShape
    classes : int
        K.
    """

    def __init__(self, name: str, shape: TokenShape, classes: int) -> None:
        pooling = pooling_of(name, shape)
        super().__init__(
            pooling,
            nn.BatchNorm1d(pooling.out_width, eps=1e-6, affine=False),
            nn.Linear(pooling.out_width, classes),
        )

    @property
    def pooling(self) -> Pooling:
        pooling = self[0]
        assert isinstance(pooling, Pooling)
        return pooling

    @property
    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


def neighbour_scores(
    test: Tensor, train: Tensor, labels: Tensor, classes: int, pairs: Sequence[tuple[int, float]]
) -> Iterator[Tensor]:
    """k-NN: classes of the k most similar vectors, each with the weight exp(cosine / T), summed by class.

    Parameters
    ----------
    test, train : Tensor, shapes (n, C) and (m, C)
        Any lengths; they are normalised here.
    labels : Tensor of int64, shape (m,)
    classes : int
    pairs : sequence of (k, T)
        k above m takes all m.

    Yields
    ------
    Tensor, shape (n, classes), for each pair.
    """
    test, train = F.normalize(test, dim=1), F.normalize(train, dim=1)
    most = min(len(train), max(k for k, _ in pairs))
    near = [(part @ train.T).topk(most) for part in torch.split(test, 4096)]
    cosines, owners = torch.cat([of.values for of in near]), labels[torch.cat([of.indices for of in near])]
    for k, temperature in pairs:
        scores = torch.zeros(len(test), classes, dtype=cosines.dtype)
        yield scores.scatter_add_(1, owners[:, :k], (cosines[:, :k] / temperature).exp())
