"""One table of vision-language models: per class, where its language model, image tower and projector are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...models.loaded import Loaded


@dataclass(frozen=True, slots=True)
class Parts:
    """Paths of the parts of a class, from the model that generates.

    Parameters
    ----------
    text : str
        The module with the loop over decoder layers.
    tower, projector : str
        The image tower, and what maps its features to the language model's width.
    tokens : tuple of str
        Fields of the configuration that name the token ids that visual features replace.
    """

    text: str
    tower: str
    projector: str
    tokens: tuple[str, ...] = ("image_token_id",)


_LLAVA = Parts("model.language_model", "model.vision_tower", "model.multi_modal_projector")
_QWEN = Parts("model.language_model", "model.visual", "model.visual.merger", ("image_token_id", "video_token_id"))
_IDEFICS = Parts("model.text_model", "model.vision_model", "model.connector")

MODELS: Mapping[str, Parts] = {
    "LlavaForConditionalGeneration": _LLAVA,
    "LlavaNextForConditionalGeneration": _LLAVA,
    "Qwen2VLForConditionalGeneration": _QWEN,
    "Qwen2_5_VLForConditionalGeneration": _QWEN,
    "SmolVLMForConditionalGeneration": _IDEFICS,
    "Idefics3ForConditionalGeneration": _IDEFICS,
    "InternVLForConditionalGeneration": _LLAVA,
}


@dataclass(frozen=True, slots=True)
class VisionLanguageSite:
    """A vision-language model and its parts.

    Parameters
    ----------
    model : Module
        The one that generates.
    text, tower, projector : Module
    layers : sequence of Module
        Of the language model.
    tokens : tuple of int
        Ids that visual features replace.
    fingerprint : str
        Of the weights, as ``Loaded`` has it; empty where it is not known.
    """

    model: Any
    text: Any
    tower: Any
    projector: Any
    layers: tuple[nn.Module, ...]
    tokens: tuple[int, ...]
    fingerprint: str = ""

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def has_grid_positions(self) -> bool:
        """A token's position is its frame, row and column in the picture (M-RoPE), no single number."""
        return "mrope_section" in (getattr(self.text.config, "rope_parameters", None) or {})

    def rotary(self, hidden: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """The rotary factors that the language model makes of position ids, (cos, sin), each [B or 1, n, d].

        Parameters
        ----------
        hidden : Tensor [B, n, D]
            Whose dtype and length they get.
        ids : Tensor of int64 [..., B, n] or None
            None: from 0.
        """
        if ids is None:
            ids = torch.arange(hidden.shape[1], device=hidden.device)[None]
        if self.has_grid_positions:  # a first row of four says where texts are packed
            ids = ids[-3:] if ids.dim() == 3 else ids.expand(3, *ids.shape)
        cos, sin = self.text.rotary_emb(hidden, ids)
        return cos, sin


def site_of(given: nn.Module | Loaded) -> VisionLanguageSite:
    """Where the parts of a vision-language model are.

    Raises
    ------
    UsageError
        If its class is not in the table: names it, and what is supported.
    """
    model: nn.Module = given.model if isinstance(given, Loaded) else given
    for cls in type(model).__mro__:
        if (parts := MODELS.get(cls.__name__)) is not None:
            break
    else:
        name, known = type(model).__name__, ", ".join(sorted(MODELS))
        config: Any = getattr(model, "config", None)
        if config is not None and not any(hasattr(config, part) for part in ("vision_config", "image_size")):
            raise UsageError(f"{name} is a model of text alone: it has no visual tokens. Known: {known}.")
        raise UsageError(f"{name}: visual tokens of this class cannot be pruned. Known: {known}.")
    text: Any = model.get_submodule(parts.text)
    config = model.config
    ids = tuple(getattr(config, field) for field in parts.tokens)
    return VisionLanguageSite(
        model, text, model.get_submodule(parts.tower), model.get_submodule(parts.projector),
        tuple(text.layers), ids, given.fingerprint if isinstance(given, Loaded) else "",
    )  # fmt: skip


def is_vision_language(model: nn.Module) -> bool:
    """Whether a model is of a class of ``MODELS``."""
    return any(cls.__name__ in MODELS for cls in type(model).__mro__)
