"""The file of a text classifier: weights, sizes, and how texts become numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...io.weights import check_architecture, read_weights, write_weights
from .network import AttentiveLSTM, AttentiveShape
from .texts import KnownWords

FORMAT, VERSION = "attn-attentive", 1
_DERIVED = "neighbours"
"""What training keeps beside the weights."""


@dataclass(frozen=True, slots=True)
class TextClassifier:
    """A trained network and its words.

    Parameters
    ----------
    network : AttentiveLSTM
        In eval mode.
    vocabulary : KnownWords
    method : str
        How it was trained: ``"at"``.
    """

    network: AttentiveLSTM
    vocabulary: KnownWords
    method: str


def write_classifier(
    path: Path, network: AttentiveLSTM, vocabulary: KnownWords, method: str, facts: Mapping[str, Any]
) -> None:
    """Write a model file, atomically; float16."""
    described = {
        "format": FORMAT, "version": VERSION, "architecture": asdict(network.shape), "vocabulary": asdict(vocabulary),
        "method": method, "training": dict(facts),
    }  # fmt: skip
    state = {name: value for name, value in network.state_dict().items() if name != _DERIVED}
    write_weights(path, state, described)


def read_classifier(path: Path) -> TextClassifier:
    """The classifier of a file of ``write_classifier``, in float32. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> TextClassifier:
        shape = AttentiveShape(**described["architecture"])
        check_architecture(described["architecture"], lambda: AttentiveLSTM(shape), state)
        network = AttentiveLSTM(shape)
        network.load_state_dict({name: value.float() for name, value in state.items()})
        entries = dict(described["vocabulary"])
        vocabulary = KnownWords(**entries | {name: tuple(map(str, entries[name])) for name in ("words", "labels")})
        if len(vocabulary.words) != shape.words or shape.outputs not in (1, len(vocabulary.labels)):
            raise ValueError("its words or labels are not those of its network")
        return TextClassifier(network.eval(), vocabulary, str(described["method"]))

    return read_weights(
        path, FORMAT, VERSION, build, what="text classifier of attn. `attn train attention-at` makes one"
    )
