"""What `attn bench` measures on: synthetic q, k, v by name, or captured ones from a file.

Specification: methods/attention-bench.md, section 3. Every head is built in float64 by its own NumPy generators and
cast last, so every device, dtype and number of heads sees the same numbers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, UsageError, did_you_mean
from ..io.arrays import read_archive
from .generators import GENERATORS as _FUNCTIONS
from .generators import video_grid

ALIASES = {"structured": "lowrank"}
OPTIONAL = ("scale", "head", "kv_head", "ref_rows", "ref_out", "ref_lse")
"""Arrays that a file of q, k and v may hold besides."""
GENERATORS: tuple[str, ...] = (*_FUNCTIONS, *ALIASES)
"""What ``generate`` knows, aliases last."""


@dataclass(frozen=True)
class AttentionInputs:
    """One set of q [B, Hq, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, D] and where it comes from.

    Parameters
    ----------
    name : str
        The generator, or the file; a file repeated to a greater length says so ("layer07.npz tiled x16").
    seed : int or None
        None: captured.
    params : dict
        The numbers the generator was made with, or the heads and the length taken from the file.
    sha256 : str
        Of the bytes of q, k and v, in this order, as they are here.
    video : (int, int, int) or None
        Frames, rows and columns where the tokens are a video; they are stored along the Gilbert curve
        (``core.attention._gilbert.gilbert_order``).
    scale : float or None
        The scale that belongs to a captured head; None: ``D ** -0.5``.
    arrays : dict of Tensor
        ``needles``, int64 [B, Hkv, m]: key positions that queries look for (query t looks for needle t mod m).
        Of captured inputs: ``ref_rows`` int64 [R], ``ref_out`` [B, Hq, R, Dv] and ``ref_lse`` [B, Hq, R], exact
        causal attention of those rows, where the file has them.
    notes : dict
        What else the file says, such as ``head`` and ``kv_head``.
    """

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    seed: int | None
    params: Mapping[str, Any]
    sha256: str
    video: tuple[int, int, int] | None = None
    scale: float | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def generate(
    name: str,
    *,
    batch: int = 1,
    num_heads: int,
    num_kv_heads: int | None = None,
    len_q: int,
    len_k: int | None = None,
    head_dim: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> AttentionInputs:
    """Make one of the synthetic inputs.

    Parameters
    ----------
    name : str
        One of ``GENERATORS``.
    batch, num_heads, num_kv_heads : int
        ``num_kv_heads`` divides ``num_heads``; None: as many. The queries of a group share their keys' construction.
    len_q, len_k : int
        The queries are the last ``len_q`` of a sequence of ``len_k``; None: as many.
    head_dim : int
        Of q, k and v.
    seed : int
        Not negative.
    dtype : torch.dtype
        Drawn in float64, cast to this at the end.

    Returns
    -------
    Inputs, on the CPU.

    Raises
    ------
    UsageError
        If there is no such input.
    ValueError
        If sizes do not fit together.

    References
    ----------
    methods/attention-bench.md, section 3. Values are N(0, 1) for every input: neighbouring values that are alike would
    hide what a sparse method leaves out.

    Examples
    --------
    >>> made = generate("needle", num_heads=2, len_q=64, head_dim=32)
    >>> made.q.shape, made.arrays["needles"].shape
    (torch.Size([1, 2, 64, 32]), torch.Size([1, 2, 4]))
    """
    kind = ALIASES.get(name, name)
    if kind not in _FUNCTIONS:
        raise UsageError(f"no input named {name!r}. {did_you_mean(name, GENERATORS) or ', '.join(GENERATORS)}")
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    length = len_q if len_k is None else len_k
    sizes = f"{num_heads} heads, {kv_heads} key/value heads, {len_q} queries, {length} keys, head_dim {head_dim}"
    if min(num_heads, kv_heads, len_q, length, head_dim) < 1 or batch < 0 or seed < 0:
        raise ValueError(f"sizes must be positive and seed {seed} and batch {batch} not negative: {sizes}.")
    if num_heads % kv_heads or len_q > length:
        raise ValueError(f"heads must be a multiple of key/value heads, and queries at most keys: {sizes}.")

    make, params = _FUNCTIONS[kind]
    group = num_heads // kv_heads
    q = torch.empty(batch, num_heads, len_q, head_dim, dtype=dtype)
    k = torch.empty(batch, kv_heads, length, head_dim, dtype=dtype)
    v = torch.empty_like(k)
    needles = []
    for b in range(batch):
        for head in range(kv_heads):
            draw = np.random.default_rng([seed, b, head, 0])
            members = [np.random.default_rng([seed, b, head, 1, i]) for i in range(group)]
            queries, keys, places = make(draw, members, length, head_dim)
            k[b, head] = torch.from_numpy(keys)
            for i, query in enumerate(queries):
                q[b, head * group + i] = torch.from_numpy(query[length - len_q :])
            v[b, head] = torch.from_numpy(np.random.default_rng([seed, b, head, 2]).standard_normal(keys.shape))
            needles.append(torch.from_numpy(places))
    arrays = {"needles": torch.stack(needles).view(batch, kv_heads, -1)} if "needles" in params and needles else {}
    grid = video_grid(length) if kind == "video" else None
    return AttentionInputs(kind, q, k, v, seed, dict(params), _sha256(q, k, v), video=grid, arrays=arrays)


def load_captured(
    path: str | os.PathLike[str],
    *,
    heads: Sequence[int] | None = None,
    seq: int | None = None,
    tile: bool = False,
    dtype: torch.dtype = torch.float32,
) -> AttentionInputs:
    """Read q, k, v that were captured from a model.

    Parameters
    ----------
    path : path of an NPZ file
        ``q``, ``k``, ``v`` [H, L, D] or [B, H, L, D], float16, float32 or float64; k and v may have fewer heads.
        Optional: ``scale``, ``head``, ``kv_head``, ``ref_rows``, ``ref_out``, ``ref_lse``.
    heads : sequence of int, optional
        Which query heads of the file, counted from 0; k and v are then picked for each of them.
    seq : int, optional
        The first ``seq`` positions; None: all.
    tile : bool
        Repeat the sequence where ``seq`` is longer than the file. The name says so: it is not real data any more.
    dtype : torch.dtype
        Of the result.

    Returns
    -------
    AttentionInputs

    Raises
    ------
    InputError
        If the file is not an NPZ archive with fitting, finite q, k and v, or is too short.
    """
    path = Path(path)
    stored = _read(path)
    q, k, v = _checked(path, stored)
    total, length = q.shape[1], q.shape[2]
    chosen = list(range(total)) if heads is None else [int(head) for head in heads]
    seq = length if seq is None else seq
    _check_choice(path, q, chosen, seq, tile)

    if heads is not None:
        shared = np.array(chosen) // (total // k.shape[1])
        q, k, v = q[:, chosen], k[:, shared], v[:, shared]
    q, k, v = (_resized(array, seq) for array in (q, k, v))
    copies = -(-seq // length)
    tq, tk, tv = (torch.from_numpy(np.ascontiguousarray(array)).to(dtype) for array in (q, k, v))
    for name, before, tensor in (("q", q, tq), ("k", k, tk), ("v", v, tv)):
        if not bool(tensor.isfinite().all()):
            largest = float(np.abs(before).max())
            kind = str(dtype).removeprefix("torch.")
            raise InputError(path, f"{name} holds {largest:.1e}, which is infinite as {kind}", "Ask for another dtype")
    return AttentionInputs(
        path.name if copies == 1 else f"{path.name} tiled x{copies}",
        tq,
        tk,
        tv,
        seed=None,
        params={"heads": chosen, "seq": seq},
        sha256=_sha256(tq, tk, tv),
        scale=_scale(path, stored),
        arrays=_references(path, stored, chosen, seq, total) if copies == 1 else {},
        notes={key: np.ravel(stored[key])[chosen].tolist() for key in ("head", "kv_head") if _fits(stored, key, total)},
    )


def check_captured(
    path: str | os.PathLike[str], *, heads: Sequence[int] | None, lengths: Sequence[int], tile: bool
) -> tuple[int, int, int, int]:
    """What ``load_captured`` refuses at any of ``lengths``, before the work; batch, heads, kv heads and head_dim."""
    path = Path(path)
    stored = _read(path)
    q, k, v = _checked(path, stored)
    chosen = list(range(q.shape[1])) if heads is None else list(heads)
    for seq in lengths:
        _check_choice(path, q, chosen, seq, tile)
    _scale(path, stored)
    _references(path, stored, chosen, max(lengths), q.shape[1])
    return q.shape[0], len(chosen), len(chosen) if heads is not None else k.shape[1], max(q.shape[3], v.shape[3])


def _check_choice(path: Path, q: np.ndarray[Any, Any], chosen: Sequence[int], seq: int, tile: bool) -> None:
    total, length = q.shape[1], q.shape[2]
    if not chosen or not all(0 <= head < total for head in chosen):
        raise InputError(path, f"has heads 0 to {total - 1}, asked for {list(chosen)}", "Choose among those")
    if seq < 1 or (seq > length and not tile):
        raise InputError(path, f"holds {length} positions, asked for {seq}", f"Ask for 1 to {length}, or for tiling")


def _checked(path: Path, stored: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """q, k and v [B, H, L, D] that fit together and are finite."""
    q, k, v = (_four(path, name, stored) for name in "qkv")
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:] or q.shape[1] % k.shape[1]:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in (("q", q), ("k", k), ("v", v)))
        raise InputError(path, f"q, k and v do not fit together: {shapes}", "Store [heads, length, head_dim] each.")
    for name, array in (("q", q), ("k", k), ("v", v)):
        if not np.isfinite(array).all():
            raise InputError(path, f"{name} holds NaN or infinity", "Capture it in float32.")
    return [q, k, v]


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What we use of an NPZ file."""
    return read_archive(path, (*"qkv", *OPTIONAL), "qkv")


