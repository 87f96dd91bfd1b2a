"""Efficient probing: learned queries, no key projection, a block of value channels for each query.

Paper: "Attention, Please! Revisiting Attentive Probing for Masked Image Modeling", arXiv 2506.10178. Specification:
methods/efficient-probing.md, sections 3.1 (the function) and 3.2 (the identity by which it is computed): queries pool
the raw tokens first, and only what they pooled is projected. The values of all tokens are never made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...attention.equations import needs_triton
from ...choose import Formulation, Phase
from .contract import Pooling, TokenShape


def pool(query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Steps 2 and 3 for queries [M, C] and tokens [B, N, C]: tokens pooled [B, M, C], and the maps [B, M, N]."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    maps = torch.softmax(query.to(x.dtype) @ x.mT * x.shape[-1] ** -0.5, -1)
    return maps @ x, maps


def _refuses_triton(query: Tensor, x: Tensor) -> str | None:
    reason = needs_triton(x)
    if reason is not None:
        return reason
    from ....kernels import probing

    return probing.refuses(query, x)


def _by_triton(query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    from ....kernels import probing

    return probing.pool(query, x)


POOL = Phase(
    "efficient probing",
    (
        Formulation("maps, then sums of tokens, Triton", "triton", _by_triton, _refuses_triton),
        Formulation("two products", "torch", pool),
    ),
)


class EfficientPooling(Pooling):
    """EP_M.

    Parameters
    ----------
    shape : TokenShape

    Raises
    ------
    ValueError
        If the queries do not divide the channels: names numbers near by that do.
    """

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        check_queries(shape.width, shape.queries, shape.d_out)
        self.out_width = shape.width // shape.d_out
        self.heads = shape.queries
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, shape.queries, shape.width))
        self.v = nn.Linear(shape.width, self.out_width, bias=False)

    def maps(self, x: Tensor) -> Tensor:
        """Step 2: a_j = softmax over tokens of C^(-1/2) U_j . X_n, in float32 at least."""
        maps: Tensor = POOL(self.cls_token[0], x)[1]
        return maps

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = POOL(self.cls_token[0], x)[0].transpose(0, 1)  # Z, [M, B, C]
        blocks = self.v.weight.to(pooled.dtype).view(len(pooled), -1, x.shape[-1])  # [M, C'/M, C]
        return (pooled @ blocks.mT).transpose(0, 1).flatten(1)


def check_queries(width: int, queries: int, d_out: int) -> None:
    """Raises ``ValueError`` unless ``d_out`` divides the width, and the queries what is left of it."""
    if width % d_out:
        raise ValueError(f"d_out {d_out} does not divide the width {width} of the tokens")
    out = width // d_out
    if out % queries:
        valid = [number for number in range(1, out + 1) if out % number == 0]
        near = sorted(sorted(valid, key=lambda number: abs(number - queries))[:4])
        raise ValueError(
            f"{queries} queries do not divide {out} channels"
            + (f" (width {width} / d_out {d_out})" if d_out > 1 else "")
            + f"; near it do {', '.join(map(str, near))}"
        )
