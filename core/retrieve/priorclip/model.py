"""What both variants share, and PriorCLIP at a size that two CPU cores train; PIR's is in ``closed``.

Specification: methods/priorclip.md, sections 3B and 5 (CPU-size version): instruction network, gated vision
transformer, CLIP's text transformer. The instruction network is a small convolutional scene classifier where the papers
have a ResNet-50; it is trained first, then frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...models.images import ImagePreparation
from .losses import Temperature
from .text import END, MAX_WORDS
from .vit import Gate, PriorCLIPTransformer, PriorCLIPVisionTransformer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images."""
Variant = Literal["priorclip", "pir"]


@dataclass(frozen=True, slots=True)
class PriorCLIPArchitecture:
    """Sizes of the model.

    Parameters
    ----------
    image_size, patch_size : int
        In pixels.
    width, layers, num_heads, out : int
        Of both towers; ``out`` is the width of the common space.
    features : int
        Width of the instruction.
    max_words : int
        Longer captions are cut.
    gate : {"released", "rank", "weighted", "none"}
        Of PriorCLIP: see ``vit.gated``.
    instruction : bool
        Off: plain CLIP; of PIR its two trunks alone.
    variant : {"priorclip", "pir"}
    filter_size, instru_num, cycle_num : int
        Of PIR: see ``pir.PIRConfig``. The published filter keeps 40 of 50 tokens, this one 14 of 17.
    dropout : float
        Of PIR's attention encoders.
    """

    image_size: int = 64
    patch_size: int = 16
    width: int = 64
    layers: int = 2
    num_heads: int = 4
    out: int = 64
    features: int = 64
    max_words: int = MAX_WORDS
    gate: Gate = "rank"
    instruction: bool = True
    variant: Variant = "priorclip"
    filter_size: int = 14
    instru_num: int = 2
    cycle_num: int = 3
    dropout: float = 0.2


class InstructionNet(nn.Module):
    """A small scene classifier; what it hands on is the mean of its last map. Group norm: a batch does not matter."""

    def __init__(self, features: int, scenes: int) -> None:
        super().__init__()
        widths = (3, features // 4, features // 2, features)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.GroupNorm(4, b), nn.GELU())
                for a, b in pairwise(widths)
            )
        )
        self.head = nn.Linear(features, scenes)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, features]."""
        out: Tensor = self.stages(image).mean((2, 3))
        return out

    def classify(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits [B, scenes]."""
        out: Tensor = self.head(self(image))
        return out


class TextTransformer(nn.Module):
    """CLIP's text tower: causal, read at the end token. Padding after it is never seen."""

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, num_heads: int, out: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, width))
        self.transformer = PriorCLIPTransformer(width, layers, num_heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, out))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        causal = torch.full((context, context), -torch.inf).triu(1)
        self.register_buffer("causal", causal, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L] -> [B, out]."""
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, self.causal[:length, :length]))  # type: ignore[index]
        last = (ids == END).int().argmax(1)
        out: Tensor = x[torch.arange(len(ids), device=ids.device), last] @ self.text_projection
        return out


class ImageOut(NamedTuple):
    """Unit vectors [B, out]; belief in CLS (PIR: the mean) and patches [B, 1 + P], None without an instruction."""

    embedding: Tensor
    belief: Tensor | None


class SceneGuided(nn.Module):
    """A retrieval model of pictures and texts that a scene classifier may guide: what its variants promise.

    Parameters
    ----------
    architecture : PriorCLIPArchitecture
    """

    instruction: InstructionNet | None
    temperature: Temperature
    center_temperature: Temperature

    def __init__(self, architecture: PriorCLIPArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.temperature.value.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.temperature.value.dtype

    def normalise(self, image: Tensor) -> Tensor:
        """[0, 1] to CLIP's mean and deviation."""
        return (image - self.mean) / self.std  # type: ignore[operator]

    def encode_image(self, image: Tensor) -> ImageOut:
        """Images [B, 3, S, S] in [0, 1] to unit vectors."""
        raise NotImplementedError

    def encode_text(self, ids: Tensor) -> Tensor:
        """Ids [B, L] of ``Vocabulary.encode`` to unit vectors [B, out]."""
        raise NotImplementedError


