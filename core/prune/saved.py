"""What ``--save DIR`` keeps of a run, so that ``--saved DIR`` and ``attn.prune(model, saved=DIR)`` do the same again.

``DIR/prune.json`` names method, budget, settings and model; the files that settings name (fitted trends, strategies,
learned weights) are copied beside it, so that the folder can be moved.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

import attn

from ..errors import InputError
from ..io.atomic import atomic_path, write_text
from ..io.records import json_file
from .debias.fitted import shape_of
from .engine.sites import is_vision_language, site_of
from .vit.site import image_site

FILE, KIND = "prune.json", "attn prune"


@dataclass(frozen=True, slots=True)
class SavedPruning:
    """How a model was pruned.

    Parameters
    ----------
    method : str
        With its modifiers, as a user types it.
    keep : float, int or None
        Share of the visual tokens, or their number; None: what the settings say.
    positions : {"keep", "compact"}
    settings : mapping of str to Any
        Of the method and its modifiers; files are ``Path``.
    model : str
        As the user named it.
    shape : str
        Of the model, for people.
    fingerprint : str
        Of its weights.
    version : str
        Of attn.
    """

    method: str
    keep: float | int | None
    positions: Literal["keep", "compact"]
    settings: Mapping[str, Any]
    model: str
    shape: str
    fingerprint: str
    version: str = attn.__version__

    def differences(self, shape: str, fingerprint: str) -> list[str]:
        """What is not as it was, each a line for the user; an empty ``fingerprint`` is not known."""
        if shape != self.shape:
            return [f"saved for {self.shape}, this model is {shape}"]
        if fingerprint and self.fingerprint and fingerprint != self.fingerprint:
            return [f"saved for other weights, those of {self.model}"]
        return []


def shape_in_words(network: nn.Module) -> str:
    """Class and size of a model that can be pruned. Raises ``UsageError`` for another one."""
    if is_vision_language(network):
        return shape_of(site_of(network))
    site = image_site(network)
    return f"{type(network).__name__} with {site.depth} blocks of width {site.blocks[0].width}"


def write_saved(folder: Path, saved: SavedPruning) -> Path:
    """Write a folder that ``read_saved`` reads; returns the file in it that is written last.

    Raises
    ------
    InputError
        If the place cannot be written, or a file that a setting names cannot be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = {}
        files: dict[str, str] = {}
        for name, value in saved.settings.items():
            if isinstance(value, Path):
                files[name] = f"{name}{value.suffix}"
                if not (folder / files[name]).exists() or not os.path.samefile(value, folder / files[name]):
                    with atomic_path(folder / files[name]) as temporary:
                        shutil.copyfile(value, temporary)
            else:
                kept[name] = value
    except OSError as error:
        what = f"the settings cannot be saved ({error.strerror or error})"
        raise InputError(folder, what, "Name another folder") from error
    document = {"kind": KIND, **asdict(saved), "settings": kept, "files": files}
    path = folder / FILE
    write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")
    return path


def read_saved(folder: str | Path) -> SavedPruning:
    """What ``write_saved`` wrote.

    Raises
    ------
    InputError
        If there is no such folder, or it is damaged.
    """
    path = Path(folder) / FILE
    document = json_file(path)
    try:
        if document.pop("kind") != KIND:
            raise ValueError("another kind of file")
        settings = {name: _frozen(value) for name, value in document.pop("settings").items()}
        for name, file in document.pop("files").items():
            if Path(file).name != file or not (Path(folder) / file).is_file():
                raise ValueError(f"no file {file!r} beside it")
            settings[name] = Path(folder) / file
        if document["positions"] not in ("keep", "compact"):
            raise ValueError(f"positions {document['positions']!r}")
        return SavedPruning(settings=settings, **document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is no saved pruning of attn ({type(error).__name__}: {error})"
        raise InputError(path, what, "Write it again with `attn prune --save`") from error


def _frozen(value: Any) -> Any:
    """JSON has no tuples; settings have no lists."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
