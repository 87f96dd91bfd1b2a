"""One attention layer of a model, by an operator: what transformers calls in place of its own attention."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...choose import Formulation, Phase, choices
from ...opaque import outside_graphs
from .. import attention
from ..checks import check_parameters
from ..registry import OPERATORS
from ..sequences import Padding
from .decode import decoders_for
from .log import Ran, Stage, log
from .masks import Visible, decoded
from .parameters import parameters_for

_REFUSED = {
    "softcap": "soft-caps its scores",
    "s_aux": "has sink weights in its softmax",
    "sinks": "has sink weights in its softmax",
    "position_bias": "adds a bias of positions to its scores",
    "output_attentions": "is asked for its attention weights, which are never made",
    "indices": "chooses its keys itself",
    "block_indices": "chooses its keys itself",
    "block_table": "has a paged cache",
    "read_index": "has a paged cache",
}
"""Arguments of transformers' attention that ask for what no operator does."""


@outside_graphs
def run_layer(
    name: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None,
    sliding_window: int | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """An attention function of transformers' ``AttentionInterface``.

    Parameters
    ----------
    name : str
        The operator.
    module : nn.Module
        The layer: its index, its configuration, whether it is causal.
    query, key, value : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
        Rotated, the cache included. In ``torch.autocast`` they are taken in its dtype, as PyTorch's own attention does.
    attention_mask : Tensor, optional
        Of ``masks.describe``; None: causal, without padding.
    dropout, scaling, is_causal, sliding_window, others
        As transformers passes them.

    Returns
    -------
    out : Tensor [B, Lq, Hq, Dv]
    None
        Where eager attention has its weights.

    Raises
    ------
    ValueError
        In one line that names the layer and the remedy, where the operator cannot do what the model asks for.
    """
    layer = getattr(module, "layer_idx", None)
    layer = type(module).__name__ if layer is None else int(layer)
    try:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        _check(name, causal, dropout, others)
        seen = _sequences(attention_mask, key, sliding_window, others.get("cu_seq_lens_k"))
        given = parameters_for(getattr(module, "config", None))
        check_parameters(name, OPERATORS[name].resolve(), {x: y for x, y in given.own.items() if x != "backend"})
        window, written = seen[0].window, seen[0].written
        query, key, value = _autocast(query, key, value)
        params = {"backend": given.own["backend"]} if "backend" in given.own else {}
        if window:
            operator, why = "window+sink", _own_window(name, module, window)
            params |= {"window": window, "num_sinks": 0}
        elif layer in given.dense_layers:
            operator, why = "dense", "in dense_layers"
        else:
            operator, why, params = name, "", _own_parameters(name, module, given.own)
        with choices() as chosen:
            out = _attend(operator, module, query, key[:, :, :written], value[:, :, :written], seen, scaling, params)
        phase: Stage = "prefill" if query.shape[2] == written else "decode" if query.shape[2] == 1 else "extend"
        log(Ran(layer, operator, phase, query.shape[0], query.shape[2], written, _names(chosen), why))
    except ValueError as error:
        where = f"layer {layer}" if isinstance(layer, int) else layer
        raise ValueError(f"attn:{name}, {where}: {error}") from error
    return out.transpose(1, 2).contiguous(), None


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtype of ``torch.autocast``, where it is on: values come in it, rotated keys do not."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    return [x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(kind)) for x in tensors]


def _names(chosen: Sequence[tuple[Phase, Formulation]]) -> str:
    """The formulations that ran, without those that had no alternative, unless there are no others."""
    several = [form.name for phase, form in chosen if len(phase.formulations) > 1]
    return " + ".join(dict.fromkeys(several or [form.name for _, form in chosen]))


def _check(name: str, causal: bool, dropout: float, others: dict[str, Any]) -> None:
    """Raise ``ValueError`` for what no operator does."""
    if not causal:
        raise ValueError(
            f"attention here is not causal. Pass attn_implementation={{'text_config': 'attn:{name}'}}, so that this "
            "part of the model keeps its own, or 'sdpa'."
        )
    if dropout:
        raise ValueError(f"no operator has dropout, here {dropout}. Set config.attention_dropout = 0, or model.eval().")
    for argument, what in _REFUSED.items():
        if others.get(argument) is not None and others[argument] is not False:
            raise ValueError(f"the layer {what} ({argument}), which no operator does. Use attn_implementation='eager'.")


def _sequences(
    mask: Tensor | None, key: Tensor, sliding_window: int | None, boundaries: Tensor | None
) -> Sequence[Visible]:
    """What the layer is to see, one entry per sequence; ``boundaries`` of sequences must not say anything else."""
    if mask is None:
        length = key.shape[2]
        seen = [Visible(row, 0, length, length, sliding_window or 0) for row in range(key.shape[0])]
    else:
        described = decoded(mask)
        if described is None:
            raise ValueError(
                f"the mask {list(mask.shape)} is neither causal nor a sliding window, with padding at one end only: no "
                "operator takes it. Pad on the left, pass no mask of your own, or use attn_implementation='sdpa'."
            )
        seen = described
    if boundaries is not None and len(boundaries) - 1 > len(seen):
        raise ValueError(
            f"the text is packed by cu_seq_lens_k {boundaries.tolist()}, but its positions go on from one sequence to "
            "the next. Pass position_ids that begin again with each, no attention_mask, and use_cache=False."
        )
    return seen


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)


