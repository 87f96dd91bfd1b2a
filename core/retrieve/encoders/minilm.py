"""minilm: all-MiniLM-L6-v2 from its package, the default encoder of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...models.embedded import EMBEDDED
from .base import Encoder
from .kind import EncoderKind
from .sentence import load_sentence


def load_minilm(name: str, path: Path, **request: Any) -> Encoder:
    """See ``load_sentence``; ``path`` does not count, the package says where it is."""
    return load_sentence(name, EMBEDDED["minilm"].path(), **request)


KIND = EncoderKind(recognises=lambda source: source.name == "minilm", load=load_minilm, pools=True)
