"""PIR: prior instruction representation for remote-sensing retrieval (ACM MM 2023), the part after the backbones.

Specification: methods/priorclip.md, section 3A. Inputs are the tokens of a vision trunk (Swin-T: 1 pooled + 49), the
feature of a frozen scene network, and the tokens of a text trunk (BERT). Parameter names are the official ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class PIRConfig:
    """Sizes of the two progressive attention encoders.

    Parameters
    ----------
    width, num_heads : int
        Width E of the common space; heads of every attention.
    instru_num, cycle_num : int
        Rounds of the image and of the text encoder.
    filter_size : int
        Visual tokens K that are kept.
    vision_width, text_width, conv_width : int
        Widths of what the three trunks give.
    dropout : float
    mask_pads : bool
        Keep padding out of the text attention. The official code attends to it, so that an embedding there depends on
        the longest caption of its batch; False reproduces that.
    """

    width: int = 512
    num_heads: int = 8
    instru_num: int = 2
    cycle_num: int = 3
    filter_size: int = 40
    vision_width: int = 768
    text_width: int = 768
    conv_width: int = 2048
    dropout: float = 0.2
    mask_pads: bool = True


def believe(tokens: Tensor, instruction: Tensor) -> Tensor:
    """Belief in each token: softmax over the tokens of their dot product with the instruction, unscaled.

    [B, N, E], [B, 1, E] -> [B, N]; rows sum to 1.
    """
    return (tokens @ instruction.mT).squeeze(2).softmax(1)


class PIRAttention(nn.Module):
    """Multi-head attention with separate projections and dropout on the map."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is no multiple of {num_heads} heads")
        self.num_heads, self.dropout = num_heads, dropout
        self.linear_v = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_q = nn.Linear(width, width)
        self.linear_merge = nn.Linear(width, width)

    def forward(self, v: Tensor, k: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, Lk, E] twice, [B, Lq, E], mask [B, Lk] bool (True = keep) -> [B, Lq, E]."""
        q, k, v = (
            project(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, H, L, D]
            for project, x in ((self.linear_q, q), (self.linear_k, k), (self.linear_v, v))
        )
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=None if mask is None else mask[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        merged: Tensor = self.linear_merge(out.transpose(1, 2).flatten(2))
        return merged


def feed_forward(width: int) -> nn.Sequential:
    """The official MLP: a layer norm between the two linear layers."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, width))


class SelfAttention(nn.Module):
    """SA(x) of section 3A."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.mhatt = PIRAttention(width, num_heads, dropout)
        self.ffn = feed_forward(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.drop(self.mhatt(x, x, x, mask)))
        out: Tensor = self.norm2(x + self.drop(self.ffn(x)))
        return out


class CrossAttention(nn.Module):
    """CA(x, y) of section 3A: x asks, y answers and is the residual."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.mhatt_cross = PIRAttention(width, num_heads, dropout)
        self.ffn = feed_forward(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, L, E], or [B, 1, E] where all rows ask the same; y [B, L, E] -> [B, L, E]."""
        y = self.norm1(y + self.drop(self.mhatt_cross(y, y, x, mask)))
        out: Tensor = self.norm2(y + self.drop(self.ffn(y)))
        return out


class ImageEncoding(NamedTuple):
    """Unit vectors [B, E]; belief [B, N] over all tokens; the K kept tokens, most believed first [B, K] int64."""

    embedding: Tensor
    belief: Tensor
    keep_index: Tensor


class PIR(nn.Module):
    """Spatial-PAE and Temporal-PAE over trunk features.

    Parameters
    ----------
    config : PIRConfig
    """

    def __init__(self, config: PIRConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PIRConfig()
        self.vision_proj = nn.Linear(c.vision_width, c.width)
        self.text_proj = nn.Linear(c.text_width, c.width)
        self.conv_proj = nn.Linear(c.conv_width, c.width)
        self.mapping_img = nn.ModuleList(nn.Linear(c.width, c.width) for _ in range(c.instru_num))
        self.mapping_txt = nn.ModuleList(nn.Linear(c.width, c.width) for _ in range(c.cycle_num))
        block = (c.width, c.num_heads, c.dropout)
        self.img_sa = nn.ModuleList(SelfAttention(*block) for _ in range(c.instru_num))
        self.img_ca = nn.ModuleList(CrossAttention(*block) for _ in range(c.instru_num))
        self.txt_sa = nn.ModuleList(SelfAttention(*block) for _ in range(c.cycle_num))
        self.txt_ca = nn.ModuleList(CrossAttention(*block) for _ in range(c.cycle_num))
        self.head_img, self.head_txt = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)
        for copies in (self.img_sa, self.img_ca, self.txt_sa, self.txt_ca):
            for block_i in copies:  # the official copies start out equal
                block_i.load_state_dict(copies[0].state_dict())

    def encode_image(self, vision_tokens: Tensor, conv_feature: Tensor) -> ImageEncoding:
        """Spatial-PAE.

        Parameters
        ----------
        vision_tokens : Tensor, shape (B, N, vision_width)
            Row 0 is the pooled token; N >= ``filter_size``.
        conv_feature : Tensor, shape (B, conv_width)
            Of the scene network: the instruction.

        Raises
        ------
        ValueError
            If there are fewer tokens than ``filter_size``.
        """
        k = self.config.filter_size
        if vision_tokens.shape[1] < k:
            raise ValueError(f"{vision_tokens.shape[1]} tokens are fewer than the filter_size of {k}")
        v = self.vision_proj(vision_tokens)  # [B, N, E]
        c = self.conv_proj(conv_feature)[:, None]  # [B, 1, E]
        belief = believe(v, c)
        keep_index = belief.topk(k, dim=1).indices  # [B, K], most believed first
        f = v.gather(1, keep_index[:, :, None].expand(-1, -1, v.shape[2]))  # [B, K, E]
        for sa, mapping, ca in zip(self.img_sa, self.mapping_img, self.img_ca, strict=True):
            # the official query repeats c K times; one row asks the same and is added to every row
            f = ca(mapping(c), sa(f))
        return ImageEncoding(F.normalize(v[:, 0] + self.head_img(f[:, 0]), dim=1), belief, keep_index)

    def encode_text(self, text_tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Temporal-PAE: each round queries its own self-attended version.

        Parameters
        ----------
        text_tokens : Tensor, shape (B, L, text_width)
        mask : Tensor, shape (B, L), bool, optional
            True = a word, False = padding; not used without ``mask_pads``.

        Returns
        -------
        Tensor, shape (B, E), unit rows.
        """
        mask = mask if self.config.mask_pads else None
        x = self.text_proj(text_tokens)  # [B, L, E]
        cycle = x
        for sa, mapping, ca in zip(self.txt_sa, self.mapping_txt, self.txt_ca, strict=True):
            cycle = ca(mapping(cycle), sa(cycle, mask), mask)
        return F.normalize(x[:, 0] + self.head_txt(cycle[:, 0]), dim=1)
