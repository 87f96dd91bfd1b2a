"""What every operator refuses, before any formulation is chosen: the one place where a call is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..choose import no_such
from ..errors import did_you_mean
from .contract import Operator
from .equations import wants_gradient

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_KINDS = {
    int: "a whole number", float: "a number", float | None: "a number", bool: "True or False",
    str | None: "a name", Tensor | None: "a tensor",
}  # fmt: skip
"""Types of parameters that are checked here; choices of names and modules the settings check."""
_GREATEST = 1 << 62  # sums of two fit into an int64


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ``ValueError`` unless q, k, v fit together, with their shapes and the remedy."""
    shapes = f"Shapes q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}."
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"q, k, v need four dimensions [batch, heads, length, head_dim]. {shapes}")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k and v differ in batch, heads or length. {shapes}")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q and k differ in batch. {shapes}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k differ in head_dim. {shapes}")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"k has {k.shape[1]} heads, q has {q.shape[1]}: q's heads must be a multiple of k's. {shapes}")
    if not q.shape[3] or not v.shape[3]:
        raise ValueError(f"head_dim is 0. {shapes}")
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"q, k, v must share one dtype of {names}; got {q.dtype}, {k.dtype}, {v.dtype}.")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k, v are on different devices: {q.device}, {k.device}, {v.device}.")


def check_call(
    name: str, operator: Operator, q: Tensor, k: Tensor, *, causal: bool, grid: tuple[int, int] | None,
    params: Mapping[str, Any],
) -> None:  # fmt: skip
    """Raise ``ValueError`` for what this operator cannot do, before any formulation is chosen."""
    len_q, len_k = q.shape[2], k.shape[2]
    if causal not in operator.causal:
        raise ValueError(f"{name} is {'not ' if causal else 'only '}causal: pass causal={not causal}.")
    if len_q > len_k:
        raise ValueError(f"{name}: {len_q} queries but {len_k} keys; the queries are the last of the key positions.")
    if len_q < len_k and not operator.decodes:
        raise ValueError(f"{name} needs as many queries as keys; got {len_q} and {len_k}.")
    if operator.grid:
        if grid is None:
            raise ValueError(f"{name} works on a token map: pass grid=(height, width).")
        if grid[0] * grid[1] != len_k:
            raise ValueError(f"{name}: grid {grid[0]}x{grid[1]} has {grid[0] * grid[1]} tokens, k has {len_k}.")
    elif grid is not None:
        raise ValueError(f"{name} takes no grid.")
    check_parameters(name, operator, params)


def check_parameters(name: str, operator: Operator, params: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a parameter that the operator does not have, or of which that is no value."""
    for parameter, value in params.items():
        if parameter not in operator.parameters:
            known = ", ".join(operator.parameters) or "none"
            hint = did_you_mean(parameter, operator.parameters) or f"Known: {known}."
            raise ValueError(f"{name} has no parameter {parameter!r}. {hint}")
        stated = operator.parameters[parameter]
        wanted = _KINDS.get(stated.annotation)
        if wanted and type(value) is not type(stated.default) and not _is(wanted, value):
            raise ValueError(f"{name}: {parameter} is {value!r}; {wanted} is needed, as {stated.default!r}.")
        if isinstance(value, int) and abs(value) >= _GREATEST:
            raise ValueError(f"{name}: {parameter} is {value}; a number below {_GREATEST} is needed.")


def _is(wanted: str, value: Any) -> bool:
    """Numbers of numpy and symbols of a graph are numbers; booleans are not, and nothing is true or false but they."""
    if wanted == "a tensor" or isinstance(value, Tensor):
        return wanted == "a tensor" and isinstance(value, Tensor)
    if isinstance(value, (bool, str)) or wanted in ("True or False", "a name"):
        return wanted == "a name" and isinstance(value, str)
    return hasattr(value, "__index__") or (wanted == "a number" and hasattr(value, "__float__"))


def check_backend(name: str, operator: Operator, backend: str) -> None:
    """Raise ``ValueError`` for a backend that this operator does not have, or that nothing has."""
    if not isinstance(backend, str) or backend not in operator.backends:
        raise no_such(name, backend)


def check_gradients(name: str, operator: Operator, q: Tensor, k: Tensor, v: Tensor, backend: str) -> None:
    """Raise ``ValueError`` where gradients are wanted of an operator that has none: no result without its graph."""
    if wants_gradient(q, k, v) and not operator.differentiable and backend != "reference":
        raise ValueError(f"{name} has no gradients: call it under torch.no_grad(), or with backend='reference'.")


def check_lse(name: str, operator: Operator, backend: str) -> None:
    """Raise ``ValueError`` where a call has no log-sum-exp to return."""
    if not operator.returns_lse:
        raise ValueError(f"{name} has no log-sum-exp. dense, window+sink, blocktopk and flux return it.")
    if backend == "reference":
        raise ValueError("the reference does not return its log-sum-exp. Use backend='torch'.")
