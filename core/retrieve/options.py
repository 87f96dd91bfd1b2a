"""What `attn retrieve` can be told, as frozen values, and the one encoder that a process keeps loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..device import pick_device
from ..errors import InputError, UsageError
from .encoders.base import Encoder, Fingerprint
from .encoders.load import at_temperature, load

MODEL = "minilm"
"""The default encoder of texts; for images it is ``vit-minilm``."""
BLOCK_TEXTS, BLOCK_IMAGES = 512, 64
"""Items per task: what a killed run may have to embed again."""
MAX_SIDE = 1024
"""Larger photos are reduced while they are read; encoders see a few hundred pixels."""


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """What makes an embedding: two embeddings can be compared only where all of this is the same.

    Parameters
    ----------
    model : str
        A name of ``encoders.load``, a directory, or a model file.
    temperature : float
        Of the attention (TempScale); 1 leaves the model as it is.
    max_tokens : int, optional
        Longer texts are cut; default: the model's own limit.
    device, dtype : str
    allow_download : bool
        Ask the hub for a model that is not on this machine.
    """

    model: str = MODEL
    temperature: float = 1.0
    max_tokens: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    allow_download: bool = False


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How a gallery becomes an index.

    Parameters
    ----------
    encoder : EncoderOptions
    store : {"auto", "flat", "lance"} or a ``qdrant://`` address
    rebuild : bool
        Begin anew: the only way to another model, and out of a damaged index.
    keep_missing : bool
        Keep what the gallery no longer holds.
    prune : bool
        Forget also what is of galleries that are empty now, or are not named.
    chunk : str, optional
        See ``passages.passage_tokens``; default: as the index has it.
    """

    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    store: str = "auto"
    rebuild: bool = False
    keep_missing: bool = False
    prune: bool = False
    chunk: str | None = None


def encoder_of(options: EncoderOptions) -> Encoder:
    """The encoder; its weights are loaded once per process, whatever the temperature.

    Raises ``UsageError`` where it cannot be had.
    """
    if options.temperature <= 0:
        raise UsageError(f"--temperature: {options.temperature:g} must be above 0; 1 is the model as it is.")
    return at_temperature(_loaded(replace(options, temperature=1.0)), options.temperature)


@lru_cache(maxsize=2)
def _loaded(options: EncoderOptions) -> Encoder:
    return load(
        options.model, device=pick_device(options.device), dtype=options.dtype, max_tokens=options.max_tokens,
        allow_download=options.allow_download,
    )  # fmt: skip


def check_fingerprint(index: str | Path, kept: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse an index of another encoder. Raises ``UsageError`` that names both."""
    try:
        mark = Fingerprint.from_dict(kept)
    except UsageError as error:
        raise InputError(
            str(index), f"does not say which model made it ({error})", "Build it again: --rebuild"
        ) from None
    if difference := mark.difference(encoder.fingerprint):
        raise UsageError(
            f"{index} was made with {mark.model}, this is {encoder.fingerprint.model} ({difference}). "
            "Their embeddings cannot be compared: give the same --model and --temperature, or use index --rebuild."
        )
