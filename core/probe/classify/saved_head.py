"""A trained head as a file: what it takes to use it again on the same encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...io.weights import check_architecture, read_weights, write_weights
from ...nets.poolings.contract import TokenShape
from .head import ProbeHead

FORMAT, VERSION = "attn-probe-head", 1


@dataclass(frozen=True, slots=True)
class SavedHead:
    """A head, and what it reads.

    Parameters
    ----------
    head : ProbeHead
        In eval mode.
    probe, tokens : str
        Its name, and what it reads (``reading.reads_of``).
    layer : int
    final_norm : bool
    classes : tuple of str
    fingerprint : str
        Of the encoder's weights.
    """

    head: ProbeHead
    probe: str
    tokens: str
    layer: int
    final_norm: bool
    classes: tuple[str, ...]
    fingerprint: str


def write_head(path: Path, saved: SavedHead, pooling: str, shape: TokenShape, told: Mapping[str, Any]) -> None:
    """Write a head, in float16; ``told`` is further facts for people. Raises ``InputError`` if it cannot be written."""
    described = {
        "format": FORMAT, "version": VERSION, "probe": saved.probe, "pooling": pooling, "tokens": saved.tokens,
        "layer": saved.layer, "final_norm": saved.final_norm, "classes": list(saved.classes),
        "fingerprint": saved.fingerprint, "shape": asdict(shape), "told": dict(told),
    }  # fmt: skip
    write_weights(path, saved.head.state_dict(), described)


def read_head(path: Path) -> SavedHead:
    """Raises ``UsageError`` if it is none, or damaged."""
    return read_weights(path, FORMAT, VERSION, _built, what="head of `attn probe classify`")


def _built(described: dict[str, Any], state: dict[str, Tensor]) -> SavedHead:
    sizes = dict(described["shape"])
    shape = replace(TokenShape(**sizes), grid=tuple(sizes["grid"]) if sizes["grid"] else None)
    classes = tuple(map(str, described["classes"]))

    def build() -> ProbeHead:
        return ProbeHead(described["pooling"], shape, len(classes))

    check_architecture({"width": shape.width, "queries": shape.queries, "classes": len(classes)}, build, state)
    head = build()
    head.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return SavedHead(
        head.eval(), str(described["probe"]), str(described["tokens"]), int(described["layer"]),
        bool(described["final_norm"]), classes, str(described["fingerprint"]),
    )  # fmt: skip
