"""`attn prune`: from the pictures a user names to a report; the same for a library, a shell and a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundles import Placement
from ..errors import UsageError
from ..progress import Watcher
from ..report.model import Report
from .options import PruneOptions


def run(
    inputs: Sequence[str],
    output: str | Path | None,
    options: PruneOptions,
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    stdin: Any = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Ask a model about pictures with all its visual tokens and with fewer. Raises ``UsageError``."""
    raise UsageError("attn prune: pictures cannot be asked about yet.")
