"""One table of image transformers: per class of block, where its parts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...models.family import attention_places, heads_of, layout_of
from ...models.geometry import token_layout


@dataclass(frozen=True, slots=True)
class BlockParts:
    """Where the parts of a class of blocks are, by their names in the block.

    Parameters
    ----------
    attention, before, after, mlp : str
        The attention, the normalisations of attention and MLP, the MLP.
    scale1, scale2 : str
        What the outputs of attention and MLP go through before they are added; empty: nothing.
    mask : str
        Name of the parameter of the block's ``forward`` that is added to the logits of attention.
    """

    attention: str = "attention"
    before: str = "layernorm_before"
    after: str = "layernorm_after"
    mlp: str = "mlp"
    scale1: str = ""
    scale2: str = ""
    mask: str = "attention_mask"

    @property
    def names(self) -> tuple[str, ...]:
        """Of all parts that a block has."""
        parts = (self.attention, self.before, self.after, self.mlp, self.scale1, self.scale2)
        return tuple(part for part in parts if part)


_VIT = BlockParts()
_DINO = BlockParts(before="norm1", after="norm2", scale1="layer_scale1", scale2="layer_scale2")
_TIMM = BlockParts("attn", "norm1", "norm2", scale1="ls1", scale2="ls2", mask="attn_mask")

BLOCKS: Mapping[str, BlockParts] = {
    "ViTLayer": _VIT, "DeiTLayer": _VIT,
    "Dinov2Layer": _DINO, "Dinov2WithRegistersLayer": _DINO,
    "Block": _TIMM,  # timm
    "ViTBlock": BlockParts("attn", "norm1", "norm2", mask="attn_mask"),
    "SparsifinerBlock": BlockParts("attn", "norm1", "norm2"),
}  # fmt: skip
KNOWN = "ViT, DeiT, DINOv2 (with registers) of transformers, VisionTransformer of timm, and what `attn train` makes"
_POOLS = ("Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification")
"""Classifiers that read the mean of the patch tokens, too."""


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """One block of an image transformer.

    Parameters
    ----------
    block, attention : Module
    parts : BlockParts
    token_cost : int
        Multiply-adds of each token in its linear layers of attention (0) and of the MLP (1).
    """

    block: Any
    attention: Any
    parts: BlockParts
    token_cost: tuple[int, int]

    @property
    def heads(self) -> int:
        return heads_of(self.attention)

    @property
    def scale(self) -> float:
        """Factor on q kᵀ."""
        for name in ("scaling", "scale"):
            if isinstance(value := getattr(self.attention, name, None), float):
                return value
        raise UsageError(f"{type(self.attention).__name__} does not say what factor is on its logits.")

    def multiply_adds(self, attended: Tensor, going_on: Tensor) -> Tensor:
        """For so many tokens in its attention and in its MLP (methods/as-vit.md, section 3.3, step 5)."""
        width = self.width
        return self.token_cost[0] * attended + 2 * width * attended**2 + self.token_cost[1] * going_on

    @property
    def width(self) -> int:
        """Channels of all heads together."""
        output = self.attention.get_submodule(layout_of(self.attention).output)
        return int(output.in_features)

    def projections(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, H, N, d] of what the attention gets."""
        layout = layout_of(self.attention)
        if layout.fused:
            q, k = getattr(self.attention, layout.query)(x).chunk(3, -1)[:2]
        else:
            q, k = (getattr(self.attention, name)(x) for name in (layout.query, layout.key))
        return self.by_head(q, 0), self.by_head(k, 1)

    def by_head(self, projected: Tensor, which: int) -> Tensor:
        """What a projection gave, [B, N, H d], as [B, H, N, d], normalised where queries (0) or keys (1) are."""
        x = projected.view(*projected.shape[:2], self.heads, -1).transpose(1, 2)
        for name in layout_of(self.attention).qk_norms[which : which + 1]:
            x = getattr(self.attention, name)(x)
        return x

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The first half: tokens with what attention adds to them."""
        parts = self.parts
        given = {} if mask is None else {parts.mask: mask}
        out = self.attention(getattr(self.block, parts.before)(x), **given)
        out = out[0] if isinstance(out, tuple) else out
        result: Tensor = x + (getattr(self.block, parts.scale1)(out) if parts.scale1 else out)
        return result

    def think(self, x: Tensor) -> Tensor:
        """The second half: tokens with what the MLP adds to them."""
        parts = self.parts
        out: Tensor = getattr(self.block, parts.mlp)(getattr(self.block, parts.after)(x))
        return x + (getattr(self.block, parts.scale2)(out) if parts.scale2 else out)


@dataclass(frozen=True, slots=True)
class ImageSite:
    """An image transformer and its parts.

    Parameters
    ----------
    model : Module
    blocks : tuple of TokenBlock
    prefix : int
        Tokens in front of the patches (class, distillation, registers), which always stay; the first is the class.
    embed : Module
        The convolution that makes patches.
    pools : bool
        The head reads the mean of the patch tokens.
    """

    model: Any
    blocks: tuple[TokenBlock, ...]
    prefix: int
    embed: nn.Conv2d
    pools: bool

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def embedding_multiply_adds(self, patches: int) -> int:
        """Of the patch embedding."""
        return patches * self.embed.weight.numel()


def is_image_transformer(model: nn.Module) -> bool:
    """Whether a model has blocks of ``BLOCKS``."""
    return any(type(module).__name__ in BLOCKS for module in model.modules())


def image_site(model: nn.Module) -> ImageSite:
    """Where the parts of an image transformer are.

    Raises
    ------
    UsageError
        If it has no tokens, no class token, or its class is not in the table: in one line.
    """
    name = type(model).__name__
    blocks = [(m, BLOCKS[type(m).__name__]) for m in model.modules() if type(m).__name__ in BLOCKS]
    # timm has other classes of that name, which do other things
    blocks = [(m, parts) for m, parts in blocks if all(hasattr(m, part) for part in parts.names)]
    if not blocks:
        raise UsageError(f"{name}: has no blocks of tokens that attn could prune. Known: {KNOWN}.")
    modules = [getattr(block, parts.attention) for block, parts in blocks]
    places = [place.module for place in attention_places(model)]
    if len(places) != len(modules) or any(a is not b for a, b in zip(places, modules, strict=True)):
        raise UsageError(f"{name}: has attention outside its blocks, or several towers. Known: {KNOWN}.")
    for module in modules:
        if not layout_of(module).output or layout_of(module).query == "in_proj_weight":
            raise UsageError(f"{type(module).__name__}: its heads cannot be reached. Known: {KNOWN}.")
    embeds = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if len(embeds) != 1:
        raise UsageError(f"{name}: has {len(embeds)} convolutions where one makes the patches. Known: {KNOWN}.")
    prefix = token_layout(model)[0]
    if prefix < 1:
        raise UsageError(f"{name}: has no class token, by which patches could be judged. Known: {KNOWN}.")
    pools = name in _POOLS or getattr(model, "global_pool", "token") not in ("token", "")
    tokens = tuple(
        TokenBlock(block, module, parts, (_linear(module), _linear(getattr(block, parts.mlp))))
        for (block, parts), module in zip(blocks, modules, strict=True)
    )
    return ImageSite(model, tokens, prefix, embeds[0], pools)


def _linear(module: nn.Module) -> int:
    """Weights of the linear layers: multiply-adds of a token."""
    return sum(m.weight.numel() for n, m in module.named_modules() if isinstance(m, nn.Linear) and "predictor" not in n)


def class_row(block: TokenBlock, q: Tensor, k: Tensor, alive: Tensor | None) -> Tensor:
    """Attention of the class token [B, H, N], after the softmax over all keys that are there.

    ``q``, ``k`` [B, H, N, d]; ``alive`` bool [B, N].
    """
    logits = (q[:, :, :1].float() @ k.float().mT)[:, :, 0] * block.scale
    if alive is not None:
        logits = logits.masked_fill(~alive[:, None], -torch.inf)
    return F.softmax(logits, -1)