def _own_window(name: str, module: nn.Module, window: int) -> str:
    """Why a layer with a window of the model's own runs that; said once per model class as a warning, too."""
    _warn_once(
        f"attn:{name}: layers of {type(module).__name__} to which the model gives a window of {window} keys "
        f"keep it: {name} runs only in layers without one."
    )
    return f"the model's own window of {window}"


def _own_parameters(name: str, module: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """The operator's parameters for this layer: those given, and which layer it is where that matters to it."""
    operator = OPERATORS[name].resolve()
    if operator.rows is not None:
        _warn_once(f"attn:{name} is no approximation of softmax attention: the model must have been trained with it.")
    if {"layer", "num_layers"} <= operator.parameters.keys() and hasattr(module, "layer_idx"):
        config: Any = module.config
        given = {"layer": module.layer_idx, "num_layers": config.num_hidden_layers} | given
    return given


def _attend(
    operator: str, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, seen: Sequence[Visible], scale: float | None,
    params: dict[str, Any],
) -> Tensor:  # fmt: skip
    """The operator over the sequences: one call of ``attention``, or a step of the layer's own decoder."""
    decoders = decoders_for(module, operator, params, q, k)
    if decoders is not None:
        return decoders.step(q, k, v, seen, scale)
    call = functools.partial(attention, operator, causal=True, scale=scale, **params)
    out: Tensor
    if len(seen) > q.shape[0]:
        ends = [[0, *(one.stop for one in seen if one.row == row)] for row in range(q.shape[0])]
        out = torch.cat([call(q[None, i], k[None, i], v[None, i], cu_seqlens=ends[i]) for i in range(q.shape[0])])
    else:
        out = call(q, k, v, **_padding(seen))
    return out


def _padding(seen: Sequence[Visible]) -> dict[str, Any]:
    """``lengths`` and ``padding`` of ``attention``; nothing where there is none."""
    written = seen[0].written
    lengths = [one.stop - one.first for one in seen]
    if all(length == written for length in lengths):
        return {}
    rows = [one for one in seen if one.first < one.stop]  # one without valid keys is padded at either end
    padding: Padding = "left" if all(one.stop == written for one in rows) else "right"
    if padding == "right" and any(one.first for one in rows):
        raise ValueError("the batch is padded on both sides. Pad it on the left.")
    return {"lengths": lengths, "padding": padding}
