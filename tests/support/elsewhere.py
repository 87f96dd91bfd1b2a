"""A device for tests that needs no second device: tensors that call themselves ``cuda``, with their numbers in memory.

Choices that depend on data are made as they would be. What a GPU refuses is refused here: to meet tensors of the CPU
(but for numbers, and index tensors between brackets), and to be an array.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

OTHER, CPU = torch.device("cuda:0"), torch.device("cpu")
_ARRAYS = {"numpy", "__array__", "data_ptr"}
_INDEXED = {"__getitem__", "__setitem__"}
_MOVES = {"to", "cpu", "cuda", "copy_", "type_as"}


class Elsewhere(Tensor):
    """A tensor of the other device."""

    inner: Tensor

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(function, args, kwargs or {})


class OtherDevice(TorchFunctionMode):
    """Inside it, functions that are told ``device="cuda"`` make tensors of the other device."""

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
    name = getattr(function, "__name__", "")
    leaves = tree_leaves((args, kwargs))
    there = [x for x in leaves if isinstance(x, Elsewhere)]
    if name == "__get__" and there and getattr(function, "__self__", None) in (Tensor.device, Tensor.is_cuda):
        return OTHER if function.__self__ is Tensor.device else True
    if there and name in _ARRAYS:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
    strangers = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.dim()]
    free = name in _MOVES or (name in _INDEXED and isinstance(args[0], Elsewhere))
    if there and strangers and not free:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu.")
    devices = [x for x in leaves if isinstance(x, torch.device)] + [d for d in [kwargs.get("device")] if d is not None]
    if name == "to":
        devices += [torch.device(x) for x in args[1:2] if isinstance(x, str)]
        devices += [OTHER if isinstance(x, Elsewhere) else CPU for x in args[1:2] if isinstance(x, Tensor)]
    if name == "cpu":
        devices = [CPU]
    target = torch.device(devices[-1]) if devices else OTHER if there else CPU
    if name in _INDEXED | _MOVES - {"to", "cpu"} and args and isinstance(args[0], Tensor):
        target = OTHER if isinstance(args[0], Elsewhere) else CPU
        if target == CPU and there and name != "copy_":
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    out = kwargs.get("out")
    with torch._C.DisableTorchFunction():
        result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if out is not None:
        return out
    if args and isinstance(args[0], Elsewhere) and result is args[0].inner:
        return args[0] if target.type == OTHER.type else result
    return tree_map(lambda x: elsewhere(x) if target.type == OTHER.type and isinstance(x, Tensor) else x, result)


def _inner(x: Any) -> Any:
    if isinstance(x, Elsewhere):
        return x.inner
    return CPU if isinstance(x, torch.device) or x == "cuda" else x