class PriorCLIP(SceneGuided):
    """Both towers and the instruction.

    Parameters
    ----------
    architecture : PriorCLIPArchitecture
    vocabulary, scenes : int
        Number of token ids, and of scene labels.
    """

    def __init__(self, architecture: PriorCLIPArchitecture, vocabulary: int, scenes: int) -> None:
        super().__init__(architecture)
        a = architecture
        self.visual = PriorCLIPVisionTransformer(
            a.image_size, a.patch_size, a.width, a.layers, a.num_heads, a.out, gate=a.gate
        )
        self.text = TextTransformer(vocabulary, a.max_words + 2, a.width, a.layers, a.num_heads, a.out)
        self.instruction = InstructionNet(a.features, scenes) if a.instruction else None
        self.vision_proj_res = nn.Linear(a.features, a.width) if a.instruction else None
        self.temperature, self.center_temperature = Temperature(), Temperature()

    def encode_image(self, image: Tensor) -> ImageOut:
        """See ``SceneGuided``."""
        x = self.normalise(image)
        y = None
        if self.instruction is not None and self.vision_proj_res is not None:
            y = self.vision_proj_res(self.instruction(x))[:, None]  # [B, 1, W]
        out = self.visual(x, y)
        return ImageOut(F.normalize(out.pooled, dim=1), out.belief)

    def encode_text(self, ids: Tensor) -> Tensor:
        """See ``SceneGuided``."""
        return F.normalize(self.text(ids), dim=1)


def fit_image(pixels: NDArray[np.float32] | Tensor, size: int) -> Tensor:
    """An image [3, H, W] in [0, 1] as the model sees it: squashed to a square. ``ValueError`` for anything else."""
    return ImagePreparation((size, size), (0.0,) * 3, (1.0,) * 3, "squash")(np.asarray(pixels, np.float32))


@torch.inference_mode()
def belief_map(model: SceneGuided, image: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
    """How much the instruction believes in each patch of an image.

    Parameters
    ----------
    model : SceneGuided
    image : array, shape (3, H, W), float32 in [0, 1]

    Returns
    -------
    ndarray, shape (h, w) of the patch grid, float32. Shares of 1; what is missing from 1 went to the CLS token (PIR: to
    the mean of the patches).

    Raises
    ------
    ValueError
        If the model has no instruction, or the image is not [3, H, W].
    """
    if model.instruction is None:
        raise ValueError("this model was trained without an instruction: it has no belief map")
    shape = model.architecture
    belief = model.eval().encode_image(fit_image(image, shape.image_size)[None].to(model.device)).belief
    assert belief is not None
    side = shape.image_size // shape.patch_size
    out: NDArray[np.float32] = belief[0, 1:].view(side, side).float().cpu().numpy()
    return out


@torch.inference_mode()
def embed_images(model: SceneGuided, images: Sequence[Tensor] | Tensor, block: int = 64) -> Tensor:
    """Unit vectors [n, out] of fitted images, some at a time; float32 on the CPU."""
    parts = [
        model.encode_image(torch.stack(list(images[i : i + block])).to(model.device)).embedding.float().cpu()
        for i in range(0, len(images), block)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, model.architecture.out)


@torch.inference_mode()
def embed_texts(model: SceneGuided, ids: NDArray[np.int64], block: int = 256) -> Tensor:
    """Unit vectors [n, out] of encoded captions; float32 on the CPU."""
    parts = [
        model.encode_text(torch.from_numpy(ids[i : i + block]).to(model.device)).float().cpu()
        for i in range(0, len(ids), block)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, model.architecture.out)
