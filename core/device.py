"""Where and how a computation runs: device, dtype, threads, seed. One place, shared by all commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import did_you_mean
from .options import OptionError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float64", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "fp64": "float64", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


def pick_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` means on this machine.

    Raises
    ------
    UsageError
        For another name, or a device that this machine or this build of torch does not have.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()) or (number and kind != "cuda"):
        hint = did_you_mean(name, ["auto", "cpu", "cuda", "cuda:0", "mps"]) or "Use auto, cpu, cuda, cuda:N or mps."
        raise OptionError(f"{{device}}: no device named {name!r}. {hint}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise OptionError(
            f"{{device}}: {name} is not here ({count} CUDA devices found). `attn doctor` shows the devices."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("{device}: mps is not here. `attn doctor` shows the devices.")
    return torch.device(name)


def pick_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name such as ``float32`` or ``bf16``. Raises ``UsageError`` for another name."""
    import torch

    full = _SHORT.get(name, name)
    if full not in DTYPES:
        hint = did_you_mean(name, [*DTYPES, *_SHORT]) or f"Use one of {', '.join(DTYPES)}."
        raise OptionError(f"{{dtype}}: no dtype named {name!r}. {hint}")
    dtype = getattr(torch, full)
    assert isinstance(dtype, torch.dtype)
    return dtype


def synchronise(device: torch.device) -> None:
    """Wait until everything that was launched on ``device`` is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has (containers, taskset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int | None) -> int:
    """Let torch use ``count`` CPU threads (None: every core we may use); returns the number in force."""
    import torch

    torch.set_num_threads(count or available_cores())
    return torch.get_num_threads()