def _four(path: Path, name: str, stored: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    array = stored[name]
    if array.dtype.kind != "f":
        raise InputError(path, f"{name} holds {array.dtype}, not floating point numbers", "Store float16 or float32.")
    if array.ndim not in (3, 4) or not array.size:
        raise InputError(path, f"{name} has shape {list(array.shape)}", "Store [heads, length, head_dim].")
    return array if array.ndim == 4 else array[None]


def _resized(array: np.ndarray[Any, Any], seq: int) -> np.ndarray[Any, Any]:
    """The first ``seq`` positions, from the beginning again where there are fewer."""
    return array[:, :, :seq] if seq <= array.shape[2] else array[:, :, np.arange(seq) % array.shape[2]]


def _scale(path: Path, stored: Mapping[str, np.ndarray[Any, Any]]) -> float | None:
    if "scale" not in stored:
        return None
    scale = np.ravel(stored["scale"])
    if scale.size != 1 or scale.dtype.kind not in "fi" or not np.isfinite(scale).all():
        raise InputError(path, "scale is not one finite number", "Store the factor on q.k, or leave it out.")
    return float(scale[0])


def _fits(stored: Mapping[str, np.ndarray[Any, Any]], key: str, total: int) -> bool:
    return key in stored and stored[key].size == total


def _references(
    path: Path, stored: Mapping[str, np.ndarray[Any, Any]], chosen: list[int], seq: int, total: int
) -> dict[str, Tensor]:
    """Exact results of some rows; those within ``seq`` stay exact because they are causal."""
    if "ref_rows" not in stored or "ref_out" not in stored:
        return {}
    rows = np.ravel(stored["ref_rows"]).astype(np.int64)
    keep = rows < seq
    arrays = {"ref_rows": rows[keep]}
    for key, ndim in (("ref_out", 3), ("ref_lse", 2)):
        if key in stored:
            array = stored[key] if stored[key].ndim > ndim else stored[key][None]  # [B, H, R, ...]
            if array.ndim != ndim + 1 or array.shape[1:3] != (total, len(rows)):
                raise InputError(path, f"{key} has shape {list(stored[key].shape)}", "Store [heads, rows, ...].")
            arrays[key] = array[:, chosen][:, :, keep]
    return {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}


def _sha256(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
