"""What a language model takes of memory, from the headers of its files: refused before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..memory import FIX, budget
from ..options import OptionError
from ..sizes import show_bytes

TOKENS = 3072
"""Of the prompt that is planned for: the largest pictures of LLaVA-NeXT are 2880."""


def check_fits(folder: Path, files: Sequence[Path], config: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a model that does not fit into the budget of memory, or into the device.

    Parameters
    ----------
    folder : Path
    files : sequence of Path
        Of its weights.
    config
        Of transformers.
    dtype : torch.dtype
        That it will have.
    device : torch.device

    Raises
    ------
    UsageError
        With what it takes, what there is, and what to do.
    """
    stored = getattr(config, "dtype", None) or torch.float16
    weights, prompt = parameters(files, stored) * dtype.itemsize, prompt_bytes(config, dtype)
    rooms = [("the budget of memory", budget(), f"{FIX}.")]
    if device.type == "cuda":
        rooms.append((f"what is free on {device}", torch.cuda.mem_get_info(device)[0], "Free memory there."))
    for what, room, fix in rooms:
        if weights + prompt > room:
            smaller = "" if dtype.itemsize <= 2 else "{dtype} bfloat16 takes half. "
            raise OptionError(
                f"{{model}}: {folder} takes about {show_bytes(weights + prompt)} (weights {show_bytes(weights)} as "
                f"{str(dtype).removeprefix('torch.')}, a prompt of {TOKENS} tokens {show_bytes(prompt)}), more than "
                f"{what}, {show_bytes(room)}. {smaller}{fix}"
            )


def parameters(files: Sequence[Path], stored: torch.dtype) -> int:
    """How many numbers files of weights hold; pickles, which have no header: as many of type ``stored`` as fit in them.

    A damaged header counts as nothing here: loading it says what is wrong.
    """
    from safetensors import safe_open

    total = 0
    for path in files:
        if path.suffix != ".safetensors":
            total += path.stat().st_size // stored.itemsize
            continue
        try:
            with safe_open(path, "pt") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
        except Exception:
            continue
    return total


def prompt_bytes(config: Any, dtype: torch.dtype, tokens: int = TOKENS) -> int:
    """Caches, the widest layer's results and the logits of a prompt."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    cache = 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * width
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    layer = 4 * text.hidden_size + 3 * inner
    return int(tokens * ((cache + layer) * dtype.itemsize + 4 * text.vocab_size))
