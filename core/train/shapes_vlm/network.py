"""The model: LLaVA of transformers in small, and many questions about one picture in one sequence.

A sequence is [<bos>][picture][question 1][question 2]…: every question sees the picture and itself, and its positions
begin behind the picture. That is exactly a batch of prompts with one question each, for the price of one picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models import hf
from ...prune.shapes.scenes import GRID, PATCH, SIDE
from ...prune.shapes.words import BOS, CELLS, COLOURS, EOS, IMAGE, NUMBER, PAD, SHAPES, WORDS

PATCHES = GRID * GRID
LABELS = {
    "shape": len(SHAPES) + 2, "colour": len(COLOURS) + 1, "digit": 11, "pair": len(SHAPES) * len(COLOURS) + 2,
    "cell": len(CELLS) + 1,
}  # fmt: skip
"""What a patch is labelled with, and how many labels there are; 0 is background."""


def build(width: int, vision_layers: int, layers: int, heads: int) -> Any:
    """An untrained ``LlavaForConditionalGeneration``."""
    package = hf.transformers()
    vision = package.CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=vision_layers, num_attention_heads=heads,
        image_size=SIDE, patch_size=PATCH, projection_dim=width, hidden_act="gelu",
    )  # fmt: skip
    text = package.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, tie_word_embeddings=True,
        max_position_embeddings=256, pad_token_id=NUMBER[PAD], bos_token_id=NUMBER[BOS], eos_token_id=NUMBER[EOS],
    )  # fmt: skip
    config = package.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=NUMBER[IMAGE], vision_feature_layer=-1,
        image_seq_length=PATCHES, tie_word_embeddings=True,
    )  # fmt: skip
    model = package.LlavaForConditionalGeneration(config)
    _initialise(model, vision_layers, layers)
    return model


@torch.no_grad()
def _initialise(model: nn.Module, vision_layers: int, layers: int) -> None:
    """Outputs of unit size everywhere; what is added to the residual stream smaller, by the number of additions."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        if "embed_tokens" in name:
            std = parameter.shape[1] ** -0.5
        elif "position_embedding" in name:
            std = 0.02
        else:
            std = (0.5 if "patch_embedding" in name else 1.0) * parameter[0].numel() ** -0.5
        if any(part in name for part in ("out_proj", "o_proj", "fc2", "down_proj")):
            std /= math.sqrt(2 * (vision_layers if "vision" in name else layers))
        nn.init.normal_(parameter, 0, std)


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Segments of a packed sequence.

    Parameters
    ----------
    lengths : tuple of int
        Of the questions.
    read : tuple of int
        Places, behind the picture, at which an answer is read.
    """

    lengths: tuple[int, ...]
    read: tuple[int, ...]

    def positions(self) -> Tensor:
        """Position of every token, [N] int64."""
        front = 1 + PATCHES
        parts = [torch.arange(front), *(front + torch.arange(length) for length in self.lengths)]
        return torch.cat(parts)

    def mask(self) -> Tensor:
        """What is added to the logits of attention, [1, 1, N, N] float32."""
        front = torch.zeros(1 + PATCHES, dtype=torch.int64)
        segment = torch.cat([front, *(torch.full((n,), i + 1) for i, n in enumerate(self.lengths))])
        seen = ((segment == 0) | (segment == segment[:, None])).tril()
        return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]


class PatchHeads(nn.Module):
    """What the image tower is trained to tell of every patch; dropped after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.labels = nn.ModuleDict({name: nn.Linear(width, count) for name, count in LABELS.items()})
        self.centre = nn.Linear(width, 2)
        self.present = nn.Linear(width, len(SHAPES) * len(COLOURS))


class ShapesNetwork(nn.Module):
    """LLaVA, and the heads that it is trained with."""

    def __init__(self, width: int, vision_layers: int, layers: int, heads: int) -> None:
        super().__init__()
        self.llava = build(width, vision_layers, layers, heads)
        self.heads = PatchHeads(width)

    def see(self, pixels: Tensor) -> Tensor:
        """Features of the class token and of every patch, [B, 1 + P, width]; pixels [B, 3, 96, 96]."""
        out: Tensor = self.llava.model.vision_tower(pixels).last_hidden_state
        return out

    def present(self, seen: Tensor) -> Tensor:
        """Logits of which pairs of shape and colour are in the picture, [B, 48]."""
        tower = self.llava.model.vision_tower
        norm = tower.post_layernorm if hasattr(tower, "post_layernorm") else tower.vision_model.post_layernorm
        out: Tensor = self.heads.present(norm(seen[:, 0]))
        return out

    def answer(self, seen: Tensor, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """Logits of the next word at the places that are read.

        Parameters
        ----------
        seen : Tensor [B, 1 + P, width]
        tokens : Tensor of int64 [B, sum of lengths]
        layout : PackedLayout

        Returns
        -------
        Tensor [B, reads, vocabulary]
        """
        model = self.llava.model
        embed = model.language_model.embed_tokens
        front = embed(torch.full((len(seen), 1), NUMBER[BOS], device=seen.device))
        embeds = torch.cat([front, model.multi_modal_projector(seen[:, 1:]), embed(tokens)], 1)
        hidden = model.language_model(
            inputs_embeds=embeds, attention_mask=layout.mask().to(seen.device), use_cache=False,
            position_ids=layout.positions().to(seen.device)[None],
        ).last_hidden_state  # fmt: skip
        out: Tensor = self.llava.lm_head(hidden[:, 1 + PATCHES + torch.tensor(layout.read, device=seen.device)])
        return out
