"""Every block of queries over its window on a GPU, by ``attn.kernels.halo``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..equations import needs_triton
from .blocks import Halo, add_border, relative_terms


def refuses(q: Tensor, k: Tensor, v: Tensor, layout: Halo | None = None, **options: Any) -> str | None:
    """Why the kernels do not take a call of ``attend_windows``, or of the operator with its ``settings`` and grid."""
    reason = needs_triton(q)
    if reason is not None:
        return reason
    from ....kernels import halo

    if layout is None and "settings" in options:
        layout = options["settings"].layout(options["grid"], q.shape[-1])
        return halo.refuses(q, v.shape[3], layout.win)
    return halo.refuses(q, v.shape[1], layout.win if layout else 1)


def attend_windows(
    q: Tensor, k: Tensor, v: Tensor, layout: Halo, *, scale: float, height_rel: Tensor | None = None,
    width_rel: Tensor | None = None, scale_pos: bool = False, mask_border: bool = False, group: int = 1,
) -> Tensor:  # fmt: skip
    """As ``attend.attend_windows``: [N, rows, cols, M, Dv], differentiable in q, k, v and the tables."""
    from ....kernels import halo

    blocks = q.flatten(0, 2)  # [C, M, D]
    of_rows = of_columns = q.new_empty(0)
    if height_rel is not None and width_rel is not None:
        terms = relative_terms(blocks, layout, height_rel, width_rel, group)  # [C, M, win] each
        of_rows, of_columns = (term * scale for term in terms) if scale_pos else terms
    keys, values = (add_border(x, layout).permute(0, 2, 3, 1) for x in (k, v))  # [N, tall, wide, .]
    sizes = [layout.rows, layout.cols, layout.block, layout.halo, *layout.grid, layout.win]
    out, _ = halo.attend(blocks, keys, values, of_rows, of_columns, sizes, scale, mask_border)
    return out.reshape(*q.shape[:4], -1)
