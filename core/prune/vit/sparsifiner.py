"""sparsifiner: sparse attention that is predicted, and tokens dropped by class attention; CVPR 2023, arXiv 2303.13755.

Specification: methods/sparsifiner.md; the network is ``nets.sparsifiner_vit``, which `attn train sparsifiner` trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import UsageError
from ...nets.sparsifiner_layers import attention_multiply_adds
from ...nets.sparsifiner_vit import SparsifinerOutput, SparsifinerViT
from ..methods.base import Keep
from .base import VitPruner
from .ranked import STAGES, checked_positions, stage_counts
from .site import ImageSite
from .stages import ImagePass, ImageTrace

Part = Literal["both", "attention", "tokens"]


@dataclass(frozen=True)
class Sparsifiner(VitPruner):
    """Each query attends to the keys that a trained predictor names; patches are dropped behind three attentions.

    Parameters
    ----------
    part : {"both", "attention", "tokens"}
        Of the two.
    layer : int or None
        The first block that drops patches, behind its attention; None: 3, 6, 9 of 12.
    keys : float or None
        Share of the keys of each query; None: that which the model was trained for.
    exact_code : bool
        Dropped patches still count in the class token's softmax, as in the official code (section 9.10).
    """

    part: Part = "both"
    layer: int | None = None
    keys: float | None = None
    exact_code: bool = False

    @contextmanager
    def applied(self, site: ImageSite, keep: Keep) -> Iterator[ImageTrace]:
        model = site.model
        if not isinstance(model, SparsifinerViT):
            raise UsageError(
                f"{type(model).__name__} has no predictors of attention. `attn train sparsifiner` trains such."
            )
        if self.keys is not None and not 0 < self.keys <= 1:
            raise UsageError(f"keys: {self.keys} is no share above 0 and up to 1.")
        patches = model.config.num_tokens - 1
        trace = ImageTrace()
        with ExitStack() as stack:
            for number, of in enumerate(site.blocks):
                for name in ("keep_ratio", "token_keep"):
                    stack.callback(setattr, of.block, name, getattr(of.block, name))
                trained = model.config.layer_keep_ratio(number)
                of.block.keep_ratio = 1.0 if self.part == "tokens" else trained if self.keys is None else self.keys
                of.block.token_keep = None
            if self.part != "attention":
                for layer, share in token_shares(site, keep, self.layer, patches).items():
                    site.blocks[layer].block.token_keep = share
            stack.callback(delattr, model, "forward")
            model.forward = partial(self._forward, site, trace, model.forward)  # type: ignore[method-assign]
            yield trace

    def counted(self, site: ImageSite) -> AbstractContextManager[ImageTrace]:
        return replace(self, part="tokens").applied(site, Keep(share=1.0))

    def _forward(self, site: ImageSite, trace: ImageTrace, own: Any, image: Tensor) -> SparsifinerOutput:
        output: SparsifinerOutput = own(image, form="short", exact_code=self.exact_code)
        trace.passes.append(_pass_of(site, output))
        trace.pictures += len(image)
        return output


def token_shares(site: ImageSite, keep: Keep, layer: int | None, patches: int) -> dict[int, float]:
    """Section 3.3. Block -> share of all patches that goes on behind its attention, for a budget."""
    share = keep.share or min(1.0, (keep.count or 0) / patches)
    if share == 1:
        return {}
    first = layer if layer is not None else site.depth // 4
    drops = tuple(sorted({first + step * (site.depth - first) // STAGES for step in range(STAGES)}))
    drops = tuple(drop for drop in drops if drop < site.depth - 1)
    if layer is not None and not 0 <= layer < site.depth - 1:
        raise UsageError(
            f"layer {layer}: {type(site.model).__name__} can drop patches behind blocks 0 to {site.depth - 2}."
        )
    behind = checked_positions(site, None, [drop + 1 for drop in drops])
    counts = stage_counts(share, behind, site.depth, patches)
    return {drop: (count - 0.5) / patches for drop, count in zip(drops, counts, strict=True)}  # the model rounds up


def _pass_of(site: ImageSite, output: SparsifinerOutput) -> ImagePass:
    """What the records of a call say of its tokens; all pictures keep as many."""
    batch, patches = output.live.shape
    now = ImagePass(patches, site.prefix)
    lengths = [record.scores.shape[-1] - 1 for record in output.layers]
    lengths.append(output.tokens.shape[1])
    now.attended = [torch.full((batch,), length) for length in lengths[:-1]]
    now.going_on = [torch.full((batch,), length) for length in lengths[1:]]
    now.owner = (output.live.cumsum(1) - 1).masked_fill(~output.live, -1)
    total = float(site.embedding_multiply_adds(patches))
    for of, attended, going_on in zip(site.blocks, lengths[:-1], lengths[1:], strict=True):
        total += (
            of.token_cost[0] * (attended + 1) + of.token_cost[1] * (going_on + 1) + _attention_cost(of, attended + 1)
        )
    now.multiply_adds = torch.full((batch,), total, dtype=torch.float64)
    return now


def _attention_cost(of: Any, tokens: int) -> float:
    """Section 7, of one attention without its linear layers, on so many tokens."""
    predictor, ratio = of.attention.mask_predictor, of.block.keep_ratio
    if ratio == 1:
        return float(2 * tokens**2 * of.width)
    rules = of.attention.rules
    basis = predictor.basis(rules, torch.float32)
    rank = basis.shape[0]
    nonzero = int(basis.count_nonzero()) / rank * tokens / predictor.num_tokens
    budget = min(torch.tensor(ratio * predictor.num_tokens).ceil().int().item(), tokens - 1)
    return attention_multiply_adds(
        tokens, of.width, of.heads, channels=predictor.proj_c_q.out_features, rank=rank,
        topk_coef=rules.topk_coef or rank, basis_row=nonzero, budget=int(budget),
    )["sparse"]  # fmt: skip
