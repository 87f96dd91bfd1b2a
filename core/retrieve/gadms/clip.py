"""The dual encoder of GA-DMS: CLIP's two towers and the head that predicts masked words from the image.

Paper: arXiv 2509.09118 (2025). Specification: methods/ga-dms.md, sections 3.2 and 3.5. Parameters carry the names of
the official checkpoints (``base_model.*``, ``cross_attn.*``, …). Tokens come first to last as [B, N, D].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class CLIPArchitecture:
    """Sizes of the model; the defaults are CLIP ViT-B/16 on photos of people.

    Parameters
    ----------
    embed_dim : int
        Width of the space in which images and sentences meet.
    image_size : (H, W)
        In pixels, multiples of ``patch_size``.
    text_length : int
        Positions of a caption, start and end token included.
    vocab_size : int
        Its last three ids are mask, start and end of the text; 0 is padding.
    head_dim : int
        Of the vision tower and the masked-word head.
    decoder_layers : int
        Blocks of the masked-word head.
    """

    embed_dim: int = 512
    image_size: tuple[int, int] = (384, 128)
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    text_length: int = 77
    vocab_size: int = 49408
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    decoder_layers: int = 4
    head_dim: int = 64

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 3

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q of ``x`` and k, v of ``context`` (``x`` itself if None): each [..., D]."""
        if context is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
            return q, k, v
        width = x.shape[-1]
        q = F.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])
        k, v = F.linear(context, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, -1)
        return q, k, v

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool) -> Tensor:
        """softmax(q kᵀ / sqrt(head_dim)) v over the given number of heads. [B, N, D] -> [B, N, D]."""
        q, k, v = (split_heads(x, heads) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, context: Tensor | None = None, *, causal: bool = False) -> Tensor:
        out: Tensor = self.out_proj(self.attend(*self.project(x, context), self.heads, causal=causal))
        return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, D] -> [B, heads, N, D / heads]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


class MLP(nn.Module):
    """The two layers after attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(quick_gelu(self.c_fc(x)))
        return out


class WordHead(nn.Module):
    """From the joint space to the vocabulary."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.dense, self.ln, self.fc = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.ln(quick_gelu(self.dense(x))))
        return out


class CLIPBlock(nn.Module):
    """Pre-norm transformer block of CLIP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        return self.after(x, self.attn(self.ln_1(x), causal=causal))

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual sums around attention and MLP."""
        x = x + attended
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class CLIPTransformer(nn.Module):
    """A stack of blocks; ``resblocks`` as in the official names."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(CLIPBlock(width, heads) for _ in range(layers))

    @property
    def blocks(self) -> list[CLIPBlock]:
        """The same, as what they are."""
        return [block for block in self.resblocks if isinstance(block, CLIPBlock)]

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        for block in self.blocks:
            x = block(x, causal=causal)
        return x


class CLIPVisionTransformer(nn.Module):
    """Image tower: patches and a class token in, projected tokens out."""

    def __init__(self, shape: CLIPArchitecture) -> None:
        super().__init__()
        width, (rows, columns) = shape.vision_width, shape.grid
        self.conv1 = nn.Conv2d(3, width, shape.patch_size, shape.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(rows * columns + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = CLIPTransformer(width, shape.vision_layers, max(1, width // shape.head_dim))
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, shape.embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)  # [B, patches, width]
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        out: Tensor = self.ln_post(self.transformer(self.ln_pre(x))) @ self.proj
        return out


class CLIP(nn.Module):
    """Both towers. Images are [B, 3, H, W], normalised by ``CLIP_MEAN`` and ``CLIP_STD``; captions [B, N] ids."""

    def __init__(self, shape: CLIPArchitecture) -> None:
        super().__init__()
        self.visual = CLIPVisionTransformer(shape)
        self.token_embedding = nn.Embedding(shape.vocab_size, shape.text_width)
        self.positional_embedding = nn.Parameter(torch.zeros(shape.text_length, shape.text_width))
        self.transformer = CLIPTransformer(shape.text_width, shape.text_layers, shape.text_heads)
        self.ln_final = nn.LayerNorm(shape.text_width)
        self.text_projection = nn.Parameter(torch.zeros(shape.text_width, shape.embed_dim))

    def image_tokens(self, images: Tensor) -> Tensor:
        """All projected tokens [B, 1 + patches, E]; the first is the image's feature."""
        tokens: Tensor = self.visual(images)
        return tokens

    def embed(self, ids: Tensor) -> Tensor:
        """Input of the first text layer [B, N, D]."""
        out: Tensor = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        return out

    def project_text(self, x: Tensor) -> Tensor:
        """Output of the last text layer [..., D] in the joint space [..., E]."""
        out: Tensor = self.ln_final(x) @ self.text_projection
        return out

    def text_tokens(self, ids: Tensor) -> Tensor:
        """All projected positions [B, N, E]; the end token's is the caption's feature."""
        return self.project_text(self.transformer(self.embed(ids), causal=True))


