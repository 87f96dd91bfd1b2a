"""attn: published attention-guided methods for people's own images, volumes and models.

The public library is what ``__all__`` names; each part resolves on first use, so that ``import attn`` is cheap: it
imports neither NumPy nor torch. The rest is ``attn.core``.

>>> import attn
>>> image = attn.read("scan.dcm")  # doctest: +SKIP
>>> attn.write("clean.npy", attn.denoise(image).pixels)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn.core.attention import attention, operators
    from attn.core.attention.in_models import attention_log, attention_parameters, register_attention
    from attn.core.denoise.api import denoise
    from attn.core.io import read, write
    from attn.core.prune.api import prune
    from attn.core.retrieve.api import encode
    from attn.core.segment.api import segment

__version__ = "0.1.0"
__all__ = [
    "__version__", "attention", "attention_log", "attention_parameters", "denoise", "encode", "operators", "prune",
    "read", "register_attention", "segment", "write",
]  # fmt: skip

_HOMES = {
    "attention": "attn.core.attention",
    "attention_log": "attn.core.attention.in_models",
    "attention_parameters": "attn.core.attention.in_models",
    "denoise": "attn.core.denoise.api",
    "encode": "attn.core.retrieve.api",
    "operators": "attn.core.attention",
    "prune": "attn.core.prune.api",
    "read": "attn.core.io",
    "register_attention": "attn.core.attention.in_models",
    "segment": "attn.core.segment.api",
    "write": "attn.core.io",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
