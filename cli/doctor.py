"""`attn doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from typing import Any

import typer

import attn

from .options import JsonOption
from .say import say

EXAMPLES = (("attn doctor", "Versions, devices, optional parts."),)

REQUIRED = ("torch", "triton", "numba", "numpy", "pydicom", "scikit-image", "typer", "rich", "distributed", "datasets")
# (what it gives, module to look for, how to get it)
OPTIONAL = (
    ("BM3D (non-commercial licence)", "bm3d", "pip install 'attn[bm3d]'"),
    ("NIfTI files", "nibabel", "pip install 'attn[nifti]'"),
    ("JPEG 2000 in DICOM", "openjpeg", "pip install pylibjpeg pylibjpeg-openjpeg"),
    ("JPEG in DICOM", "libjpeg", "pip install pylibjpeg pylibjpeg-libjpeg"),
    ("JPEG-LS in DICOM", "jpeg_ls", "pip install pyjpegls"),
    ("HEIC photos", "pillow_heif", "pip install 'attn[photos]'"),
    ("JPEG XL photos", "pillow_jxl", "pip install 'attn[photos]'"),
    ("language and vision models", "transformers", "pip install transformers"),
)


def versions() -> dict[str, str]:
    """Versions of this package, Python and what we stand on; "missing" where a package is not there."""
    found = {"attn": attn.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in REQUIRED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def devices() -> list[dict[str, Any]]:
    """Every device that --device can name, with its memory."""
    import torch

    from attn.core.device import available_cores

    found: list[dict[str, Any]] = [
        {"device": "cpu", "name": platform.processor() or platform.machine(), "cores": available_cores()}
    ]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append({"device": f"cuda:{index}", "name": card.name, "memory_gib": round(card.total_memory / 2**30, 1)})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found


def optional_parts() -> list[dict[str, str]]:
    """Modules that may be missing, and parts that Pillow may have been built without."""
    from attn.core.io.photo.decode import OPTIONAL as READERS

    found = [(part, importlib.util.find_spec(module) is not None, command) for part, module, command in OPTIONAL]
    found += [(f"{kind} photos", reader.found, reader.get) for kind, reader in READERS.items() if reader.feature]
    return [{"part": part, "status": "found" if here else "missing", "get": command} for part, here, command in found]


def main(as_json: JsonOption = False) -> None:
    """Show versions, devices, and optional parts found or missing, and how to get them.

    Exit code 1 when a required package is missing.
    """
    found, parts, hardware = versions(), optional_parts(), devices()
    if as_json:
        import json

        say(
            json.dumps({"versions": found, "devices": hardware, "optional": parts}, indent=2, ensure_ascii=False),
            lines=True,
        )
    else:
        from .show import print_rows

        print_rows([{"package": name, "version": version} for name, version in found.items()], title="versions")
        print_rows(hardware, title="devices")
        print_rows(
            [{**part, "get": part["get"] if part["status"] == "missing" else ""} for part in parts],
            title="optional parts",
        )
    missing = [
        name
        for name, version in found.items()
        if version == "missing" and (name != "triton" or sys.platform == "linux")
    ]
    if missing:
        say(f"attn: missing: {', '.join(missing)}. Reinstall attn: pip install --force-reinstall attn", err=True)
        raise typer.Exit(1)
