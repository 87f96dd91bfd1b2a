"""Frozen features, read once: tokens of every picture and layer, in files that are mapped and never held whole.

A cache is a folder named by what decides its content (weights, preparation, layers, pictures). ``features.json`` says
how many pictures are done, so that a killed run goes on where it was. Specification: methods/efficient-probing.md,
sections 3.4 (which tokens) and 7 (mapped tokens).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError
from ...io.atomic import write_text
from ...models.family import attention_modules
from ...models.geometry import geometry_of, token_layout
from ...models.hooks import capture
from ...models.images import PreparedImage
from ...models.loaded import Loaded
from ...options import OptionError
from ...sizes import show_bytes
from .data import ClassSet, identity_of

VERSION = 1
FACTS = "features.json"
BATCH = 16
"""Pictures at a time."""
NORMS = ("layernorm", "norm", "post_layernorm", "ln_post", "layer_norm")
"""What the norm behind the last block is called, in transformers, timm and open_clip."""


@dataclass(frozen=True, slots=True)
class Features:
    """Tokens of n pictures.

    Parameters
    ----------
    tokens : mapping of int to ndarray, shape (n, N, C), float16 or float32
        Patches by layer, counted from 0; mapped from files.
    cls : mapping of int to ndarray, shape (n, C)
        The class token by layer; empty where the model has none.
    grid : (h, w) or None
        Rows and columns of the patches, where that is known.
    failed : mapping of int to str
        Pictures that could not be read, and why; their rows hold zeros.
    reused : int
        Pictures that had been read before.
    encoder_ms : float
        Wall time of the encoder for one picture of a batch; NaN where nothing was read now.
    folder : Path
    """

    tokens: Mapping[int, NDArray[Any]]
    cls: Mapping[int, NDArray[Any]]
    grid: tuple[int, int] | None
    failed: Mapping[int, str] = field(default_factory=dict)
    reused: int = 0
    encoder_ms: float = float("nan")
    folder: Path = Path()

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.tokens)

    @property
    def whole(self) -> NDArray[np.int64]:
        """Rows of the pictures that could be read."""
        count = len(next(iter(self.tokens.values())))
        return np.array([row for row in range(count) if row not in self.failed], np.int64)


@dataclass(frozen=True, slots=True)
class Extraction:
    """Which features of which model.

    Parameters
    ----------
    loaded : Loaded
        For ``"vision"``.
    layers : sequence of int
        Blocks, counted from 0.
    final_norm : bool
        Behind the norm that follows the last block.
    dtype : {"float16", "float32"}
        Of the files.
    weights : str
        ``"own"``, or what was done to them: part of the cache's name.
    """

    loaded: Loaded
    layers: Sequence[int]
    final_norm: bool = False
    dtype: str = "float16"
    weights: str = "own"


def block_count(model: Any) -> int:
    """Raises ``UsageError`` for a model whose attention, or places of tokens, are not known."""
    token_layout(model)
    return len(attention_modules(model))


def last_norm(model: Any) -> Any:
    """The norm behind the last block. Raises ``OptionError`` where it is not known."""
    found = next((norm for name in NORMS if (norm := getattr(model, name, None)) is not None), None)
    if found is None:
        raise OptionError(f"{{final_norm}}: where the last norm of {type(model).__name__} is, is not known. Leave it.")
    return found


def read_features(
    of: Extraction, pictures: ClassSet, cache: Path, step: Callable[[int, int], None] = lambda done, total: None
) -> Features:
    """The features of all pictures, from the cache as far as they are there.

    Parameters
    ----------
    of : Extraction
    pictures : ClassSet
    cache : Path
        Folder of all caches of the run.
    step : callable (done, total)

    Raises
    ------
    InputError
        If no picture can be read, or the disk has no room.
    UsageError
        If the model's tokens have no known places, or its values do not fit the type of the files.
    """
    images, model = of.loaded.processor.images, of.loaded.model
    assert images is not None
    about = {
        "version": VERSION, "model": of.loaded.fingerprint, "weights": of.weights, "preparation": repr(images),
        "layers": list(of.layers), "final_norm": of.final_norm, "dtype": of.dtype, "pictures": pictures.identity,
        "count": len(pictures),
    }  # fmt: skip
    folder = cache / identity_of(sorted(about.items()))
    state = _state(folder, about)
    norm = last_norm(model) if of.final_norm else None
    done = int(state["done"])
    failed = {int(row): str(why) for row, why in state["failed"].items()}
    start, timed, arrays = time.perf_counter(), 0, _opened(folder, of.layers, state) if done else None
    for first in range(done, len(pictures), BATCH):
        prepared: dict[int, PreparedImage] = {}
        for row in range(first, min(first + BATCH, len(pictures))):
            try:
                prepared[row] = images.prepared(pictures.picture(row).pixels)
            except InputError as error:
                failed[row] = error.reason
        if prepared:
            found, cls, grid = tokens_of(model, list(prepared.values()), of.layers, norm)
            if arrays is None:
                shape = [len(pictures), *next(iter(found.values())).shape[1:]]
                state |= {"shape": shape, "grid": list(grid), "cls": bool(cls)}
                arrays = _made(folder, of, state)
            _store(arrays, "tokens", np.array(list(prepared)), found, of)
            _store(arrays, "cls", np.array(list(prepared)), cls, of)
            timed += len(prepared)
        state |= {"done": min(first + BATCH, len(pictures)), "failed": failed}
        if arrays is not None:
            for array in arrays.values():
                array.flush()
            write_text(folder / FACTS, json.dumps(about | state))
        step(int(state["done"]), len(pictures))
    if arrays is None:
        raise InputError(pictures.source, f"none of its pictures can be read: {next(iter(failed.values()))}")
    h, w = state["grid"]
    return Features(
        {layer: arrays[f"tokens-{layer}"] for layer in of.layers},
        {layer: arrays[f"cls-{layer}"] for layer in of.layers if state["cls"]},
        (h, w),
        failed,
        done,
        1e3 * (time.perf_counter() - start) / timed if timed else float("nan"),
        folder,
    )


def tokens_of(
    model: Any, prepared: Sequence[PreparedImage], layers: Sequence[int], norm: Any
) -> tuple[dict[int, Tensor], dict[int, Tensor], tuple[int, int]]:
    """Patches [b, N, C] and class tokens [b, C] by layer, and the grid."""
    weight = next(model.parameters())
    geometry = geometry_of(model, prepared[0])
    pixels = torch.stack([one.pixels for one in prepared]).to(weight.device, weight.dtype)
    with torch.inference_mode(), capture(model, list(layers), what=("hidden",)) as seen:
        model(pixels)
        hidden = {one.layer: one.hidden for one in seen}
        assert all(value is not None for value in hidden.values())
        known = {layer: (value if norm is None else norm(value)).cpu() for layer, value in hidden.items()}  # type: ignore[union-attr]
    patches = geometry.patches()
    cls = {layer: known[layer][:, 0] for layer in layers} if geometry.prefix > geometry.registers else {}
    return {layer: known[layer][:, patches] for layer in layers}, cls, geometry.tiles[0].grid


def _state(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """How far the cache is; a damaged one begins anew."""
    fresh: dict[str, Any] = {"done": 0, "failed": {}}
    try:
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if {name: found[name] for name in about} != dict(about):
            return fresh
        return {name: found[name] for name in ("done", "failed", "shape", "grid", "cls")}
    except (OSError, ValueError, KeyError, TypeError):
        return fresh


def _names(layers: Sequence[int], state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Arrays of a cache, and their shapes."""
    count, tokens, width = state["shape"]
    shapes: dict[str, tuple[int, ...]] = {f"tokens-{layer}": (count, tokens, width) for layer in layers}
    return shapes | ({f"cls-{layer}": (count, width) for layer in layers} if state["cls"] else {})


