"""The two networks of equal size, their model file, and text that they write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...attention.lightning.decay import Decay
from ...io.weights import check_architecture, read_weights, write_weights
from ...nets.softmax_lm import SoftmaxLM
from ...nets.tnl import TNL, Variant
from .options import Kind
from .tokens import BytePairs

FORMAT, VERSION = "attn-language", 1
TOLERANCE = 0.01
"""By which the numbers of parameters may differ."""


@dataclass(frozen=True, slots=True)
class LanguageShape:
    """Sizes of a network.

    Parameters
    ----------
    kind : {"tnl", "softmax"}
    vocabulary, width, layers, heads : int
    inner : int
        Channels inside each gated linear unit.
    decay, variant
        Of TNL; without effect on the other.
    """

    kind: Kind
    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    decay: Decay = "code"
    variant: Variant = "tnl"

    def build(self) -> TNL | SoftmaxLM:
        """The network, its weights drawn from torch's generator."""
        if self.kind == "softmax":
            return SoftmaxLM(self.vocabulary, self.width, self.layers, self.heads, hidden_dim=self.inner)
        return TNL(
            self.vocabulary, self.width, self.layers, self.heads, glu_dim=self.inner, decay=self.decay,
            variant=self.variant,
        )  # fmt: skip

    @property
    def parameters(self) -> int:
        """How many there are."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build().parameters())


def equal_shapes(
    vocabulary: int, width: int, layers: int, heads: int, *, decay: Decay = "code", variant: Variant = "tnl"
) -> dict[Kind, LanguageShape]:
    """TNL with its usual 2.75 times the width inside, and the transformer whose gated units make up the difference.

    Raises
    ------
    ValueError
        If their numbers of parameters would differ by more than ``TOLERANCE``, as those of tiny ones may.
    """
    tnl = LanguageShape("tnl", vocabulary, width, layers, heads, width * 11 // 4, decay, variant)
    wanted = tnl.parameters
    softmax = LanguageShape("softmax", vocabulary, width, layers, heads, 1)
    each = 3 * width * layers  # parameters of one more channel
    inner = 1 + round((wanted - softmax.parameters) / each)
    softmax = LanguageShape("softmax", vocabulary, width, layers, heads, inner)
    if inner < 1 or abs(softmax.parameters - wanted) > TOLERANCE * wanted:
        raise ValueError(f"no softmax transformer of width {width} has about {wanted} parameters, as TNL; widen both.")
    return {"tnl": tnl, "softmax": softmax}


class LanguageModel(NamedTuple):
    """A network, what it is, and its tokens."""

    network: TNL | SoftmaxLM
    shape: LanguageShape
    tokens: BytePairs


def write_language_file(path: Path, model: LanguageModel, facts: Mapping[str, Any]) -> None:
    """Write a model file, atomically: weights as they are, in float32 (rates of positions bear no rounding)."""
    described = {
        "format": FORMAT, "version": VERSION, "architecture": asdict(model.shape), "tokenizer": model.tokens.file,
        "training": dict(facts),
    }  # fmt: skip
    write_weights(path, model.network.state_dict(), described, rounded=False)


def read_language_file(path: Path) -> LanguageModel:
    """The model of a file of ``write_language_file``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> LanguageModel:
        shape = LanguageShape(**described["architecture"])
        check_architecture(described["architecture"], shape.build, state)
        tokens = BytePairs(described["tokenizer"])
        if tokens.vocabulary != shape.vocabulary:
            raise ValueError(f"its tokeniser has {tokens.vocabulary} tokens, its network {shape.vocabulary}")
        network = shape.build()
        network.load_state_dict(state)
        return LanguageModel(network.eval(), shape, tokens)

    return read_weights(path, FORMAT, VERSION, build, what="language model of attn. `attn train tnl` makes one")


@torch.inference_mode()
def continuation(
    network: nn.Module, prompt: Tensor, count: int, *, temperature: float = 0.8, generator: torch.Generator
) -> Tensor:
    """Tokens that follow ``prompt`` (int64 [L]), step by step from the network's state: int64 [count].

    Parameters
    ----------
    network : Module
        Called with tokens [B, L] and ``states``; gives logits and states.
    temperature : float
        0: the most probable token.
    generator : Generator
        Of the CPU.
    """
    written: list[Tensor] = []
    tokens, states = prompt[None], None
    for _ in range(count):
        logits, states = network(tokens, states=states)
        last = logits[0, -1].float().cpu()
        token = torch.multinomial((last / temperature).softmax(-1), 1, generator=generator) if temperature else (
            last.argmax(keepdim=True)
        )  # fmt: skip
        written.append(token)
        tokens = token[None].to(prompt.device)
    return torch.cat(written) if written else prompt.new_empty(0).cpu()
