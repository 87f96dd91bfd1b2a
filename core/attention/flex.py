"""FlexAttention of PyTorch with a window+sink mask: the same pattern as ``window+sink``, by the library's engine.

Paper: arXiv 2412.05496; torch.nn.attention.flex_attention. Compiled, it runs block-sparse. Not compiled, PyTorch
computes all scores at once: meant for checking, and refused here for long sequences.
"""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..choose import in_torch
from ..opaque import opaque, own_dtypes
from . import window_sink
from .contract import Cost, Operator, Shape
from .equations import again_where_not_finite, attention_result
from .window_sink import BandSelection

_BLOCK = 128  # FlexAttention's own default
_EAGER_PAIRS = 1 << 26  # scores of a head that the uncompiled form may make: 256 MiB in float32


@dataclass(frozen=True, slots=True)
class Settings(window_sink.Settings):
    """Those of ``window+sink``, and whether to compile.

    Parameters
    ----------
    compile : bool
        Through torch.compile: linear memory and time, after a minute of compiling at the first call with new sizes.
    """

    compile: bool = False


def key_blocks(len_q: int, len_k: int, *, window: int, num_sinks: int) -> tuple[Tensor, Tensor]:
    """Key blocks of 128 that each query block touches: counts int32 [nQ], indices int32 [nQ, nK], ascending, then 0.

    From intervals, not from a mask of all pairs. The compiled form wants the full width nK.
    """
    block = torch.arange(-(-len_k // _BLOCK))
    row = torch.arange(0, len_q, _BLOCK)[:, None]  # first query of each block
    start = (row + len_k - len_q - window + 1).clamp(min=0)  # first key of its window
    last = (row + _BLOCK).clamp(max=len_q) + len_k - len_q - 1  # position of the block's last query
    touched = (block >= start // _BLOCK) & (block <= last // _BLOCK)
    touched = touched | (block * _BLOCK < start.clamp(max=num_sinks))  # [nQ, nK]
    indices = torch.where(touched, block, len(block)).sort(-1).values
    return touched.sum(-1, dtype=torch.int32), indices.masked_fill(indices == len(block), 0).to(torch.int32)


def block_mask(len_q: int, len_k: int, *, window: int, num_sinks: int, device: torch.device) -> Any:
    """FlexAttention's ``BlockMask`` of the pattern, the queries the last of the keys."""
    from torch.nn.attention.flex_attention import BlockMask

    offset = len_k - len_q

    def seen(batch: Tensor, head: Tensor, row: Tensor, col: Tensor) -> Tensor:
        at = row + offset
        return (col <= at) & ((col > at - window) | (col < num_sinks))

    counts, indices = key_blocks(len_q, len_k, window=window, num_sinks=num_sinks)
    return BlockMask.from_kv_blocks(
        counts[None, None].to(device),
        indices[None, None].to(device),
        BLOCK_SIZE=_BLOCK,
        mask_mod=seen,
        seq_lengths=(len_q, len_k),
        compute_q_blocks=False,  # only its backward pass needs them
    )


@functools.cache
def _compiled() -> Callable[..., Any]:
    """FlexAttention through torch.compile, once per process: it recompiles by itself for new shapes."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return compiled


def _check_compiler(device: torch.device) -> None:
    """Raise ``ValueError`` where torch.compile for the CPU has no C++ compiler to call."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if device.type == "cpu" and not any(map(shutil.which, names)):
        raise ValueError(
            f"flex: compile=True needs a C++ compiler on the CPU; found none of {', '.join(names)}. "
            "Install g++ or clang++, or set CXX to one."
        )


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """FlexAttention over the blocks of the pattern, its only form: ``backend`` has no say.

    Raises
    ------
    ValueError
        Without ``compile``, if the scores of a head would exceed 2^26; with it, if there is no C++ compiler.
    """
    from torch.nn.attention.flex_attention import flex_attention

    len_q, len_k, window, num_sinks = q.shape[2], k.shape[2], settings.window, settings.num_sinks
    if settings.compile:
        _check_compiler(q.device)
    elif len_q * len_k > _EAGER_PAIRS:
        raise ValueError(
            f"flex without compiling makes all {len_q} x {len_k} scores at once. Pass compile=True, or at most "
            f"{_EAGER_PAIRS} query-key pairs."
        )
    out = q.new_empty(*q.shape[:3], v.shape[3])
    if not out.numel():
        return out
    mask = block_mask(len_q, len_k, window=window, num_sinks=num_sinks, device=q.device)
    if not torch.is_grad_enabled():  # on the CPU it has no backward pass and refuses tensors that want one
        q, k, v = q.detach(), k.detach(), v.detach()
    arguments: dict[str, Any] = {"block_mask": mask, "scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    result: Any
    with own_dtypes(q.device.type):
        if torch.compiler.is_compiling():  # with all that is around it
            result = flex_attention(q, k, v, **arguments)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # bounded above
                function: Any = _compiled() if settings.compile else flex_attention
                result = function(q, k, v, **arguments)
        return _checked(q, k, v, result, scale, window, num_sinks)


@opaque(attention_result)
def _checked(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, scale: float | None, window: int, num_sinks: int
) -> Tensor:  # fmt: skip
    """``out``, or where it is not finite what it should be: FlexAttention's own engine multiplies hidden keys by 0."""
    return again_where_not_finite(
        out, lambda: window_sink.OPERATOR.blocked(q, k, v, scale=scale, window=window, num_sinks=num_sinks)
    )


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Blocks of 128 x 128 that the pattern touches; without ``compile`` all pairs."""
    window, num_sinks = settings.window, settings.num_sinks
    pattern = BandSelection(shape.batch, shape.num_heads, shape.len_q, shape.len_k, window, num_sinks, _BLOCK)
    queries = shape.batch * shape.num_heads * shape.len_q
    pairs = shape.batch * shape.num_heads * shape.len_q * shape.len_k
    if settings.compile:
        counts, _ = key_blocks(shape.len_q, shape.len_k, window=window, num_sinks=num_sinks)
        pairs = min(pairs, shape.batch * shape.num_heads * int(counts.sum()) * _BLOCK * _BLOCK)
    width = shape.head_dim + shape.value_dim
    moved = width * (queries + pairs / _BLOCK) * shape.itemsize
    return Cost(2.0 * width * pairs, moved, 0.0, pattern.useful / max(1, queries))


OPERATOR = Operator(
    settings=Settings,
    reference=window_sink.reference,
    phases=(in_torch("flex", attend),),
    cost=cost,
    whole=attend,
    at_budget=window_sink.at_budget,
    causal=(True,),
    compiled=True,
    small={"window": 32},
)
