"""All methods of all commands, for `attn methods` and shell completion. Imports tables, never methods."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable

from .registry import Registry

REGISTRIES = {
    "denoise": "attn.core.denoise:METHODS",
    "segment": "attn.core.segment:MODELS",
    "prune": "attn.core.prune:METHODS",
    "prune modifiers": "attn.core.prune:MODIFIERS",
    "prune calibrate": "attn.core.prune.calibrations:CALIBRATIONS",
    "bench": "attn.core.attention:OPERATORS",
    "retrieve": "attn.core.retrieve:METHODS",
    "probe": "attn.core.probe:KINDS",
    "train": "attn.core.train:RECIPES",
}


def registry(command: str) -> Registry:
    """The table of one command. Raises ``KeyError`` for a command without methods."""
    table: Registry = pkgutil.resolve_name(REGISTRIES[command])
    return table


def listed(command: str) -> list[Registry]:
    """What ``attn COMMAND --list`` shows: its methods, and what may stand behind their names."""
    return [registry(name) for name in (command, f"{command} modifiers") if name in REGISTRIES]


def registries() -> list[Registry]:
    return [registry(command) for command in REGISTRIES]


def complete(command: str) -> Callable[[str], list[tuple[str, str]]]:
    """Shell completion of a command's method names that can be used as they are, from the table alone (no torch)."""

    def names(incomplete: str) -> list[tuple[str, str]]:
        rows = registry(command).values()
        return [(row.name, row.summary) for row in rows if row.trained and row.name.startswith(incomplete)]

    return names
