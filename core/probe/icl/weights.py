"""Matrices of heads from a file. Specification: methods/icl-regression.md, section 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import InputError
from ...io.arrays import read_archive
from .network import HeadMatrices
from .problem import Problem

FIX = "Give an NPZ with arrays KQ and OV, or K, Q, V and O, each [heads, width, width]"
MERGED, FACTORED = ("KQ", "OV"), ("K", "Q", "V", "O")


def read_heads(path: Path, problem: Problem) -> HeadMatrices:
    """Networks from an NPZ, float32 or float64 as they are there.

    Parameters
    ----------
    path : Path
        Each array is [H, d + K, d + K], or [S, H, d + K, d + K] of several networks; of OV and O the K rows that are
        read are enough.
    problem : Problem

    Raises
    ------
    InputError
        If the file cannot be read, lacks arrays, or they do not fit each other or the problem.
    """
    try:
        arrays = read_archive(path, {*MERGED, *FACTORED}, ())
    except InputError as error:
        raise InputError(path, error.what, FIX) from error
    names = next((names for names in (MERGED, FACTORED) if arrays.keys() >= set(names)), None)
    if names is None:
        raise InputError(path, f"has of these arrays {', '.join(sorted(arrays)) or 'none'}", FIX)
    if names == MERGED and arrays.keys() & set(FACTORED):
        raise InputError(path, "has both merged matrices and factors", "Give one of the two")
    parts = [matrices(path, name, arrays[name]) for name in names]
    width = parts[0].shape[-1]
    if width != problem.width:
        what = f"holds matrices of width {width}, not {problem.width} ({problem.dim} covariates, {problem.tasks} tasks)"
        raise InputError(path, what, "Say how many covariates and tasks it was trained on: dim and tasks")
    square = (*parts[0].shape[:2], width, width)
    for name, part in zip(names, parts, strict=True):
        rows = (problem.tasks, width) if name == names[-1] else (width, width)
        if tuple(part.shape) not in (square, (*square[:2], *rows)):
            raise InputError(path, f"array {name} is {list(part.shape)}, {names[0]} is {list(parts[0].shape)}", FIX)
    widest = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    parts = [part.to(widest) for part in parts]
    parts[-1] = parts[-1][:, :, -problem.tasks :]
    if names == MERGED:
        return HeadMatrices(parts[0], parts[1])
    key, query, value, out = parts
    return HeadMatrices(key.transpose(-1, -2) @ query, out @ value)


def matrices(path: Path, name: str, array: NDArray[Any]) -> torch.Tensor:
    """An array as [S, H, rows, width]."""
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(path, f"array {name} is {list(array.shape)}", FIX)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError(path, f"array {name} holds what are no finite floating-point numbers", FIX)
    wide = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
    return torch.from_numpy(wide if wide.ndim == 4 else wide[None])
