"""Files of a model: where packages keep them, and the hash by which an index knows the model again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.atomic import write_text
from ..io.kinds import open_regular
from ..memory import read_within
from ..options import OptionError

_HASHES: dict[tuple[str, int, int], str] = {}
"""(path, size, mtime in ns) -> sha256: large files are read once per process."""


def package_dir(name: str) -> Path | None:
    """Directory of an installed package, which is not imported (its imports may fail); None where it is absent."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def sha256(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _HASHES:
        with open_regular(path) as file:
            _HASHES[key] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return _HASHES[key]


def fingerprint(paths: Sequence[Path]) -> str:
    """Hash of the weights of a model: that of its file, or the hash of the hashes of its files in the order given."""
    hashes = [sha256(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights of ``folder`` from, sorted.

    Raises
    ------
    UsageError
        If there are none.
    """
    for pattern in ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin"):
        if paths := sorted(folder.glob(pattern)):
            return paths
    raise OptionError(f"{{model}}: {folder} holds no weights (model.safetensors or pytorch_model.bin).")


def check_regular(folder: Path) -> None:
    """Refuse a folder of a model with a pipe or a device in it: packages that read it would wait for ever.

    Raises ``UsageError``.
    """
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        if path.exists() and not path.is_dir() and not path.is_file():
            raise OptionError(f"{{model}}: {path} is not a regular file. Save it to disk first.")


def read_json(path: Path) -> Any:
    """A JSON file. Raises ``UsageError`` where it is missing or damaged."""
    try:
        with open_regular(path) as file:
            return json.loads(read_within(file, path, what="holds"))
    except InputError as error:
        what = "is missing" if not os.path.lexists(path) else error.what
        raise OptionError(f"{{model}}: {path} {what}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{{model}}: {path} cannot be read ({error}).") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file as the folders of models hold it, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
