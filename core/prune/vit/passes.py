"""Patches dropped or merged while an image transformer runs: hooks of its blocks, which leave no trace.

Source: methods/pruning-peers.md, section 8.6: positions are in the tokens already, so rows of hidden states are taken
out in front of a block, and sequences really are shorter. Pictures of a batch that keep different numbers are padded
with a mask, and give what each gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.family import layout_of
from ...nets.sparsifiner_vit import SparsifinerViT
from .site import ImageSite, TokenBlock, class_row
from .stages import DropStage, ImagePass, ImageTrace, MergeStages, PatchScores


@contextmanager
def pruned_images(
    site: ImageSite, drops: Sequence[DropStage] = (), merges: MergeStages | None = None
) -> Iterator[ImageTrace]:
    """Run an image transformer with fewer tokens.

    Parameters
    ----------
    site : ImageSite
    drops : sequence of DropStage
    merges : MergeStages, optional

    Yields
    ------
    ImageTrace

    Raises
    ------
    UsageError
        If there is no such block; while the model runs, if it is given a mask of attention, or reads the mean of
        patches of which pictures of a batch have different numbers.

    Notes
    -----
    On leaving, also by an exception, the model is as it was.
    """
    if isinstance(site.model, SparsifinerViT):
        raise UsageError("a model of `attn train sparsifiner` is pruned by the method sparsifiner alone.")
    for stage in drops:
        least = 1 if stage.attention else 0
        if not least <= stage.layer < site.depth:
            raise UsageError(
                f"layer {stage.layer}: patches can be dropped in front of blocks {least} to {site.depth - 1} of "
                f"{type(site.model).__name__}."
            )
    run = _Run(site, drops, merges)
    with ExitStack() as stack:
        run.enter(stack)
        yield run.trace


class _Run:
    """The state of a ``pruned_images`` block."""

    def __init__(self, site: ImageSite, drops: Sequence[DropStage], merges: MergeStages | None) -> None:
        self.site, self.merges, self.trace = site, merges, ImageTrace()
        self.drops = {stage.layer: stage for stage in drops}
        if len(self.drops) != len(drops):
            raise ValueError("two stages in front of one block")
        self.alive: Tensor | None = None  # [B, N]; None: all are
        self.sizes: Tensor | None = None  # [B, N]; None: all are 1
        self.owner = torch.empty(0)  # [B, P] place among the tokens, or -1
        self.seen: dict[str, Tensor] = {}
        self.pairs: Sequence[int] = ()

    def enter(self, stack: ExitStack) -> None:
        for number, of in enumerate(self.site.blocks):
            hook = of.block.register_forward_pre_hook(partial(self.block, number), with_kwargs=True)
            stack.callback(hook.remove)
            if (stage := self.drops.get(number + 1)) is not None and stage.attention:
                self._watch(stack, of)
            elif self.merges is not None:
                self._watch(stack, of, keys_only=True)
            if self.merges is not None:
                stack.callback(_restore, of.block, "forward" in vars(of.block), of.block.forward)
                of.block.forward = partial(self.merging, number, of.block.forward)

    def _watch(self, stack: ExitStack, of: TokenBlock, *, keys_only: bool = False) -> None:
        """Keep what the projections of a block's attention give."""
        layout = layout_of(of.attention)
        names = {"qkv": layout.query} if layout.fused else {"q": layout.query, "k": layout.key}
        for part, name in names.items():
            if part != "q" or not keys_only:
                keep = partial(self._output, part)
                stack.callback(of.attention.get_submodule(name).register_forward_hook(keep).remove)
        if not keys_only:
            output = of.attention.get_submodule(layout.output)
            stack.callback(output.register_forward_pre_hook(self._context).remove)

    def _output(self, part: str, module: Any, args: Any, out: Tensor) -> None:
        self.seen[part] = out.detach()

    def _context(self, module: Any, args: tuple[Any, ...]) -> None:
        self.seen["context"] = args[0].detach()

    def _projected(self, of: TokenBlock, which: int) -> Tensor:
        """Queries (0) or keys (1) of the block that ran, [B, H, N, d]."""
        fused = self.seen.get("qkv")
        return of.by_head(self.seen[("q", "k")[which]] if fused is None else fused.chunk(3, -1)[which], which)

    # -- what happens, in order

    def block(self, number: int, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """In front of a block: the choice, and the mask that belongs to what is left."""
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        others = [*args[1:], *(value for name, value in kwargs.items() if name != "hidden_states")]
        if any(isinstance(other, Tensor) for other in others):
            raise UsageError(f"{type(self.site.model).__name__}: with a mask of attention no patches can be pruned.")
        if number == 0:
            self._begin(hidden)
        now = self.trace.last
        if (stage := self.drops.get(number)) is not None:
            hidden = self._drop(stage, hidden)
        counts = self._counts(hidden)
        now.attended.append(counts)
        now.going_on.append(counts)
        mask = self._mask(hidden)
        given = {} if mask is None else {self.site.blocks[number].parts.mask: mask}
        if number == self.site.depth - 1 and number not in self.merged:
            self._end()
        return (hidden,), {**{k: v for k, v in kwargs.items() if v is not None and k != "hidden_states"}, **given}

    def merging(self, number: int, own: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """A block whose tokens are merged between attention and MLP."""
        of = self.site.blocks[number]
        if number not in self.merged:
            return own(hidden, *args, **kwargs)
        assert self.merges is not None
        x = of.attend(hidden, kwargs.get(of.parts.mask))
        with torch.no_grad():
            metric = self._projected(of, 1).mean(1)  # [B, N, d]
            owners = self.merges.owners(metric, self.pairs[number], self.site.prefix)  # [B, N]
        x = self._merge(x, owners, self.pairs[number])
        now = self.trace.last
        now.going_on[number] = self._counts(x)
        now.owners[number] = self.owner - self.site.prefix
        self.seen.clear()
        if number == self.site.depth - 1:
            self._end()
        return of.think(x)

    # -- what they are made of

    @property
    def merged(self) -> set[int]:
        return {number for number, pairs in enumerate(self.pairs) if pairs}

    def _begin(self, hidden: Tensor) -> None:
        batch, prefix = hidden.shape[0], self.site.prefix
        patches = hidden.shape[1] - prefix
        self.alive = self.sizes = None
        self.owner = torch.arange(prefix, prefix + patches, device=hidden.device).expand(batch, -1)
        self.pairs = self.merges.schedule(patches) if self.merges is not None else ()
        self.trace.passes.append(ImagePass(patches, prefix))

    def _end(self) -> None:
        now, site = self.trace.last, self.site
        now.owner = torch.where(self.owner < 0, self.owner, self.owner - site.prefix)
        total = torch.full_like(now.attended[0], site.embedding_multiply_adds(now.patches), dtype=torch.float64)
        for of, attended, going_on in zip(site.blocks, now.attended, now.going_on, strict=True):
            total += of.multiply_adds(attended.double() + site.prefix, going_on.double() + site.prefix)
        now.multiply_adds = total
        self.trace.pictures += len(total)
        self.seen.clear()

    def _counts(self, hidden: Tensor) -> Tensor:
        """Patches of each picture, [B]."""
        batch, n, _ = hidden.shape
        if self.alive is None:
            return torch.full((batch,), n - self.site.prefix)
        return self.alive.sum(1).cpu() - self.site.prefix

    def _mask(self, hidden: Tensor) -> Tensor | None:
        """What is added to the logits of attention [B, 1, 1, N]: minus infinity for padding, the logarithm of sizes."""
        if self.alive is None and self.sizes is None:
            return None
        mask = hidden.new_zeros(*hidden.shape[:2]) if self.sizes is None else self.sizes.log().to(hidden.dtype)
        if self.alive is not None:
            mask = mask.masked_fill(~self.alive, torch.finfo(hidden.dtype).min)
        return mask[:, None, None]

    @torch.no_grad()
    def _scores(self, stage: DropStage, hidden: Tensor) -> PatchScores:
        prefix, batch = self.site.prefix, len(hidden)
        everything = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        alive = everything if self.alive is None else self.alive
        row = context = None
        if stage.attention:
            of = self.site.blocks[stage.layer - 1]
            row = class_row(of, self._projected(of, 0), self._projected(of, 1), self.alive)[..., prefix:]
            context = self.seen["context"].view(batch, hidden.shape[1], of.heads, -1).transpose(1, 2)[:, :, prefix:]
        return PatchScores(alive[:, prefix:], self.trace.last.patches, self.trace.pictures, row, context)

    def _drop(self, stage: DropStage, hidden: Tensor) -> Tensor:
        """The tokens that go on, [B, m, D]."""
        scores, prefix = self._scores(stage, hidden), self.site.prefix
        self.seen.clear()
        chosen = stage.choose(scores) & scores.alive
        keep = torch.cat([chosen.new_ones(len(chosen), prefix), chosen], 1)  # [B, N]
        counts = keep.sum(1)
        longest = int(counts.max())
        ragged = bool((counts != longest).any())
        if ragged and self.site.pools:
            raise UsageError(
                f"{type(self.site.model).__name__} reads the mean of its patch tokens, of which pictures keep "
                "different numbers here: give it one picture at a time."
            )
        index = torch.sort(~keep, stable=True).indices[:, :longest]  # those that stay first, in their order
        place = keep.cumsum(1) - 1
        self.owner = torch.where(self.owner < 0, -1, place.masked_fill(~keep, -1).gather(1, self.owner.clamp(min=0)))
        self.alive = torch.arange(longest, device=keep.device) < counts[:, None] if ragged else None
        if self.sizes is not None:
            self.sizes = self.sizes.gather(1, index)
        self.trace.last.owners[stage.layer] = torch.where(self.owner < 0, self.owner, self.owner - prefix)
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2]))

    def _merge(self, x: Tensor, owners: Tensor, pairs: int) -> Tensor:
        """Size-weighted means of the tokens that go into each new one, [B, N - pairs, D]."""
        batch, n, width = x.shape
        sizes = x.new_ones(batch, n) if self.sizes is None else self.sizes.to(x.dtype)
        total = x.new_zeros(batch, n - pairs).scatter_add(1, owners, sizes)
        summed = x.new_zeros(batch, n - pairs, width)
        summed = summed.scatter_add(1, owners[..., None].expand_as(x), x * sizes[..., None])
        self.sizes = total
        self.owner = owners.gather(1, self.owner)
        return summed / total[..., None]


def _restore(block: Any, own: bool, forward: Callable[..., Any]) -> None:
    if own:
        block.forward = forward
    else:
        del block.forward
