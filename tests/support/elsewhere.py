"""A device for tests that needs no second device: tensors that call themselves ``cuda``, with their numbers in memory.

Choices that depend on data are made as they would be. What a GPU refuses is refused here: to meet tensors of the CPU
(but for single numbers, and index tensors between brackets), and to become an array.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
ARRAYS = {"numpy", "__array__", "data_ptr"}
INDEXING = {"__getitem__", "__setitem__"}


class Elsewhere(Tensor):
    """A tensor of the other device."""

    inner: Tensor

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(function, args, kwargs or {})


class OtherDevice(TorchFunctionMode):
    """Inside it, functions that are told ``device="cuda"`` make tensors of the other device. Counts per thread."""

    def __enter__(self) -> Any:
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # ``module.to`` would keep the old tensors
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        super().__exit__(*exception)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(function, args, kwargs or {})


def elsewhere(x: Tensor) -> Elsewhere:
    """The same numbers on the other device."""
    made: Elsewhere = Tensor._make_subclass(Elsewhere, x.detach())  # type: ignore[attr-defined]
    made.inner = x
    return made


def back(x: Tensor) -> Tensor:
    """The numbers of a tensor that must be on the other device."""
    assert isinstance(x, Elsewhere), "the result is on the CPU"
    return x.inner


def _call(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, own = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, Elsewhere)]
    first = bool(tensors) and isinstance(tensors[0], Elsewhere)
    if name in ("_parse_to", "_has_compatible_shallow_copy_type"):  # of ``module.to``
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)
    if there and own is Tensor.device:
        return CUDA
    if there and name in ARRAYS:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
    strangers = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim()]
    if there and strangers and not (name in ("to", "copy_") or (name in INDEXING and first)):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu.")
    on_cuda = _target(name, args, kwargs, bool(there))
    with torch._C.DisableTorchFunction():
        result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if "out" in kwargs:
        return kwargs["out"]
    if first and result is tensors[0].inner:  # type: ignore[attr-defined]
        return tensors[0] if on_cuda else result
    return tree_map(lambda x: elsewhere(x) if on_cuda and isinstance(x, Tensor) else x, result)


def _target(name: str, args: Any, kwargs: dict[str, Any], there: bool) -> bool:
    """Whether the result is on the other device."""
    if name == "cpu":
        return False
    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        return isinstance(args[1], Elsewhere)
    told = [kwargs["device"]] if kwargs.get("device") is not None else []
    told += [x for x in args[1:] if isinstance(x, torch.device) or (name == "to" and isinstance(x, str))]
    return torch.device(told[0]).type == "cuda" if told else there


def _inner(x: Any) -> Any:
    if isinstance(x, Elsewhere):
        return x.inner
    return CPU if isinstance(x, torch.device) or (isinstance(x, str) and x.startswith("cuda")) else x
