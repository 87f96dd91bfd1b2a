"""What a kind of encoder is: it knows its models when it sees one, and loads them. A row of ``METHODS`` names each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...io.weights import read_description
from ...models.files import read_json
from .base import Encoder

CONFIG = "config.json"


@dataclass(frozen=True)
class Source:
    """A model that was asked for.

    Parameters
    ----------
    name : str
        As the user gave it.
    path : Path
        The same as a path, or where the model of that id is on this machine. There may be nothing.
    """

    name: str
    path: Path

    def holds(self, file: str) -> bool:
        """Whether it is a folder with such a file."""
        return (self.path / file).is_file()

    @cached_property
    def form(self) -> str:
        """``format`` of a .safetensors file that attn wrote, "" of anything else.

        Raises ``UsageError`` for a .safetensors file that is not there, or damaged.
        """
        return str(read_description(self.path).get("format", "")) if self.path.suffix == ".safetensors" else ""

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json of a folder; empty where there is none that can be read: who loads it says why."""
        if not self.holds(CONFIG):
            return {}
        try:
            config = read_json(self.path / CONFIG)
        except UsageError:
            return {}
        return config if isinstance(config, dict) else {}


@dataclass(frozen=True, slots=True)
class EncoderKind:
    """A kind of encoder.

    Parameters
    ----------
    recognises : callable (Source) -> bool
        Whether a model is of this kind; the first kind of the registry that says so loads it. It reads no weights.
    load : callable (name, path, *, device, dtype, temperature, max_tokens) -> Encoder
        Raises ``UsageError`` where something is missing, damaged, not installed or out of range.
    files : tuple of str
        Files by which a folder of this kind is known.
    pools : bool
        ``load`` takes ``pooling``, too.
    """

    recognises: Callable[[Source], bool]
    load: Callable[..., Encoder]
    files: tuple[str, ...] = ()
    pools: bool = False
