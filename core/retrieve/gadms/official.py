"""Weights of others: official GA-DMS and OpenAI CLIP state dicts, and CLIP folders as transformers writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...io.kinds import open_regular
from ...io.weights import read_tensors
from ...models.files import weight_files
from ...options import OptionError
from ...text import reason_of
from .clip import GADMS, CLIPArchitecture

_TRANSFORMERS = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.weight$", "visual.conv1.weight"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm1\.", ".ln_1."),
    (r"\.layer_norm2\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
"""transformers' names, and OpenAI's."""


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a safetensors or torch file, or of a folder with one of transformers' files.

    Raises
    ------
    UsageError
        If it cannot be read. Files of torch that hold more than tensors are refused: reading them runs their code.
    """
    if path.is_dir():
        (file,) = weight_files(path)[:1]
        return read_state(file)
    try:
        if path.suffix == ".safetensors":
            return dict(read_tensors(path)[1])
        with open_regular(path) as data:
            stored = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises anything on damaged files
        raise OptionError(f"{{weights}}: {path} cannot be read ({reason_of(error)}).") from None
    stored = stored.get("model", stored) if isinstance(stored, dict) else {}
    return {name.removeprefix("module."): value for name, value in stored.items() if isinstance(value, Tensor)}


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ``transformers.CLIPModel`` under OpenAI's names."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("visual_projection.weight", "text_projection.weight"):
            out["visual.proj" if name.startswith("visual") else "text_projection"] = value.T
            continue
        for pattern, ours in _TRANSFORMERS:
            name = re.sub(pattern, ours, name)
        if match := re.search(r"\.self_attn\.([qkv])_proj\.(weight|bias)$", name):
            if match[1] == "q":  # q, k and v are one matrix there
                rest = [state[_original(state, name, part)] for part in "kv"]
                out[name[: match.start()] + f".attn.in_proj_{match[2]}"] = torch.cat([value, *rest])
            continue
        out[name] = value
    return out


def _original(state: Mapping[str, Tensor], name: str, part: str) -> str:
    """transformers' name of the k or v projection beside the q projection that we call ``name``."""
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    tail = name.split("resblocks.", 1)[1].replace(".q_proj.", f".{part}_proj.")
    return f"{tower}.encoder.layers.{tail}"


def infer_architecture(state: Mapping[str, Tensor], image_size: tuple[int, int]) -> CLIPArchitecture:
    """Sizes of the model in a state dict with official names (``base_model.*``)."""

    def layers(prefix: str) -> int:
        matches = [re.match(re.escape(prefix) + r"\.resblocks\.(\d+)\.", name) for name in state]
        return 1 + max((int(match[1]) for match in matches if match), default=-1)

    vision, _, patch, _ = state["base_model.visual.conv1.weight"].shape
    width, embed = state["base_model.text_projection"].shape
    return CLIPArchitecture(
        embed_dim=embed, image_size=image_size, patch_size=patch, vision_width=vision,
        vision_layers=layers("base_model.visual.transformer"),
        text_length=state["base_model.positional_embedding"].shape[0],
        vocab_size=state["base_model.token_embedding.weight"].shape[0], text_width=width,
        text_heads=max(1, width // 64), text_layers=layers("base_model.transformer"),
        decoder_layers=layers("cross_modal_transformer") or CLIPArchitecture().decoder_layers,
    )  # fmt: skip


def resize_positions(table: Tensor, grid: tuple[int, int], source: tuple[int, int] | None = None) -> Tensor:
    """Positional table [1 + patches, D] for another grid of patches, bilinear, corners not aligned (section 3.2).

    ``source`` is the table's own grid; without it a square one is assumed, as CLIP's is.
    """
    patches = table.shape[0] - 1
    if source is None:
        side = round(patches**0.5)
        source = (side, side) if side * side == patches else grid
    if source[0] * source[1] != patches:
        raise ValueError(f"{patches} positions are no grid of {source[0]} x {source[1]}")
    if source == grid:
        return table
    image = table[1:].float().T.reshape(1, -1, *source)
    resized = F.interpolate(image, grid, mode="bilinear", align_corners=False)[0].flatten(1).T
    return torch.cat([table[:1].float(), resized]).to(table.dtype)


def load_official(
    state: Mapping[str, Tensor], *, shape: CLIPArchitecture | None = None, image_size: tuple[int, int] = (384, 128)
) -> tuple[GADMS, list[str]]:
    """A model from weights of others.

    Parameters
    ----------
    state : mapping of str to Tensor
        Names of GA-DMS (``base_model.*``), of OpenAI's CLIP (``visual.*``) or of transformers' (``vision_model.*``).
    shape : CLIPArchitecture, optional
        Where the sizes cannot be told from the weights: head counts other than width / 64.
    image_size : (H, W)
        What the model is for; positions are resized to it.

    Returns
    -------
    (GADMS, list of str). The model in float32 and eval mode, and the names of its parts that the weights do not hold
    (the masked-word head, for a plain CLIP); these have fresh weights.

    Raises
    ------
    ValueError
        If the weights are of no CLIP with a vision transformer, or do not fit ``shape``.
    """
    named: dict[str, Any] = dict(state)
    if any(name.startswith("vision_model.") for name in named):
        named = from_transformers(named)
    if not any(name.startswith("base_model.") for name in named):
        named = {f"base_model.{name}": value for name, value in named.items()}
    if missing := [n for n in ("conv1.weight", "proj") if f"base_model.visual.{n}" not in named]:
        raise ValueError(f"these are no weights of a CLIP with a vision transformer: visual.{missing[0]} is missing")
    shape = shape or infer_architecture(named, image_size)
    net = GADMS(shape)
    key = "base_model.visual.positional_embedding"
    if named[key].shape[0] != net.base_model.visual.positional_embedding.shape[0]:
        named[key] = resize_positions(named[key], shape.grid)
    ours = net.state_dict()
    fitting = {name: value.float() for name, value in named.items() if name in ours}
    if wrong := [name for name, value in fitting.items() if value.shape != ours[name].shape]:
        name = wrong[0]
        raise ValueError(f"{name} is {tuple(fitting[name].shape)}, the model wants {tuple(ours[name].shape)}")
    net.load_state_dict(fitting, strict=False)
    fresh = sorted({name.split(".")[0] for name in ours if name not in fitting})
    if "base_model" in fresh:
        name = next(name for name in ours if name.startswith("base_model.") and name not in fitting)
        raise ValueError(f"the weights do not hold {name.removeprefix('base_model.')}")
    return net.eval(), fresh
