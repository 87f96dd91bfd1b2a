"""What a method needs of the image tower: attention and keys of single layers, token by token.

Hooks note what a few layers get while the tower runs (``watch.py``). Their attention is looked at afterwards, by
running that of the one layer again, in tiles of rows: kernels stay as they are, and no matrix of all rows is made.
Sources: methods/pruning-peers.md, sections 3.5, 3.7 and 8.1; methods/vflowopt.md, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.family import attention_places
from ...models.hooks import capture
from .cells import handed_out, layout_of_call, order_of_call
from .segments import TowerSegment
from .sites import VisionLanguageSite
from .watch import TowerCall, projection_of


class Tower:
    """What the image tower made of the pictures of a batch.

    A *cell* is a place in a picture or tile of which the projector makes one visual token: a patch, or a block of
    patches that are merged. Cells are numbered through all pictures and tiles of the batch, and every result below has
    one entry per cell: ``result[tower.cells[sample]]`` are those of a prompt's visual tokens.

    Parameters
    ----------
    site : VisionLanguageSite
    calls : sequence of TowerCall
        One per kind of visual token, in the order of ``site.tokens``.
    input_ids : Tensor of int64 [B, N]

    Attributes
    ----------
    cells : tuple of Tensor of int64 [n_b]
        Of each prompt, the cells of its visual tokens; -1 where a token is made of none (ends of lines).
    views : Tensor of int64 [cells]
        The picture, tile or frame that each cell is in, counted through the batch.
    grids : tuple of (int, int)
        Of each view, cells down and across. A view's cells follow each other row by row.
    """

    def __init__(self, site: VisionLanguageSite, calls: Sequence[TowerCall], input_ids: Tensor) -> None:
        kinds = [token for token in site.tokens if (input_ids == token).any()]
        if len(calls) < len(kinds):
            raise UsageError("the features of the pictures were made before the block: pass the pixels inside it.")
        self.site, self.calls = site, calls[len(calls) - len(kinds) :]
        self.places = attention_places(site.tower)
        self._seen: dict[tuple[int, int], list[TowerSegment]] = {}
        self.patches: list[Tensor] = []  # of each call, the rows that make each cell [cells, m]
        views: list[Tensor] = []
        grids: list[tuple[int, int]] = []
        orders: list[Tensor] = []
        for call in self.calls:
            patches, sizes = layout_of_call(site, call)
            start = sum(map(len, self.patches))
            order = order_of_call(site, call, len(patches), len(sizes))
            orders.append(torch.where(order < 0, order, order + start))
            self.patches.append(patches)
            lengths = torch.tensor([h * w for h, w in sizes], device=patches.device)
            views.append(torch.arange(len(sizes), device=patches.device).repeat_interleave(lengths) + len(grids))
            grids += sizes
        self.views, self.grids = torch.cat(views), tuple(grids)
        self.cells = handed_out(input_ids, kinds, orders)

    @cached_property
    def features(self) -> Tensor:
        """What the projector gets, one row per cell, [cells, W]: merged patches one behind the other."""
        found = []
        for call, patches in zip(self.calls, self.patches, strict=True):
            assert call.features is not None
            rows = call.features.reshape(len(patches), -1)
            if call.grid is not None:  # in the order of the rows, which windows may have changed
                rows = rows[torch.div(patches[:, 0], patches.shape[1], rounding_mode="floor")]
            found.append(rows)
        return torch.cat(found)

    def project(self, features: Tensor) -> Tensor:
        """Features [n, W] as visual tokens, [n, D]."""
        rows = features
        if self.calls[0].grid is not None:
            rows = features.reshape(len(features) * self.patches[0].shape[1], -1)
        out: Tensor = projection_of(self.site)(rows)
        return out

    def keys(self, layer: int) -> Tensor:
        """Keys of a layer, mean over the patches of a cell, [cells, H, d]; as the softmax sees them."""
        found = []
        for call, patches in zip(self.calls, self.patches, strict=True):
            keys = torch.cat([segment.k for segment in self._segments(call, layer)], 1)
            found.append(keys.transpose(0, 1)[patches].mean(1))
        return torch.cat(found)

    def class_attention(self, layer: int) -> Tensor:
        """Attention of the class token to each cell, [H, cells], float32: the sum over its patches.

        Raises
        ------
        UsageError
            If the tower has no class token.
        """
        self._need_class()
        return self._attended(layer, lambda segment: segment.attention(slice(0, 1))[:, 0])

    def class_weights(self, layer: int) -> Tensor:
        """The class token's softmax of one head of the full width, [cells], float32: the sum over a cell's patches.

        Source: methods/pruning-peers.md, section 3.7. The class token's own key is in the softmax.

        Raises
        ------
        UsageError
            If the tower has no class token.
        """
        self._need_class()

        def of(segment: TowerSegment) -> Tensor:
            q, k = segment.q[:, 0].float().flatten(), segment.k.float().transpose(0, 1).flatten(1)
            weights: Tensor = (k @ (q * len(q) ** -0.5)).softmax(0)
            return weights[None]

        return self._attended(layer, of)[0]

    def tiles(self, sample: int) -> list[Tensor]:
        """Of a prompt's visual tokens, the places of those that are made of each picture, tile or frame, in order."""
        cells = self.cells[sample]
        views = torch.where(cells < 0, -1, self.views[cells])
        return [(views == view).nonzero().flatten() for view in sorted(set(views[views >= 0].tolist()))]

    def received(self, layer: int, rows: Tensor | None = None) -> Tensor:
        """Attention that each cell receives, mean over heads and rows, [cells], float32.

        Parameters
        ----------
        layer : int
        rows : Tensor of bool [cells], optional
            Cells whose rows are meant; without it all rows of the view that are no padding, a class token's among them.

        Returns
        -------
        Tensor
            Sums over the patches of a cell; zeros for a view without such rows.
        """

        return self._received(layer, None if rows is None else rows[:, None], alone=False).sum(1)

    def among_patches(self, layer: int, rows: Tensor | None = None) -> Tensor:
        """Attention that each patch receives from patches, mean over heads and rows, [cells, m], float32.

        What a patch gives a class token or padding is shared out among the patches it sees (methods/vflowopt.md,
        section 12).

        Parameters
        ----------
        layer : int
        rows : Tensor of bool [cells, m], optional
            Patches whose rows are meant; without it all of the view that are no padding.
        """
        return self._received(layer, rows, alone=True)

    def _received(self, layer: int, rows: Tensor | None, *, alone: bool) -> Tensor:
        """Mean over heads and over the rows that are meant, [cells, m]; zeros for a view without such rows."""
        found, first = [], 0
        for call, patches in zip(self.calls, self.patches, strict=True):
            segments = self._segments(call, layer)
            meant = torch.cat([segment.counted() for segment in segments])
            inside = torch.zeros_like(meant)
            inside[patches.flatten()] = True
            inside &= meant
            if rows is not None:
                wanted = torch.zeros_like(meant)
                own = rows[first : first + len(patches)].expand_as(patches)
                wanted[patches[own]] = True
                meant = meant & wanted
            if alone:
                meant = meant & inside
            values = []
            for segment in segments:
                part = slice(segment.start, segment.start + segment.q.shape[1])
                values.append(segment.received(meant[part], inside[part] if alone else None))
            found.append(torch.cat(values)[patches])
            first += len(patches)
        return torch.cat(found)

    def _attended(self, layer: int, of: Callable[[TowerSegment], Tensor]) -> Tensor:
        """A value [H, n] of each segment, summed over the patches of each cell, [H, cells]."""
        found = []
        for call, patches in zip(self.calls, self.patches, strict=True):
            found.append(torch.cat([of(segment) for segment in self._segments(call, layer)], 1)[:, patches].sum(-1))
        return torch.cat(found, 1)

    def _need_class(self) -> None:
        if not has_class_token(self.site):
            raise UsageError(f"{type(self.site.model).__name__}: its image tower has no class token.")

    def _segments(self, call: TowerCall, layer: int) -> list[TowerSegment]:
        if (id(call), layer) in self._seen:
            return self._seen[id(call), layer]
        module: Any = self.places[layer].module
        args, kwargs = call.inputs[layer]
        with capture(module, what=("q", "k")) as seen:
            module(*args, **kwargs)
        segments: list[TowerSegment] = []
        start = 0
        for one in seen:
            assert one.q is not None
            assert one.k is not None
            for number in range(len(one.q)):
                mask = None if one.mask is None else one.mask[number if len(one.mask) > 1 else 0]
                segments.append(TowerSegment(start, one.q[number], one.k[number], mask, one.scale))
                start += one.q.shape[2]
        self._seen[id(call), layer] = segments
        return segments


def has_class_token(site: VisionLanguageSite) -> bool:
    """Whether the image tower has a class token, in row 0."""
    names = {name.rpartition(".")[2] for name, _ in site.tower.named_parameters()}
    return bool(names & {"class_embedding", "cls_token"})


def feature_layer(site: VisionLanguageSite) -> int:
    """The layer of the tower, from 0, whose output the projector gets; the last of several.

    Raises
    ------
    UsageError
        If it is the embedding in front of all layers.
    """
    depth = len(attention_places(site.tower))
    chosen = getattr(site.model.config, "vision_feature_layer", None)
    if chosen is None:
        return depth - 1
    numbers = [n - 1 if n >= 0 else depth + n for n in ([chosen] if isinstance(chosen, int) else chosen)]
    if max(numbers) < 0:
        raise UsageError(f"{type(site.model).__name__}: its features come from no layer of the image tower.")
    return max(numbers)
