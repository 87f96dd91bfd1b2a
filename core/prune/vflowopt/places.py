"""Where the visual tokens of a prompt are in the grids of its pictures (methods/vflowopt.md, section 3.2).

The language model gets, of each picture, one grid; or an overview, and then the tiles laid together, with a token at
the end of each row that belongs to no patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenPlaces:
    """Of each visual token of a prompt, all [n] int64.

    Parameters
    ----------
    rows, columns : Tensor
        In its grid; the token at the end of a row is in the column behind the last.
    sheets : Tensor
        Which grid, from 0.
    """

    rows: Tensor
    columns: Tensor
    sheets: Tensor

    @property
    def side(self) -> int:
        """Rows or columns of the largest grid, whichever are more."""
        return int(torch.cat([self.rows, self.columns]).max()) + 1


def token_places(cells: Tensor, views: Tensor, grids: Sequence[tuple[int, int]]) -> TokenPlaces:
    """Where tokens are that are made of cells of an image tower.

    Parameters
    ----------
    cells : Tensor of int64 [n]
        Of each token; -1 for the ends of rows.
    views : Tensor of int64 [cells]
        Picture, tile or frame of each cell of the batch; its cells follow each other row by row.
    grids : sequence of (h, w)
        Of each view.
    """
    if bool((cells >= 0).all()):
        view = views[cells]
        inside = cells - torch.searchsorted(views, view)
        width = torch.tensor([w for _, w in grids], device=cells.device)[view]
        return TokenPlaces(torch.div(inside, width, rounding_mode="floor"), inside % width, view - view.min())
    rows, columns, sheets = (torch.empty_like(cells) for _ in range(3))
    sheet, start, row = -1, 0, 0
    for end in (cells < 0).nonzero().flatten().tolist():
        h, w = grids[int(views[cells[start]])] if end > start else (0, 0)
        if end - start > h * w > 0 and _is_whole(cells[start : start + h * w], views):
            sheet += 1  # the overview of the next picture
            inside = torch.arange(h * w, device=cells.device)
            part = slice(start, start + h * w)
            rows[part], columns[part], sheets[part] = inside // w, inside % w, sheet
            sheet, start, row = sheet + 1, start + h * w, 0
        part = slice(start, end + 1)
        rows[part], sheets[part] = row, max(sheet, 0)
        columns[part] = torch.arange(end + 1 - start, device=cells.device)
        start, row = end + 1, row + 1
    return TokenPlaces(rows, columns, sheets)


def _is_whole(cells: Tensor, views: Tensor) -> bool:
    """Whether cells are all those of one view, in order."""
    steps = torch.arange(len(cells), device=cells.device)
    view = views[cells[0]]
    return bool((cells == cells[0] + steps).all()) and int((views == view).sum()) == len(cells)
