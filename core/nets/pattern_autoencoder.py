"""An autoencoder of attention patterns: 4096 numbers to 16 and back. Specification: methods/vit-analytics.md, 3.4."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..io.weights import check_architecture, read_weights, write_weights

FORMAT, VERSION = "attn-pattern-atlas", 1
HIDDEN = (512, 128)


class PatternAutoencoder(nn.Module):
    """Patterns, flat and log-scaled, to codes and back.

    Parameters
    ----------
    inputs : int
        Numbers of a pattern.
    code : int
        Numbers of a code.
    """

    def __init__(self, inputs: int = 4096, code: int = 16) -> None:
        super().__init__()
        self.inputs, self.code = inputs, code
        sizes = (inputs, *HIDDEN, code)
        self.encoder, self.decoder = _layers(sizes), _layers(sizes[::-1])

    def encode(self, x: Tensor) -> Tensor:
        """[S, inputs] to [S, code]."""
        code: Tensor = self.encoder(x)
        return code

    def forward(self, x: Tensor) -> Tensor:
        """[S, inputs] to what the codes keep of it."""
        out: Tensor = self.decoder(self.encode(x))
        return out


def _layers(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with GELU between them."""
    parts: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(sizes)):
        parts += [nn.GELU()] * bool(number) + [nn.Linear(before, after)]
    return nn.Sequential(*parts)


def write_atlas(net: PatternAutoencoder, path: Path, training: Mapping[str, Any]) -> None:
    """Write a model file, atomically. Weights are rounded to float16."""
    sizes = {"inputs": net.inputs, "code": net.code}
    write_weights(
        path, net.state_dict(), {"format": FORMAT, "version": VERSION, "sizes": sizes, "training": dict(training)}
    )


def read_atlas(path: Path) -> PatternAutoencoder:
    """A model file of ``write_atlas``, in eval mode, float32. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> PatternAutoencoder:
        sizes = described["sizes"]
        check_architecture(sizes, lambda: PatternAutoencoder(**sizes), state)
        net = PatternAutoencoder(**sizes)
        net.load_state_dict({name: value.to(torch.float32) for name, value in state.items()})
        return net.eval()

    return read_weights(
        path, FORMAT, VERSION, build, what="autoencoder of patterns. `attn train pattern-atlas` makes one"
    )
