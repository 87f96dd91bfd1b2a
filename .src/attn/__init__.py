"""attn: published attention-guided methods for people's own images, volumes and models.

``import attn`` is cheap: torch is imported by the parts that need it. ``attn.denoise(...)`` and the other public names
resolve on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "denoise": "attn.core.denoise.api:denoise",
    "read": "attn.core.io:read",
    "write": "attn.core.io:write",
}
__all__ = ["__version__", "denoise", "read", "write"]

if TYPE_CHECKING:
    from attn.core.denoise.api import denoise
    from attn.core.io import read, write


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'attn' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
