"""open_clip beside a torch that its torchvision was not built for.

open_clip needs torchvision for its transforms alone, which are Python. But torchvision registers shapes of its compiled
operators when it is imported, and the package index has it compiled for CUDA only; so beside a CPU build of torch the
operators are declared here first. Both packages stay out of the environment that everything else sees
(``ATTN_TEST_OPEN_CLIP`` is their folder): transformers would take torchvision for usable.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import torch
from packaged import open_clip_folder

_LIBRARY: list[Any] = []


def open_clip() -> Any:
    """The package; tests that call this are marked ``packaged("open_clip")``."""
    folder = open_clip_folder()
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    if "torchvision" not in sys.modules and not torch.cuda.is_available():
        _declare_operators()
    import open_clip

    return open_clip


def _declare_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    _LIBRARY.append(torch.library.Library("torchvision", "DEF"))
    for name in sorted(set(re.findall(r'(?:register_meta\("|torchvision::)(\w+)', source))):
        _LIBRARY[0].define(f"{name}(Tensor x) -> Tensor")
