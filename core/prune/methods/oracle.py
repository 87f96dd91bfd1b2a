"""The tokens that the model itself looks at, in all of its layers (methods/pruning-peers.md, section 3.9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.family import attention_places
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.prompts import Prompts
from ..engine.rows import LayerInput, summed_attention
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner, top


@dataclass(frozen=True)
class Oracle(Pruner):
    """The tokens with the most attention of the text behind the picture, summed over all layers and heads.

    It costs a whole pass of the model: an upper line in plots, no way to save anything.

    Parameters
    ----------
    layer : int, optional
        In front of which tokens go; default: in front of the language model.
    """

    layer: int | None = None

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            scores = global_attention(moment.prompts)
            return [
                top(score, numbers, keep.of(before))
                for score, numbers, before in zip(scores, moment.numbers, moment.prompts.counts, strict=True)
            ]

        return [PruneStage(self.layer or 0, choose)]


def global_attention(prompts: Prompts) -> list[Tensor]:
    """Attention of the text behind the picture to each visual token, summed over layers, heads and rows.

    The language model is run on the prompts once more, with all of their tokens. Of each layer only the rows of the
    text are worked out, one layer at a time. The formula is that of methods/sgl.md, section 3.1, on the model itself.

    Returns
    -------
    list of Tensor [n_b], float32
    """
    rows = [prompts.text_after(sample) for sample in range(prompts.samples)]
    totals = [torch.zeros(count, device=prompts.input_ids.device) for count in prompts.counts]

    def add(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        source = LayerInput(module, hidden, kwargs["position_embeddings"])
        for total, more in zip(totals, summed_attention(source, rows, prompts.valid, prompts.visual), strict=True):
            total += more

    handles = [
        place.module.register_forward_pre_hook(add, with_kwargs=True) for place in attention_places(prompts.site.text)
    ]
    try:
        prompts.again()
    finally:
        for handle in handles:
            handle.remove()
    return totals