def end_position(ids: Tensor) -> Tensor:
    """Where each caption [B, N] ends: the end token has the largest id of all. -> [B]"""
    return ids.argmax(-1)


def at(x: Tensor, position: Tensor) -> Tensor:
    """One row of each sample: [B, N, ...], [B] -> [B, ...]."""
    return x[torch.arange(len(x), device=x.device), position]


class GADMS(nn.Module):
    """Dual encoder and masked-word head; retrieval needs ``base_model`` alone."""

    def __init__(self, shape: CLIPArchitecture) -> None:
        super().__init__()
        width, heads = shape.embed_dim, max(1, shape.embed_dim // shape.head_dim)
        self.shape = shape
        self.base_model = CLIP(shape)
        self.cross_attn = Attention(width, heads)
        self.cross_modal_transformer = CLIPTransformer(width, shape.decoder_layers, heads)
        self.ln_pre_t, self.ln_pre_i, self.ln_post = (nn.LayerNorm(width) for _ in range(3))
        self.mlm_head = WordHead(width, shape.vocab_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """CLIP's initial weights: the deeper a tower, the smaller what each block adds."""
        clip, visual = self.base_model, self.base_model.visual
        nn.init.normal_(clip.token_embedding.weight, std=0.02)
        nn.init.normal_(clip.positional_embedding, std=0.01)
        nn.init.normal_(clip.text_projection, std=clip.text_projection.shape[0] ** -0.5)
        for parameter in (visual.class_embedding, visual.positional_embedding, visual.proj):
            nn.init.normal_(parameter, std=visual.proj.shape[0] ** -0.5)
        for stack in (clip.transformer, visual.transformer, self.cross_modal_transformer):
            for block in stack.blocks:
                width, depth = block.ln_1.weight.shape[0], len(stack.blocks)
                nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
                nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)
        width = self.shape.embed_dim
        nn.init.normal_(self.cross_attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.cross_attn.out_proj.weight, std=width**-0.5)
        nn.init.normal_(self.mlm_head.dense.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlm_head.fc.weight, std=width**-0.5)

    def image_feature(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, E], not normalised."""
        return self.base_model.image_tokens(images)[:, 0]

    def text_feature(self, ids: Tensor) -> Tensor:
        """[B, N] -> [B, E], not normalised."""
        return at(self.base_model.text_tokens(ids), end_position(ids))

    def word_logits(self, text_tokens: Tensor, image_tokens: Tensor, where: Tensor) -> Tensor:
        """Section 3.5: what the masked words were.

        Parameters
        ----------
        text_tokens : Tensor, shape (B, N, E)
            Of the masked captions.
        image_tokens : Tensor, shape (B, T, E)
        where : Tensor, shape (B, N), bool
            The M positions that have a label. Only these pass the vocabulary head, which is as wide as the vocabulary.

        Returns
        -------
        Tensor, shape (M, vocab_size), in the order of ``where.nonzero()``.
        """
        x = self.cross_attn(self.ln_pre_t(text_tokens), self.ln_pre_i(image_tokens))
        x = self.ln_post(self.cross_modal_transformer(x))
        logits: Tensor = self.mlm_head(x[where])
        return logits
