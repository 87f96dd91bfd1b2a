"""Decoders that keep something between the steps of a layer, for operators that have one and are asked to use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..equations import wants_gradient
from ..registry import OPERATORS
from .masks import Visible


class LayerDecoders:
    """The decoders of one layer, one for each sequence of a padded batch, else one for all.

    They go on while the cache grows token by token, and begin anew where it does not or is another: a second text, a
    reordered beam; also behind ``torch.inference_mode()``. A cache is known by the first channel of its keys.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._running: dict[tuple[int, int, int], tuple[Any, Tensor]] = {}  # rows, length: decoder, channel

    def step(self, q: Tensor, k: Tensor, v: Tensor, seen: Sequence[Visible], scale: float | None) -> Tensor:
        """The newest query of each row against its keys: [B, Hq, 1, Dv]."""
        same = len({(one.first, one.stop) for one in seen}) == 1
        pieces = [(slice(0, len(seen)), seen[0])] if same else [(slice(i, i + 1), one) for i, one in enumerate(seen)]
        before, self._running = self._running, {}
        outs = []
        for rows, one in pieces:
            if one.first == one.stop:
                outs.append(q.new_zeros(rows.stop - rows.start, q.shape[1], 1, v.shape[3]))
                continue
            keys, values = (x[rows, :, one.first : one.stop] for x in (k, v))
            kept = before.get((rows.start, rows.stop, keys.shape[2] - 1))
            channel = keys[..., 0].clone()
            goes_on = kept is not None and torch.equal(kept[1], channel[..., :-1])
            if kept is not None and kept[1].is_inference() and not channel.is_inference():
                goes_on = False  # its tensors cannot change outside torch.inference_mode()
            decoder = kept[0] if kept is not None and goes_on else self._make(scale=scale)
            outs.append(decoder.step(q[rows], keys, values))
            self._running[rows.start, rows.stop, keys.shape[2]] = decoder, channel
        return torch.cat(outs)


_LAYERS: WeakKeyDictionary[nn.Module, tuple[Any, LayerDecoders]] = WeakKeyDictionary()


def decoders_for(module: nn.Module, name: str, params: dict[str, Any], q: Tensor, k: Tensor) -> LayerDecoders | None:
    """The layer's decoders where the operator has one and is asked for it, or for nothing else and no gradient.

    It is asked for by parameters that only a decoder uses. A call of several queries, and other parameters, begin anew.
    """
    operator = OPERATORS[name].resolve()
    used = operator.decode_only & params.keys()
    wanted = used if operator.decode_only else "backend" not in params and not wants_gradient(q, k)
    if operator.session is None or not wanted or q.shape[2] > 1:
        _LAYERS.pop(module, None)
        return None
    if "backend" in params:
        raise ValueError(f"a decoder with {', '.join(sorted(used))} chooses its backend itself. Leave backend out.")
    kept = _LAYERS.get(module)
    if kept is None or kept[0] != params:
        kept = _LAYERS[module] = (params, LayerDecoders(partial(operator.session, **params)))
    return kept[1]
