"""Trained models as files: float16 safetensors whose header says what they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError, UsageError
from ..memory import check_memory
from ..text import one_line, reason_of
from .atomic import write_bytes
from .kinds import open_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


def write_weights(
    path: str | PathLike[str], state: Mapping[str, Tensor], described: Mapping[str, Any], *, rounded: bool = True
) -> None:
    """Write a model file, atomically.

    Parameters
    ----------
    path : str or PathLike
    state : mapping of str to Tensor
    described : mapping
        What the file is, as JSON holds it: ``format`` and ``version``, and what it takes to build the model.
    rounded : bool
        Floating weights are rounded to float16; otherwise they stay as they are.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    kept = {
        name: (value.to(torch.float16) if rounded and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }
    write_bytes(path, save(kept, {"attn": json.dumps(dict(described), sort_keys=True)}))


def read_description(path: str | PathLike[str]) -> dict[str, Any]:
    """The header of a model file, without its weights; empty where attn did not write it. Raises ``UsageError``."""
    return _described(path, weights=False)[0]


def read_tensors(
    path: str | PathLike[str], *, weights: bool = True, finite: bool = True
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of any safetensors file; no tensors without ``weights``.

    With ``finite=False`` NaN and infinity are no fault of the file.

    Raises
    ------
    InputError
        If there is no such file, it is no regular one or no safetensors file, takes more than the budget of memory, or
        holds weights that are NaN or infinite.
    """
    from safetensors import safe_open

    with open_regular(path) as file:  # a pipe or a device is refused here; safetensors opens by name
        size = os.fstat(file.fileno()).st_size
    if weights:
        check_memory(path, 3 * size, "its weights take")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()} if weights else {}
        sick = [name for name, value in state.items() if finite and value.is_floating_point() and not _finite(value)]
    except Exception as error:  # damaged headers fail anywhere: in JSON, in offsets, in types that torch does not know
        reason = one_line(str(error).partition("\n")[0]) or type(error).__name__
        raise InputError(path, f"is no safetensors file, or a damaged one ({reason[:160]})", "Copy it again") from None
    if sick:
        listed = ", ".join(one_line(name) for name in sick[:3])
        raise InputError(path, f"holds NaN or infinite weights ({listed})", "Train or save it again")
    return metadata, state


def _finite(value: Tensor) -> bool:
    """Neither NaN nor infinity is in it. A sum, five times as fast, says so unless it overflows."""
    import torch

    return bool(value.sum(dtype=torch.float32).isfinite()) or bool(value.float().isfinite().all())


STATES = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "ema")
"""Entries under which training scripts keep weights, in the order in which they are looked for."""


def read_state(path: str | PathLike[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a file that a training script wrote, NaN and infinity among them, and notes on what was left out.

    Parameters
    ----------
    path : str or PathLike
        A safetensors file, or one of ``torch.save``: a dictionary of tensors, or one that holds such a dictionary.
        Nothing that is pickled beside tensors is run.

    Raises
    ------
    InputError
        If it is no such file, holds code, or takes more than the budget of memory.
    """
    import pickle
    import warnings

    import torch

    with open_regular(path) as file:
        head, size = file.read(9), os.fstat(file.fileno()).st_size
    if head[8:] == b"{":
        return read_tensors(path, finite=False)[1], ()
    if head[:2] != b"PK" and head[:1] != b"\x80":
        raise InputError(
            path, "is neither a safetensors file nor one of torch.save", "Name a file of a model's weights"
        )
    check_memory(path, 3 * size, "its weights take")
    fix = "Save the model's state_dict() instead"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that torch will drop
            stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error) or "not an allowed global" in str(error):
            raise InputError(path, "holds Python objects beside weights; reading those could run code", fix) from None
        raise InputError(path, "is no file of weights, or a damaged one", "Copy it again") from None
    except Exception as error:  # damaged files fail anywhere
        if "TorchScript" in str(error):
            raise InputError(path, "is a scripted model (TorchScript), which is code", fix) from None
        raise InputError(
            path, f"is no file of weights, or a damaged one ({reason_of(error)})", "Copy it again"
        ) from None
    return _tensors(path, stored)


def _tensors(path: str | PathLike[str], stored: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of what ``torch.load`` gave."""
    import torch

    notes: list[str] = []
    for _ in range(3):  # {"state_dict": {...}}, at most two deep
        if not isinstance(stored, dict):
            break
        state = {str(name): value for name, value in stored.items() if isinstance(value, torch.Tensor)}
        inside = next((name for name in STATES if isinstance(stored.get(name), dict)), None)
        if inside is None:
            if state and (count := len(stored) - len(state)):
                notes.append(f"{count} entries beside the weights are left out")
            if state:
                return state, tuple(notes)
            break
        others = [one_line(str(name))[:40] for name in stored if name != inside]
        told = f"; left out are {', '.join(others[:4])}{' and more' if len(others) > 4 else ''}" if others else ""
        notes.append(f"the weights are those under {inside!r}{told}")
        stored = stored[inside]
    what = type(stored).__name__ if not isinstance(stored, dict) else "a dictionary without tensors"
    raise InputError(path, f"holds no weights by name ({what})", "Save the model's state_dict()")


def _described(path: str | PathLike[str], *, weights: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a model file says of itself, and its tensors; nothing where it says it in no form that attn writes."""
    try:
        metadata, state = read_tensors(path, weights=weights)
    except InputError as error:
        raise UsageError(f"{error.path} {error.reason}.") from None
    try:
        described = json.loads(metadata.get("attn", "{}"), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error))[:160]
        raise UsageError(f"{path} is no safetensors file of attn: its description cannot be read ({reason}).") from None
    known = isinstance(described, dict) and isinstance(described.get("format"), str)
    return described if known else {}, state


def _refused(word: str) -> Any:
    raise ValueError(f"it holds {word}")


def read_weights(
    path: str | PathLike[str], form: str, version: int, build: Callable[[dict[str, Any], dict[str, Tensor]], T],
    *, what: str,
) -> T:  # fmt: skip
    """Read a model file of ``write_weights``.

    Parameters
    ----------
    path : str or PathLike
    form : str
        ``format`` that the header must name.
    version : int
        The newest that this attn reads.
    build : callable
        Makes the model of description and weights; whatever it raises means that the file is damaged.
    what : str
        For messages: ``"GA-DMS model of attn. `attn train ga-dms` makes one"``.

    Raises
    ------
    UsageError
        If there is no such file, it is another kind's or a newer version's, or it is damaged.
    """
    described, state = _described(path, weights=True)
    if described.get("format") != form:
        raise UsageError(f"{path} is no {what}.")
    try:
        if described["version"] > version:
            newer = one_line(str(described["version"]))[:40]
            raise UsageError(f"{path} was written by a newer attn (format {newer}). Upgrade.")
        return build(described, state)
    except UsageError:
        raise
    except Exception as error:  # a damaged description fails anywhere: in JSON, in the dataclasses, in torch
        raise UsageError(f"{path} does not hold the model it describes ({reason_of(error)}).") from None


def check_architecture(
    sizes: Mapping[str, Any], build: Callable[[], nn.Module], state: Mapping[str, Tensor], *, whole: bool = True
) -> None:
    """Hold a described architecture to the weights beside it, before anything is allocated.

    Parameters
    ----------
    sizes : mapping
        The description, as JSON holds it. A forged one may ask for terabytes, or for hours: no number may exceed the
        weights that there are, and no number of layers the tensors.
    build : callable
        Makes the module; called on the meta device, where tensors have shapes and no memory.
    state : mapping of str to Tensor
    whole : bool
        Every weight of the module must be there; otherwise only none may be of another shape.

    Raises
    ------
    ValueError
        If a size is no such number, or the weights are of another architecture.
    """
    import torch

    held = sum(value.numel() for value in state.values())
    for name, value in sizes.items():
        most = len(state) if "layers" in name or name.endswith("_num") or name == "depths" else held
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, int) and not isinstance(number, bool) and not 0 <= number <= most:
                raise ValueError(f"it has fewer weights than its architecture asks for ({name!s:.40})")
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in build().state_dict().items()}
    have = {name: value.shape for name, value in state.items()}
    names = wanted.keys() | have.keys() if whole else have.keys()
    if other := [name for name in names if wanted.get(name) != have.get(name)]:
        raise ValueError(f"{len(other)} of its weights are of another architecture, such as {min(other)!s:.60}")
