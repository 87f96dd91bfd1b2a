"""What a pruned model cannot do, each in one line (methods/pruning-peers.md, sections 8.5 and 9)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import UsageError
from ...options import OptionError
from .moment import PruneStage, TokenChoice
from .prompts import ENCODED, is_visual
from .sites import VisionLanguageSite

Positions = Literal["keep", "compact"]
KERNELS = ("eager", "sdpa")
CACHES = ("cache", "past_key_values")  # of transformers 5 and before
_PICTURES = ("pixel_values", "pixel_values_videos", "image_hidden_states")


def named(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a module by their names."""
    if not args:
        return kwargs
    call: dict[str, Any] = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    return {**call, **call.pop("kwargs", {})}


def cache_of(call: Mapping[str, Any]) -> Any:
    """The cache that a model or a layer is called with; None without one."""
    return next((call[name] for name in CACHES if call.get(name) is not None), None)


def is_eager(site: VisionLanguageSite) -> bool:
    """Whether the language model's attention is written out: its masks are added, not asked."""
    return bool(site.text.config._attn_implementation == "eager")


def has_pictures(call: Mapping[str, Any]) -> bool:
    """Whether a model is called with pixels, or with what an image tower made of them."""
    encoded = call.get(ENCODED) or {}
    return any(call.get(name) is not None for name in _PICTURES) or any(v is not None for v in encoded.values())


def check_model(site: VisionLanguageSite, stages: Sequence[PruneStage], positions: Positions) -> None:
    """Raises ``UsageError`` if stages or positions cannot be had in a model."""
    name, config = type(site.model).__name__, site.text.config
    for stage in stages:
        if not 0 <= stage.layer < site.depth:
            raise OptionError(f"{{layer}}: {name} has decoder layers 0 to {site.depth - 1}, not {stage.layer}.")
        if stage.layer == 0 and "previous" in stage.attention:
            raise OptionError("{layer}: there is no layer in front of 0 whose attention could be looked at.")
    if len({stage.layer for stage in stages}) < len(stages):
        raise ValueError("two stages in front of one layer")
    if "position_embeddings" not in inspect.signature(type(site.layers[0]).forward).parameters:
        raise UsageError(f"{name}: the positions of {type(site.text).__name__} are no rotary ones, which are needed.")
    if len({next(layer.parameters()).device for layer in site.layers}) > 1:
        raise UsageError(f"{name}: its layers lie on several devices. Load it onto one.")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or (not hasattr(config, "layer_types") and getattr(config, "sliding_window", None)):
        raise UsageError(f"{name}: layers that do not look at all tokens (sliding windows) cannot be pruned.")
    if positions not in ("keep", "compact"):
        raise OptionError(f"{{positions}}: {positions!r} is neither keep nor compact.")
    if positions == "compact" and site.has_grid_positions:
        raise OptionError(
            f"{{positions}}: compact has no meaning in {name}, where a token's position is its row and column in the "
            "picture. Use keep."
        )


def check_call(call: Mapping[str, Any]) -> None:
    """Raises ``UsageError`` for what would be of other rows than its name says once tokens are out."""
    if call.get("labels") is not None:
        raise UsageError("labels: a pruned prompt has fewer rows than labels. Take the loss of the logits yourself.")
    rows = call.get("logits_to_keep", 0)
    if not isinstance(rows, int) or rows > 1:
        raise UsageError(
            "logits of chosen rows (logits_to_keep) would be those of other tokens: leave it, or take the last one. "
            "Assisted decoding asks for them and cannot be used."
        )


def check_prompt(site: VisionLanguageSite, call: Mapping[str, Any]) -> None:
    """Raises ``UsageError`` if visual tokens of a prompt cannot be found or taken out."""
    ids, mask, cache = call.get("input_ids"), call.get("attention_mask"), cache_of(call)
    if ids is None:
        raise UsageError("inputs_embeds: visual tokens are found by their ids. Give input_ids.")
    pictures, tokens = has_pictures(call), bool(is_visual(site, ids).any())
    if pictures and not tokens:
        raise UsageError("the prompt has pictures, but no token of it stands for one. Let the processor write it.")
    if tokens and not pictures:
        raise UsageError("the prompt has visual tokens, but no picture came with it.")
    if not tokens:
        return
    if site.text.training and getattr(site.text, "gradient_checkpointing", False):
        raise UsageError("gradient checkpointing runs layers again, without what was taken out. Switch it off.")
    if (kernel := site.text.config._attn_implementation) not in KERNELS:
        raise UsageError(f"attention {kernel!r}: tokens can be taken out under {' and '.join(KERNELS)}.")
    if isinstance(mask, dict) or (mask is not None and mask.dim() != 2):
        raise UsageError("attention_mask: one per token [B, N] is needed; no static cache, no mask made beforehand.")
    for layer in getattr(cache, "layers", ()):
        if type(layer).__name__ != "DynamicLayer":
            raise UsageError(
                f"a cache of {type(layer).__name__} cannot be shortened: static, sliding and quantised caches cannot "
                "be used. Leave the default, dynamic one."
            )


def check_choices(layer: int, choices: Sequence[TokenChoice], numbers: Sequence[Tensor], any_order: bool) -> None:
    """Raises ``ValueError`` if a method keeps tokens that are gone, one twice, or in an order that is not theirs."""
    for choice, there in zip(choices, numbers, strict=True):
        keep = choice.keep.sort().values if any_order else choice.keep
        if not (torch.isin(keep, there).all() and (keep.diff() > 0).all()):
            raise ValueError(f"in front of layer {layer}, tokens were chosen that are not there, twice or out of order")
