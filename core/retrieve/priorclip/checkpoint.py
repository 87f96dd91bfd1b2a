"""Trained PriorCLIP models as files: float16 safetensors with architecture, vocabulary and scene labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...io.weights import check_architecture, read_weights, write_weights
from .closed import build_model
from .model import PriorCLIPArchitecture, SceneGuided
from .text import Vocabulary

FORMAT, VERSION = "attn-priorclip", 2
"""Version 1 knew no variants: its files are PriorCLIP."""


@dataclass(frozen=True, slots=True)
class PriorCLIPCheckpoint:
    """A trained model.

    Parameters
    ----------
    architecture : PriorCLIPArchitecture
    vocabulary : Vocabulary
    scenes : tuple of str
        Labels that the instruction network tells apart.
    state : mapping of str to Tensor
    training : mapping
        How it was trained, as JSON holds it.
    """

    architecture: PriorCLIPArchitecture
    vocabulary: Vocabulary
    scenes: tuple[str, ...]
    state: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> SceneGuided:
        """The model in eval mode, float32."""
        net = build_model(self.architecture, len(self.vocabulary), len(self.scenes))
        net.load_state_dict({name: value.float() for name, value in self.state.items()})
        return net.eval()


def write_checkpoint(checkpoint: PriorCLIPCheckpoint, path: Path) -> None:
    """Write a model file, atomically. Weights are rounded to float16."""
    described = {
        "format": FORMAT, "version": VERSION, "architecture": asdict(checkpoint.architecture),
        "vocabulary": checkpoint.vocabulary.words, "scenes": checkpoint.scenes, "training": dict(checkpoint.training),
    }  # fmt: skip
    write_weights(path, checkpoint.state, described)


def read_checkpoint(path: Path) -> PriorCLIPCheckpoint:
    """A model file of ``write_checkpoint``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> PriorCLIPCheckpoint:
        shape = PriorCLIPArchitecture(**described["architecture"])
        words, scenes = Vocabulary(tuple(described["vocabulary"])), tuple(described["scenes"])
        check_architecture(described["architecture"], lambda: build_model(shape, len(words), len(scenes)), state)
        checkpoint = PriorCLIPCheckpoint(shape, words, scenes, state, described["training"])
        checkpoint.build()
        return checkpoint

    return read_weights(path, FORMAT, VERSION, build, what="PriorCLIP model of attn. `attn train priorclip` makes one")
