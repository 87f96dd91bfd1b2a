"""Where the tokens of answers look: statistics of attention, layer by layer and head by head, never the matrix.

Specification: methods/focusft.md, section 3.8. The names are the paper's (FocuSFT, arXiv 2605.09932), whose exact
definitions could not be read; these are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ...models.family import attention_places
from ...models.hooks import operands
from ...models.rows import attention_rows
from ...models.softmax import Operands

DEPTHS = 10
"""Parts of the context, by how deep they lie in it, in each of which attention is added up."""


@dataclass(frozen=True, slots=True)
class Dilution:
    """Means over the rows that look, of L layers and H heads.

    Parameters
    ----------
    sink : ndarray [L, H]
        Attention on the first tokens.
    engagement : ndarray [L, H]
        Attention on the context, without the first tokens.
    entropy : ndarray [L, H]
        Of a row, over the logarithm of the number of its keys: 1 is even.
    depth : ndarray [L, H, D]
        Attention on each part of the context, the first tokens left out.
    rows : int
        How many looked.
    """

    sink: NDArray[np.float64]
    engagement: NDArray[np.float64]
    entropy: NDArray[np.float64]
    depth: NDArray[np.float64]
    rows: int

    def maps(self) -> dict[str, NDArray[np.float64]]:
        """What is [L, H], by name."""
        return {"sink": self.sink, "engagement": self.engagement, "entropy": self.entropy}

    def means(self) -> dict[str, float]:
        """Over layers and heads; ``sink_ratio`` is sink over engagement."""
        found = {name: float(values.mean()) for name, values in self.maps().items()}
        return found | {"sink_ratio": found["sink"] / found["engagement"] if found["engagement"] else float("nan")}


def pooled(parts: Sequence[Dilution]) -> Dilution:
    """Several sequences as one: means over all the rows."""
    weights = [part.rows for part in parts]
    sink, engagement, entropy, depth = (
        np.average([getattr(part, name) for part in parts], 0, weights)
        for name in ("sink", "engagement", "entropy", "depth")
    )
    return Dilution(sink, engagement, entropy, depth, sum(weights))


def depth_groups(context: int, length: int, sinks: int) -> Tensor:
    """Bool [2 + D, length]: the first tokens, the context without them, and the parts of the latter."""
    place = torch.arange(length)
    beyond = (place >= sinks) & (place < context)
    part = (place - sinks) * DEPTHS // max(1, context - sinks)
    return torch.stack([place < sinks, beyond, *(beyond & (part == number) for number in range(DEPTHS))])


@torch.no_grad()
def measure(
    model: Any, tokens: Tensor, rows: Tensor, context: int, *, sinks: int = 1, mask: Tensor | None = None
) -> Dilution:
    """Run a model over one sequence and add up where the rows look.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    tokens : Tensor of int64 [S]
    rows : Tensor of int64 [R]
        Tokens that look: those of answers, or the last.
    context : int
        The tokens before this are the context.
    sinks : int
        First tokens that count as the sink.
    mask : Tensor [1, 1, S, S], optional
        Of the model's run, under which each of ``rows`` sees all tokens up to itself; None: causal.

    Raises
    ------
    UsageError
        If an attention of the model is of an unknown class, or its rows do not see the tokens up to themselves, or the
        last of them.
    """
    layers = len(attention_places(model))
    groups = depth_groups(context, len(tokens), sinks)
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def record(layer: int, given: Operands) -> None:
        since = first_seen(given, rows)
        found = attention_rows(given.q, given.k, rows, scale=given.scale, causal=True, since=since, columns=groups)
        assert found.mass is not None
        keys = (rows + 1 if since is None else rows + 1 - since).to(found.entropy)
        even = found.entropy / keys.log().clamp_min(torch.finfo(found.entropy.dtype).eps)
        seen[layer] = found.mass[0].double().mean(1).cpu(), even[0].double().mean(1).cpu()

    with operands(model, "all", record):
        model(input_ids=tokens[None], attention_mask=mask, use_cache=False, logits_to_keep=1)
    mass, entropy = (torch.stack([seen[layer][part] for layer in range(layers)]).numpy() for part in (0, 1))
    return Dilution(mass[..., 0], mass[..., 1], entropy, mass[..., 2:], len(rows))


def first_seen(given: Operands, rows: Tensor) -> Tensor | None:
    """The first key of each row, int64 [R]; None where it is the first of all. Raises ``UsageError``."""
    if given.mask is None:
        if not given.causal:
            raise UsageError("this model's tokens see those that follow: it is no causal language model.")
        return None
    mask = given.mask.expand(*given.mask.shape[:2], given.q.shape[2], given.k.shape[2])[0, 0, rows]
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    place = torch.arange(seen.shape[1], device=seen.device)
    since = seen.to(torch.int64).argmax(1)
    if not torch.equal(seen, (place >= since[:, None]) & (place <= rows[:, None].to(place))):
        raise UsageError("an attention of this model leaves out tokens in between, which is not measured yet.")
    return since if bool(since.any()) else None
