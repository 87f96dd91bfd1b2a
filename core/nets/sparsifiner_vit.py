"""A vision transformer with Sparsifiner attention and, in marked layers, token pruning.

Paper: CVPR 2023, arXiv 2303.13755. Specification: methods/sparsifiner.md, sections 3.2-3.4; parameter names are those
of the official code, so its weights load. Differs: the budget is worked out in every call (pitfall 2), and inference
can take pruned tokens out of the sequence (``form="short"``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..attention.sparsifiner.predictor import ConnectivityPredictor, Rules, key_budget
from .sparsifiner_layers import (
    AttentionRecord,
    SparsifinerAttention,
    TokenSequence,
    attention_multiply_adds,
    kept_tokens,
)
from .vit import ClassTokenViT, Mlp, ViTShape

Form = Literal["zeros", "short"]


@dataclass(frozen=True)
class SparsifinerConfig(ViTShape):
    """DeiT-S with the default experiment of the paper.

    Parameters
    ----------
    keep_ratio : float or tuple of float
        Share of the keys each query attends to; one for all layers or one a layer.
    token_keep : mapping of layer to float
        After the attention of these layers only this share of all patch tokens goes on (``token_schedule``).
    rules : Rules
        From a predicted map to a mask.
    """

    keep_ratio: float | tuple[float, ...] = 0.25
    reduce_n: int = 6
    reduce_c: int = 2
    share_basis: bool = False
    rules: Rules = field(default_factory=Rules)
    token_keep: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rules.class_token:
            raise ValueError("the model has a class token: rules.class_token must be True.")
        if isinstance(self.keep_ratio, tuple) and len(self.keep_ratio) != self.depth:
            raise ValueError(f"keep_ratio has {len(self.keep_ratio)} entries for {self.depth} layers.")
        for layer, share in self.token_keep.items():
            if not (0 <= layer < self.depth and 0 < share <= 1):
                raise ValueError(
                    f"token_keep: layer {layer}, share {share}: layers are 0 to {self.depth - 1}, shares (0, 1]."
                )

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return self.patches + 1

    def layer_keep_ratio(self, layer: int) -> float:
        """Of one layer."""
        return self.keep_ratio[layer] if isinstance(self.keep_ratio, tuple) else self.keep_ratio


def token_schedule(base: float, depth: int = 12) -> dict[int, float]:
    """Section 3.3: base, base^2, base^3 of the patch tokens are left after layers 3, 6 and 9 of 12."""
    return {depth * step // 4: base**step for step in (1, 2, 3)}


@dataclass(frozen=True)
class SparsifinerOutput:
    """``logits`` [B, classes]; ``tokens`` [B, N - 1, D]: patch tokens after the last norm (short form: those left).

    ``live`` bool [B, N - 1]: patch tokens that were not pruned. ``layers``: one record each.
    """

    logits: Tensor
    tokens: Tensor
    live: Tensor
    layers: tuple[AttentionRecord, ...]


class SparsifinerBlock(nn.Module):
    """Section 3.4: a pre-norm block; ``token_keep`` marks it as one that prunes (section 3.3)."""

    def __init__(self, config: SparsifinerConfig, layer: int) -> None:
        super().__init__()
        self.keep_ratio, self.token_keep = config.layer_keep_ratio(layer), config.token_keep.get(layer)
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = SparsifinerAttention(
            config.dim, config.num_heads, config.num_tokens, reduce_n=config.reduce_n, reduce_c=config.reduce_c,
            share_basis=config.share_basis, rules=config.rules,
        )  # fmt: skip
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, config.hidden)

    def forward(
        self, tokens: TokenSequence, *, form: Form, reconstruct: bool, exact_code: bool
    ) -> tuple[TokenSequence, AttentionRecord]:
        """The tokens that go on, and what the attention did."""
        normed = tokens._replace(x=self.norm1(tokens.x))
        out, record = self.attn(normed, keep_ratio=self.keep_ratio, reconstruct=reconstruct, exact_code=exact_code)
        x, live, positions = tokens.x + out, tokens.live, tokens.positions
        kept = None
        if self.token_keep is not None and not reconstruct:
            kept = kept_tokens(record.prob, key_budget(self.attn.mask_predictor.num_tokens - 1, self.token_keep), live)
        if kept is not None and form == "short":
            # pruned tokens change nobody else in the MLP, so they can go before it
            x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))
            positions = kept if positions is None else positions.gather(1, kept)
        elif kept is not None:
            live = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device).scatter(1, kept, True)
        x = x + self.mlp(self.norm2(x))
        if kept is not None and form == "zeros":
            assert live is not None
            x = x * live[..., None]
        return TokenSequence(x, live, positions), record


class SparsifinerViT(ClassTokenViT):
    """Section 3.4: the classifier; its head reads the class token."""

    config: SparsifinerConfig

    def __init__(self, config: SparsifinerConfig) -> None:
        super().__init__(config, lambda layer: SparsifinerBlock(config, layer))

    def forward(
        self, image: Tensor, *, form: Form = "zeros", reconstruct: bool = False, exact_code: bool = False
    ) -> SparsifinerOutput:
        """Classify.

        Parameters
        ----------
        image : Tensor [B, C, H, W]
        form : {"zeros", "short"}
            What becomes of pruned tokens: zero vectors, as in the official code and in training, or taken out.
        reconstruct : bool
            Stage 1: dense attention, no pruning, predictions with a signed basis and no mask.
        exact_code : bool
            Short form: give the same class logits as with zero vectors (see ``SparsifinerAttention``).

        Returns
        -------
        SparsifinerOutput

        Raises
        ------
        ValueError
            If the image has not the size the model was made for, or ``form`` is neither of the two.
        """
        if form not in ("zeros", "short"):
            raise ValueError(f"form is {form!r}: it must be 'zeros' or 'short'.")
        tokens, records = TokenSequence(self.embed(image)), []
        for block in self.blocks:
            tokens, record = block(tokens, form=form, reconstruct=reconstruct, exact_code=exact_code)
            records.append(record)
        x = self.norm(tokens.x)
        live = tokens.live
        if live is None:
            live = torch.ones(len(x), self.config.num_tokens, dtype=torch.bool, device=x.device)
            if tokens.positions is not None:
                live = torch.zeros_like(live).scatter(1, tokens.positions, True)
        return SparsifinerOutput(self.head(x[:, 0]), x[:, 1:], live[:, 1:], tuple(records))

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a ViT that has no predictors (DeiT names).

        Raises
        ------
        ValueError
            If anything but predictors is missing, or there is anything unknown.
        """
        loaded = self.load_state_dict(dict(state), strict=False)
        missing = [name for name in loaded.missing_keys if "mask_predictor" not in name]
        if missing or loaded.unexpected_keys:
            raise ValueError(f"not the weights of this model: missing {missing}, unknown {loaded.unexpected_keys}.")

    def multiply_adds(self) -> dict[str, int]:
        """Of all attention layers together, for one image without token pruning (section 7): ``dense``, ``sparse``."""
        config, totals = self.config, {"dense": 0, "sparse": 0}
        for layer in range(config.depth):
            predictor = self.get_submodule(f"blocks.{layer}.attn.mask_predictor")
            assert isinstance(predictor, ConnectivityPredictor)
            basis = predictor.basis(config.rules, torch.float32)
            per_layer = attention_multiply_adds(
                config.num_tokens, config.dim, config.num_heads, channels=predictor.proj_c_q.out_features,
                rank=basis.shape[0], topk_coef=config.rules.topk_coef or basis.shape[0],
                basis_row=int(basis.count_nonzero()) / basis.shape[0],
                budget=key_budget(config.num_tokens, config.layer_keep_ratio(layer)),
            )  # fmt: skip
            for key, value in per_layer.items():
                totals[key] += value
        return totals
