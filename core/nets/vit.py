"""A plain vision transformer under the names of DeiT and timm: what pruned ones begin with and are compared to.

Specification: methods/as-vit.md, section 3.5; methods/sparsifiner.md, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a classifier; by default those of DeiT-S.

    Parameters
    ----------
    image_size, patch_size : int
        In pixels; pictures are square.
    in_channels, num_classes, dim, depth, num_heads : int
    mlp_ratio : float
        Width of the MLP as a multiple of ``dim``.
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or self.image_size % self.patch_size:
            raise ValueError(
                f"dim {self.dim} must be a multiple of num_heads {self.num_heads}, and image_size {self.image_size} of "
                f"patch_size {self.patch_size}."
            )

    @property
    def patches(self) -> int:
        """Patch tokens of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def hidden(self) -> int:
        """Width of the MLP."""
        return int(self.dim * self.mlp_ratio)


class ViTOutput(NamedTuple):
    """``logits`` [B, classes]; ``tokens`` [B, N - 1, D]: patch tokens behind the last norm."""

    logits: Tensor
    tokens: Tensor


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PatchAttention(nn.Module):
    """Self-attention of a ViT: one projection for queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of [B, N, D], each [B, H, N, d]."""
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def join(self, context: Tensor) -> Tensor:
        """The heads' outputs [B, H, N, d] as one, behind the output projection: [B, N, D]."""
        out: Tensor = self.proj(context.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attention of [B, N, D]; ``attn_mask`` broadcasts to [B, H, N, N] and is added to the logits."""
        return self.join(F.scaled_dot_product_attention(*self.heads(x), attn_mask, scale=self.scale))


class ViTBlock(nn.Module):
    """A pre-norm block."""

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.dim, eps=1e-6), nn.LayerNorm(shape.dim, eps=1e-6)
        self.attn = PatchAttention(shape.dim, shape.num_heads)
        self.mlp = Mlp(shape.dim, shape.hidden)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """[B, N, D] to the same."""
        x = x + self.attn(self.norm1(x), attn_mask)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ClassTokenViT(nn.Module):
    """What stands around the blocks: tokens of patches behind a class token, the last norm, and the head.

    Parameters
    ----------
    shape : ViTShape
    block : callable (number) -> Module
    """

    def __init__(self, shape: ViTShape, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.config = shape
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(shape.in_channels, shape.dim, shape.patch_size, stride=shape.patch_size)}
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.patches + 1, shape.dim))
        self.blocks = nn.ModuleList(block(number) for number in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim, eps=1e-6)
        self.head = nn.Linear(shape.dim, shape.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def embed(self, image: Tensor) -> Tensor:
        """Pictures [B, C, S, S] as tokens [B, N, D], the class token first. Raises ``ValueError`` for other sizes."""
        size = self.config.image_size
        if image.ndim != 4 or image.shape[2:] != (size, size):
            raise ValueError(
                f"image is {list(image.shape)}, the model takes [batch, {self.config.in_channels}, {size}, {size}]."
            )
        x = self.patch_embed["proj"](image).flatten(2).mT
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed


class VisionTransformer(ClassTokenViT):
    """The classifier; its head reads the class token."""

    def __init__(self, shape: ViTShape) -> None:
        super().__init__(shape, lambda _: ViTBlock(shape))

    def classify(self, x: Tensor) -> ViTOutput:
        """Tokens behind the last block [B, N, D] to classes."""
        x = self.norm(x)
        return ViTOutput(self.head(x[:, 0]), x[:, 1:])

    def forward(self, image: Tensor) -> ViTOutput:
        """Classify pictures [B, C, S, S]."""
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        return self.classify(x)
