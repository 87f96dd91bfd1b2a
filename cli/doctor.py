"""`attn doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from typing import Any

import typer

import attn
from attn.core.registry import Need
from attn.core.text import reason_of

from .options import JsonOption
from .say import say

EXAMPLES = (("attn doctor", "Versions, devices, optional parts."),)

REQUIRED = (
    "torch", "triton", "numba", "numpy", "typer", "rich", "tqdm", "safetensors", "transformers", "tokenizers",
    "datasets", "dask", "distributed", "filelock", "jinja2", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg", "pyjpegls", "scikit-image", "PyWavelets", "tifffile", "imagecodecs", "pillow", "matplotlib",
)  # fmt: skip
"""The dependencies of pyproject.toml."""
PARTS = (
    ("NIfTI files", Need("nibabel", "nibabel", "nifti")),
    ("HEIC photos", Need("pillow_heif", "pillow-heif", "photos")),
    ("JPEG XL photos", Need("pillow_jxl", "pillow-jxl-plugin", "photos")),
    ("attn retrieve index in LanceDB", Need("lancedb", "lancedb", "store")),
    ("attn retrieve index in Qdrant", Need("qdrant_client", "qdrant-client", "qdrant")),
    ("attn retrieve serve", Need("starlette", "starlette", "serve")),
    ("attn retrieve serve", Need("uvicorn", "uvicorn", "serve")),
    ("accelerate launch", Need("accelerate", "accelerate", "scale")),
    ("attn train igpo --model", Need("peft", "peft", "lora")),
    ("models of timm", Need("timm", "timm", "vision")),
    ("what timm and open_clip stand on", Need("torchvision", "torchvision", "vision")),
)
"""What is optional and of no method; what methods need, their registries say."""
PAIR = (
    "torchvision must be of the build of torch: the one that pip takes unasked is for CUDA, and does not import beside "
    "a CPU build of torch. Install both from one index"
)


def versions() -> dict[str, str]:
    """Versions of this package, Python and what we stand on; "missing" where a package is not there."""
    installed = {"attn": attn.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in REQUIRED:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "missing"
    return installed


def devices() -> list[dict[str, Any]]:
    """Every device that --device can name, with its memory."""
    import torch

    from attn.core.cpu import cpu
    from attn.core.device import available_cores

    processor = cpu()
    hardware: list[dict[str, Any]] = [
        {
            "device": "cpu", "name": processor.name, "cores": available_cores(),
            "flags": " ".join(processor.flags),
        }
    ]  # fmt: skip
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        hardware.append(
            {"device": f"cuda:{index}", "name": card.name, "memory_gib": round(card.total_memory / 2**30, 1)}
        )
    if torch.backends.mps.is_available():
        hardware.append({"device": "mps", "name": "Apple GPU"})
    return hardware


def optional_parts() -> list[dict[str, str]]:
    """What may be missing: packages that methods need, further ones, and parts that Pillow may be built without."""
    from attn.core.catalogue import registries
    from attn.core.io.photo.decode import OPTIONAL as READERS

    users: dict[Need, list[str]] = {}
    for table in registries():
        for method in table.values():
            for need in method.needs:
                users.setdefault(need, []).append(f"attn {table.command}: {method.name}")
    parts = [*((", ".join(names), need) for need, names in users.items()), *PARTS]
    rows = [{"part": part, "package": need.package, **_state(need)} for part, need in parts]
    for kind, reader in READERS.items():
        if reader.feature:
            status = "found" if reader.found else "missing"
            rows.append({"part": f"{kind} photos", "package": "pillow", "status": status, "get": reader.get})
    return rows


def _state(need: Need) -> dict[str, str]:
    """Whether a package is there and, for those that lean on another's build, whether it can be imported."""
    if need.missing:
        return {"status": "missing", "get": f"{need.get} ({PAIR})" if need.extra == "vision" else need.get}
    if need.extra == "vision":
        try:
            importlib.import_module(need.module)
        except Exception as error:  # RuntimeError of an operator that is not registered, OSError of a library
            return {"status": "missing", "get": f"it is there and does not import ({reason_of(error)}): {PAIR}"}
    return {"status": "found", "get": need.get}


def main(as_json: JsonOption = False) -> None:
    """Show versions, devices, and optional parts found or missing, and how to get them.

    Exit code 1 when a required package is missing.
    """
    installed, parts, hardware = versions(), optional_parts(), devices()
    if as_json:
        import json

        say(
            json.dumps({"versions": installed, "devices": hardware, "optional": parts}, indent=2, ensure_ascii=False),
            lines=True,
        )
    else:
        from .show import print_rows

        print_rows([{"package": name, "version": version} for name, version in installed.items()], title="versions")
        print_rows(hardware, title="devices")
        print_rows(
            [{**part, "get": part["get"] if part["status"] != "found" else ""} for part in parts],
            title="optional parts",
        )
    missing = [
        name
        for name, version in installed.items()
        if version == "missing" and (name != "triton" or sys.platform == "linux")
    ]
    if missing:
        say(f"attn: missing: {', '.join(missing)}. Reinstall attn: pip install --force-reinstall attn", err=True)
        raise typer.Exit(1)
