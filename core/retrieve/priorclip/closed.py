"""PIR at a size that two CPU cores train: the closed-domain variant, small trunks under the published encoders.

Specification: methods/priorclip.md, section 3A; sizes of section 5. A plain ViT stands where the paper has Swin-T, a
small BERT for BERT-base, the scene classifier of PriorCLIP for the ResNet-50. Spatial-PAE and Temporal-PAE are ``pir``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.bert import Bert, BertSettings
from .losses import Temperature
from .model import ImageOut, InstructionNet, PriorCLIP, PriorCLIPArchitecture, SceneGuided
from .pir import PIR, PIRConfig
from .text import PAD
from .vit import PriorCLIPTransformer


class PatchTrunk(nn.Module):
    """A plain ViT: [B, 3, S, S] to tokens [B, 1 + P, W], the mean of the patches first, as PIR takes Swin's."""

    def __init__(self, image_size: int, patch_size: int, width: int, layers: int, num_heads: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn((image_size // patch_size) ** 2, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = PriorCLIPTransformer(width, layers, num_heads)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.ln_pre(self.conv1(image).flatten(2).mT + self.positional_embedding)
        patches = self.ln_post(self.transformer(patches))
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)


def text_trunk(vocabulary: int, context: int, width: int, layers: int, num_heads: int) -> Bert:
    """A small BERT with the start values of its paper: normal with deviation 0.02, no biases."""
    bert = Bert(
        BertSettings(
            vocabulary, width, layers, num_heads, 4 * width, max_position_embeddings=context, type_vocab_size=1
        )
    )
    for name, parameter in bert.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return bert


class ClosedDomainPIR(SceneGuided):
    """Trunks, instruction, and the two progressive attention encoders.

    Without an instruction it is what the paper compares to: both trunks, each with one linear layer, and no PAE.

    Parameters
    ----------
    architecture : PriorCLIPArchitecture
    vocabulary, scenes : int
        Number of token ids, and of scene labels.
    """

    def __init__(self, architecture: PriorCLIPArchitecture, vocabulary: int, scenes: int) -> None:
        super().__init__(architecture)
        a = architecture
        self.vision = PatchTrunk(a.image_size, a.patch_size, a.width, a.layers, a.num_heads)
        self.text = text_trunk(vocabulary, a.max_words + 2, a.width, a.layers, a.num_heads)
        self.instruction, self.pae, self.vision_proj, self.text_proj = None, None, None, None
        if a.instruction:
            self.instruction = InstructionNet(a.features, scenes)
            self.pae = PIR(
                PIRConfig(
                    a.out, a.num_heads, a.instru_num, a.cycle_num, a.filter_size, vision_width=a.width,
                    text_width=a.width, conv_width=a.features, dropout=a.dropout,
                )
            )  # fmt: skip
        else:
            self.vision_proj, self.text_proj = nn.Linear(a.width, a.out), nn.Linear(a.width, a.out)
        self.temperature, self.center_temperature = Temperature(), Temperature()

    def encode_image(self, image: Tensor) -> ImageOut:
        """See ``SceneGuided``."""
        x = self.normalise(image)
        tokens = self.vision(x)
        if self.instruction is None or self.pae is None:
            assert self.vision_proj is not None
            return ImageOut(F.normalize(self.vision_proj(tokens[:, 0]), dim=1), None)
        out = self.pae.encode_image(tokens, self.instruction(x))
        return ImageOut(out.embedding, out.belief)

    def encode_text(self, ids: Tensor) -> Tensor:
        """See ``SceneGuided``; padding is left out."""
        words = ids != PAD
        tokens = self.text(ids, words).last_hidden_state
        if self.pae is None:
            assert self.text_proj is not None
            return F.normalize(self.text_proj(tokens[:, 0]), dim=1)
        return self.pae.encode_text(tokens, words)


def build_model(architecture: PriorCLIPArchitecture, vocabulary: int, scenes: int) -> SceneGuided:
    """The model of an architecture, of either variant."""
    return {"priorclip": PriorCLIP, "pir": ClosedDomainPIR}[architecture.variant](architecture, vocabulary, scenes)
