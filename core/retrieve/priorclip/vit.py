"""PriorCLIP's vision transformer: an instruction token, and patch tokens weighted by how much it believes in them.

Specification: methods/priorclip.md, section 3B. Parameter names are open_clip's.

Two things follow from the formulas and are pinned by tests:

* ``gate="rank"`` scales every token by a number of its own and then divides the token by its norm: the weights cancel,
  and what is left is the unit token. The ranks change nothing, and the belief gets no gradient (as with ``"none"``):
  the belief map of such a model was never trained. ``gate="weighted"`` (ours) is the same without the norm.
* Every block reads its tokens through a layer norm, which removes their scale. A weight acts through the residual
  stream alone: less of a token's own content remains beside what the blocks add.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pir import believe

Gate = Literal["released", "rank", "weighted", "none"]
GATES: tuple[str, ...] = get_args(Gate)


def index_weights(belief: Tensor) -> Tensor:
    """The released weights: position p gets 1/√(order[p] + 1), order = tokens by falling belief. [B, N] -> [B, N]."""
    return (belief.argsort(dim=1, descending=True, stable=True) + 1).to(belief.dtype).rsqrt()


def rank_weights(belief: Tensor) -> Tensor:
    """What was surely meant: token j gets 1/√(rank_j + 1), the most believed has rank 0. [B, N] -> [B, N]."""
    order = belief.argsort(dim=1, descending=True, stable=True)
    return (order.argsort(dim=1) + 1).to(belief.dtype).rsqrt()


def gated(tokens: Tensor, belief: Tensor, gate: Gate) -> Tensor:
    """Weight the tokens h by their belief b: step 4 of section 3B.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, W)
    belief : Tensor, shape (B, N)
    gate : {"released", "rank", "weighted", "none"}
        ``released``: h (b + index weight), each channel scaled to unit norm over the tokens, as in the official code
        (for its checkpoints). ``rank``: h (b + rank weight), each token scaled to unit norm, which cancels the weight.
        ``weighted``: h (b + rank weight). ``none``: h.

    Returns
    -------
    Tensor, shape (B, N, W)
    """
    match gate:
        case "released":
            return F.normalize(tokens * (belief + index_weights(belief))[:, :, None], dim=1)
        case "rank":
            return F.normalize(tokens * (belief + rank_weights(belief))[:, :, None], dim=2)
        case "weighted":
            return tokens * (belief + rank_weights(belief))[:, :, None]
        case "none":
            return tokens
    raise ValueError(f"gate {gate!r} is not one of {', '.join(GATES)}")


class PriorCLIPBlock(nn.Module):
    """Residual attention block of CLIP, GELU in its erf form, started as CLIP starts one of ``layers``."""

    def __init__(self, width: int, num_heads: int, layers: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        c_fc, c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=c_fc, gelu=nn.GELU(), c_proj=c_proj))
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(c_fc.weight, std=(2 * width) ** -0.5)
        for weight in (self.attn.out_proj.weight, c_proj.weight):  # these add to the residual stream
            nn.init.normal_(weight, std=(2 * layers * width) ** -0.5)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, L, W]; bias [L, L] is added to the scores."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=bias)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class PriorCLIPTransformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, layers: int, num_heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(PriorCLIPBlock(width, num_heads, layers) for _ in range(layers))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, bias)
        return x


class VisionOut(NamedTuple):
    """pooled [B, out]; tokens [B, 1 + P, W], CLS first; belief [B, 1 + P], or None without an instruction."""

    pooled: Tensor
    tokens: Tensor
    belief: Tensor | None


class PriorCLIPVisionTransformer(nn.Module):
    """Image and instruction to one vector.

    Parameters
    ----------
    image_size, patch_size : int
        Sides in pixels.
    width, layers, num_heads, out : int
    gate : {"released", "rank", "weighted", "none"}
        See ``gated``.
    """

    def __init__(
        self, image_size: int, patch_size: int, width: int, layers: int, num_heads: int, out: int, gate: Gate = "rank"
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is no multiple of patch_size {patch_size}")
        if gate not in GATES:
            raise ValueError(f"gate {gate!r} is not one of {', '.join(GATES)}")
        self.image_size, self.gate = image_size, gate
        self.grid = (image_size // patch_size,) * 2
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + self.grid[0] * self.grid[1], width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = PriorCLIPTransformer(width, layers, num_heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, out))

    def embed(self, image: Tensor) -> Tensor:
        """Step 2: [B, 3, H, W] -> CLS and patches [B, 1 + P, W]."""
        if image.shape[2:] != (self.image_size,) * 2:
            raise ValueError(f"images are {tuple(image.shape[2:])}, the model takes sides of {self.image_size}")
        patches = self.conv1(image).flatten(2).mT  # [B, P, W]
        cls = self.class_embedding.expand(len(image), 1, -1)
        out: Tensor = self.ln_pre(torch.cat([cls, patches], 1) + self.positional_embedding)
        return out

    def forward(self, image: Tensor, instruction: Tensor | None = None) -> VisionOut:
        """Embed, believe, gate, attend, pool.

        Parameters
        ----------
        image : Tensor, shape (B, 3, H, W)
            Normalised.
        instruction : Tensor, shape (B, 1, W), optional
            Without it this is CLIP's own tower, pooled at CLS.
        """
        z = self.embed(image)
        belief = None
        if instruction is not None:
            belief = believe(z, instruction)
            z = torch.cat([instruction, gated(z, belief, self.gate)], 1)  # [B, 2 + P, W]
        z = self.ln_post(self.transformer(z))
        # with an instruction token 0 is that token, not CLS: so the official code pools
        return VisionOut(z[:, 0] @ self.proj, z if instruction is None else z[:, 1:], belief)
