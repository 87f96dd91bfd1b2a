"""What a prefill costs, from counted tokens (methods/prune-evaluation.md, section 6; pruning-peers.md, section 3.2).

Multiply-adds of the decoder layers: a product and a sum are one, as papers count them under the name of FLOPs. What
image tower, projector, output head and a method's scores cost is not in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.sites import VisionLanguageSite
from ..engine.trace import Prefill


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Widths of a decoder layer.

    Parameters
    ----------
    layers : int
    width : int
        d, of the hidden states.
    queries : int
        Of all query heads together; d in most models.
    keys : int
        e, of all key heads together; that of the values is the same.
    mlp : int
        m
    gated : bool
        The MLP has a third matrix, which gates.
    """

    layers: int
    width: int
    queries: int
    keys: int
    mlp: int
    gated: bool = True


def shape_of(site: VisionLanguageSite) -> DecoderShape:
    """The shape of a model's decoder layers."""
    config: Any = site.text.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    gated = any(name.endswith("gate_proj") for name, _ in site.layers[0].named_modules())
    return DecoderShape(
        site.depth, config.hidden_size, config.num_attention_heads * head, config.num_key_value_heads * head,
        config.intermediate_size, gated,
    )  # fmt: skip


def layer_of_ours(n: int, shape: DecoderShape) -> int:
    """2 n d^2 + 2 n d e + 2 n^2 d + 3 n d m for n tokens; 2 n d m without a gate. All n^2 pairs count."""
    d, a, e = shape.width, shape.queries, shape.keys
    return 2 * n * d * (a + e) + 2 * n * n * a + (3 if shape.gated else 2) * n * d * shape.mlp


def layer_of_fastv(n: int, shape: DecoderShape) -> int:
    """4 n d^2 + 2 n^2 d + 2 n d m: FastV's paper, whatever the heads and the MLP are."""
    d = shape.width
    return 4 * n * d * d + 2 * n * n * d + 2 * n * d * shape.mlp


def layer_of_sparsevlm(n: int, shape: DecoderShape) -> int:
    """4 n d^2 + 2 n^2 d + 3 n d m: SparseVLM's code."""
    d = shape.width
    return 4 * n * d * d + 2 * n * n * d + 3 * n * d * shape.mlp


FORMULAS: Mapping[str, Callable[[int, DecoderShape], int]] = {
    "attn": layer_of_ours,
    "fastv": layer_of_fastv,
    "sparsevlm": layer_of_sparsevlm,
}
"""Multiply-adds of one decoder layer with n tokens. ``attn`` is what the model does; the others are for comparison with
the tables of those papers."""


def multiply_adds(shape: DecoderShape, tokens: Sequence[int], formula: str = "attn") -> int:
    """Of a prefill in which layer l sees ``tokens[l]`` tokens."""
    return sum(FORMULAS[formula](n, shape) for n in _of_all(shape, tokens))


def kv_bytes(shape: DecoderShape, tokens: Sequence[int], item: int) -> int:
    """Of a cache that holds ``tokens[l]`` tokens of layer l, ``item`` bytes a number."""
    return sum(2 * n * shape.keys * item for n in _of_all(shape, tokens))


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """Of one prompt, with all tokens and with those that were left.

    Parameters
    ----------
    multiply_adds_before, multiply_adds_after : int
        By ``formula``.
    kv_bytes_before, kv_bytes_after : int
    retention : float
        Mean over the layers of the share of visual tokens.
    formula : str
        A name of ``FORMULAS``.
    """

    multiply_adds_before: int
    multiply_adds_after: int
    kv_bytes_before: int
    kv_bytes_after: int
    retention: float
    formula: str

    @property
    def flops_ratio(self) -> float:
        """After to before: what is left."""
        return self.multiply_adds_after / self.multiply_adds_before


def cost_of(site: VisionLanguageSite, prefill: Prefill, sample: int = 0, formula: str = "attn") -> PrefillCost:
    """What a prompt cost, as counted while it ran."""
    shape, item = shape_of(site), next(site.text.parameters()).element_size()
    after = [layer[sample] for layer in prefill.tokens]
    before = [prefill.whole(sample)] * site.depth
    return PrefillCost(
        multiply_adds(shape, before, formula), multiply_adds(shape, after, formula), kv_bytes(shape, before, item),
        kv_bytes(shape, after, item), prefill.retention(sample), formula,
    )  # fmt: skip


def _of_all(shape: DecoderShape, tokens: Sequence[int]) -> Sequence[int]:
    if len(tokens) != shape.layers:
        raise ValueError(f"tokens of {len(tokens)} layers, and there are {shape.layers}")
    return tokens
