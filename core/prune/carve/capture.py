"""What the newest token attends to, step by step of an answer: methods/carve.md, sections 3.1 and 7.

One row per layer and step, from its query and the cached keys: SDPA and the cache stay on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ...models.hooks import operands
from ...models.softmax import Operands, added
from ..engine.prompts import prompts_of
from ..engine.sites import VisionLanguageSite


class NewestRows:
    """Attention of the newest token to the visual tokens of a prompt, mean over heads, as a model goes on.

    Parameters
    ----------
    visual : Tensor of int64 [V]
        Where the visual tokens are.
    """

    def __init__(self, visual: Tensor) -> None:
        self.visual = visual
        self.passes = 0
        """Forward passes of the model."""
        self.rows: dict[int, list[Tensor]] = {}
        """Layer -> one [V] of each step, float32."""

    def see(self, layer: int, call: Operands) -> None:
        """For ``operands``."""
        self.rows.setdefault(layer, []).append(newest_row(call)[self.visual])

    @property
    def maps(self) -> NDArray[np.float64]:
        """Steps, layers (ascending), visual tokens: [S, L, V]."""
        layers = [torch.stack(self.rows[layer]) for layer in sorted(self.rows)]
        return np.asarray(torch.stack(layers, 1).cpu().numpy(), np.float64)


def newest_row(call: Operands) -> Tensor:
    """The last row of the attention of one prompt, mean over heads, [Lk] float32."""
    if len(call.q) != 1:
        raise ValueError(f"one prompt at a time; there are {len(call.q)}")
    q = call.q[0, :, -1:].float()  # [Hq, 1, D]
    k = call.k[0].float().repeat_interleave(call.q.shape[1] // call.k.shape[1], 0)
    logits = q @ k.mT * call.scale
    if call.mask is not None:
        logits = logits + added(call.mask, torch.float32)[0, ..., -1:, :]
    return logits.softmax(-1).mean((0, 1))


@contextmanager
def newest_rows(
    site: VisionLanguageSite, layers: tuple[int, ...], inputs: Mapping[str, Any]
) -> Iterator[NewestRows]:  # fmt: skip
    """Collect rows while a model answers one prompt inside the block.

    Parameters
    ----------
    site : VisionLanguageSite
    layers : tuple of int
        Of its language model.
    inputs : mapping
        Of the prompt: ``input_ids`` and ``attention_mask``, [1, N].

    Raises
    ------
    UsageError
        If there is no visual token in the prompt.
    """
    visual = prompts_of(site, inputs).visual[0]
    if not len(visual):
        raise UsageError("the prompt has no visual token: nothing of the picture reaches the language model.")
    seen = NewestRows(visual)

    def count(*_: object) -> None:
        seen.passes += 1

    handle = site.model.register_forward_pre_hook(count)
    try:
        with operands(site.text, layers, seen.see):
            yield seen
    finally:
        handle.remove()
