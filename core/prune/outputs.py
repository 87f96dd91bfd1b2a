"""What `attn prune` writes beside its report: the overlay, which says how it was made, and the comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch.task import Task
from ..compare import Comparison
from ..errors import InputError
from ..io.bands import read_text, write_png
from ..io.kinds import open_regular
from ..report.model import Item
from ..text import printable
from .options import PruneOptions

WORD = "kept"
"""Of the overlay beside its input: NAME.kept.png."""
KEYWORD = "attn-prune"
"""Of the overlay's text: which request it answers."""


def request_of(options: PruneOptions, settings: Mapping[str, Any], fingerprint: str) -> str:
    """What makes two runs the same request: the weights of the model, what is asked, and how it is pruned.

    Parameters
    ----------
    options : PruneOptions
    settings : mapping of str to Any
        Of the method; of files what is in them counts.
    fingerprint : str
        Of the model's weights.
    """
    asked = (options.prompt, options.method, options.keep, options.positions, options.max_new_tokens, options.dtype)
    known = {name: _contents(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return hashlib.sha256(repr((fingerprint, asked, sorted(known.items()))).encode()).hexdigest()


def _contents(path: Path) -> str:
    """Raises ``InputError`` where the file cannot be read."""
    with open_regular(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def side_path(output: Path, word: str, suffix: str = ".png") -> Path:
    """``out/photo.kept.png`` and word ``compare`` -> ``out/photo.compare.png``; so for ``out/photo.png``."""
    return output.with_name(f"{output.name.removesuffix(output.suffix).removesuffix(f'.{WORD}')}.{word}{suffix}")


def write_outputs(task: Task, drawn: NDArray[np.uint8], request: str, compared: Comparison | None) -> dict[str, str]:
    """Write what belongs to one picture; the overlay comes last, so that its presence means "complete"."""
    assert task.output is not None
    files: dict[str, str] = {}
    if compared is not None and len(compared.pictures) > 1:
        path = side_path(task.output, "compare")
        compared.draw(path, title=printable(task.name))
        files["compare"] = str(path)
    write_png(task.output, drawn.shape[:2], [drawn], channels=3, text={KEYWORD: request})
    return {"overlay": str(task.output), **files}


def noted(item: Item, request: str) -> Item:
    """A skipped item says where its result was made with other options, or nobody knows with which."""
    if item.status != "skipped":
        return item
    assert item.output is not None
    try:
        made = read_text(Path(item.output), KEYWORD)
    except (InputError, OSError):
        made = None
    if made == request.encode():
        return item
    note = "the result that exists was made with another model or other options; --overwrite makes it again"
    return replace(item, warnings=(*item.warnings, note))
