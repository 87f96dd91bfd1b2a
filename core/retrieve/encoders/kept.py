"""The one encoder that a process keeps loaded, and whether it is the one that an index was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...device import pick_device
from ...errors import InputError, UsageError
from ...options import OptionError
from ..options.encoder import ModelOptions
from .base import Encoder, Fingerprint
from .load import at_temperature, load

BLOCK_TEXTS, BLOCK_IMAGES = 512, 64
"""Items per task: what a killed run may have to embed again."""
MAX_SIDE = 1024
"""Larger photos are reduced while they are read; encoders see a few hundred pixels."""


def encoder_of(options: ModelOptions) -> Encoder:
    """The encoder; its weights are loaded once per process, whatever the temperature.

    Raises ``UsageError`` where it cannot be had.
    """
    return at_temperature(_loaded(replace(options, temperature=1.0)), options.temperature)


@lru_cache(maxsize=2)
def _loaded(options: ModelOptions) -> Encoder:
    return load(
        options.model, device=pick_device(options.device), dtype=options.dtype, max_tokens=options.max_tokens,
        allow_download=options.allow_download,
    )  # fmt: skip


def fingerprint_of(index: str | Path, kept: Mapping[str, Any]) -> Fingerprint:
    """What made an index. Raises ``InputError`` if it does not say."""
    try:
        return Fingerprint.from_dict(kept)
    except UsageError as error:
        reason = f"does not say which model made it ({error})"
        raise InputError(str(index), reason, "Build it again: --rebuild") from None


def check_fingerprint(index: str | Path, kept: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse an index of another encoder. Raises ``UsageError`` that names both."""
    mark = fingerprint_of(index, kept)
    if difference := mark.difference(encoder.fingerprint):
        raise OptionError(
            f"{index} was made with {mark.model}, this is {encoder.fingerprint.model} ({difference}). "
            "Their embeddings cannot be compared: give the same {model} and {temperature}, or use index {rebuild}."
        )