def _made(folder: Path, of: Extraction, state: Mapping[str, Any]) -> dict[str, Any]:
    """Files of zeros."""
    shapes = _names(of.layers, state)
    need = sum(int(np.prod(shape)) for shape in shapes.values()) * np.dtype(of.dtype).itemsize
    place = folder
    while not place.exists():
        place = place.parent
    if (free := shutil.disk_usage(place).free) < need:
        raise InputError(
            folder, f"features take {show_bytes(need)}, the disk has {show_bytes(free)}", "Name another place with -o"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(of.dtype), shape)  # type: ignore[no-untyped-call]
            for name, shape in shapes.items()
        }
    except OSError as error:
        raise InputError(folder, f"cannot be written ({error.strerror or error})", "Name another place") from error


def _opened(folder: Path, layers: Sequence[int], state: Mapping[str, Any]) -> dict[str, Any]:
    """The files of a cache. Raises ``InputError`` if one is missing or of another shape."""
    arrays = {}
    for name, shape in _names(layers, state).items():
        try:
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r+", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(
                folder / f"{name}.npy", f"cannot be read ({error})", "Remove its folder: it is made again"
            ) from error
        if arrays[name].shape != shape:
            raise InputError(folder / f"{name}.npy", "is of another shape", "Remove its folder: it is made again")
    return arrays


def _store(
    arrays: Mapping[str, Any], word: str, rows: NDArray[np.int64], values: Mapping[int, Tensor], of: Extraction
) -> None:
    for layer, value in values.items():
        most = float(value.abs().max())
        if not np.isfinite(most):
            raise OptionError(f"{{model}}: block {layer} gives NaN or infinite values: this model cannot be probed.")
        if of.dtype == "float16" and most > np.finfo(np.float16).max:
            raise OptionError(
                f"{{feature_dtype}}: block {layer} gives values up to {most:.3g}, beyond float16. Use float32."
            )
        arrays[f"{word}-{layer}"][rows] = value.float().numpy()
