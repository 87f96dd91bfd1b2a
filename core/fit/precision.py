"""Mixed precision: what convolutions and matrix products are computed in while the rest stays float32."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

TYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision(amp: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context in which a loss is computed; ``amp`` is one of ``TYPES``."""
    dtype = TYPES[amp]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def whole(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Within ``precision``: what it would spoil, such as cosines that are divided by a small temperature."""
    return torch.autocast(device.type, enabled=False)


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 where it is of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
