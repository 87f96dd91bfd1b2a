"""What a benchmark run is asked to do."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from ..registry import Registry

Mode = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Options of `attn bench`; the command's help says what each one does.

    Parameters
    ----------
    operators : tuple of str
        Empty: every language operator that needs no compiler and no further package.
    lengths : tuple of int
        Sequence lengths (keys), ascending.
    inputs : tuple of str
        Generator names or paths of ``.npz`` files with q, k, v.
    captured_heads : tuple of int or None
        Which heads of a file; None: all. Batch, heads and head_dim are the file's own.
    causal : bool or None
        None: causal where the operator can, with a baseline of its own for those that cannot.
    settings : mapping of operator to parameters
    sweep : (operator, parameter, values) or None
    keys : int or None
        Equal budget: every operator visits about as many keys per query, search included.
    repeat : int or None
        None: until 1 s or 5 runs.
    asked : frozenset of str
        Which of ``batch``, ``num_heads``, ``num_kv_heads`` and ``head_dim`` a file must have, or be refused.
    budget : float, s
        An operator predicted to outrun what is left of it is skipped, with its prediction.
    """

    operators: tuple[str, ...] = ()
    lengths: tuple[int, ...] = (4096,)
    batch: int = 1
    num_heads: int = 1
    num_kv_heads: int | None = None
    head_dim: int = 128
    grid: tuple[int, int] | None = None
    inputs: tuple[str, ...] = ("lowrank",)
    captured_heads: tuple[int, ...] | None = None
    tile: bool = False
    causal: bool | None = None
    mode: Mode = "prefill"
    backward: bool = False
    baseline: bool = True
    peers: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sweep: tuple[str, str, tuple[Any, ...]] | None = None
    keys: int | None = None
    rows: int = 256
    memory: bool = True
    repeat: int | None = None
    budget: float = 240.0
    seed: int = 0
    seeds: int = 1
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    plot: Path | None = None
    asked: frozenset[str] = frozenset()

    @property
    def named(self) -> tuple[str, ...]:
        """Operators that were asked for by name: refused where they cannot run, not left out."""
        return (*self.operators, *self.settings, *((self.sweep[0],) if self.sweep else ()))


def parse_setting(text: str, operators: Registry) -> tuple[str, str, list[str]]:
    """``hip.mask_k=128,256`` as (operator, parameter, values as text). Raises ``UsageError`` for anything else."""
    target, equals, values = text.partition("=")
    name, dot, parameter = target.partition(".")
    if not (equals and dot and parameter and values):
        raise UsageError(f"{text!r} is no setting. Use OPERATOR.PARAMETER=VALUE, as hip.mask_k=1024.")
    operators[name]  # raises with the nearest name
    return name, parameter, values.split(",")


def _choices(annotation: Any) -> tuple[str, ...]:
    """The strings that an annotation allows; none: it is no ``Literal``."""
    if typing.get_origin(annotation) is Literal:
        return tuple(map(str, typing.get_args(annotation)))
    return tuple(choice for part in typing.get_args(annotation) for choice in _choices(part))


def convert(name: str, parameter: str, text: str) -> Any:
    """The value of an operator's parameter from its text, by the type of its default and annotation.

    Raises
    ------
    UsageError
        If the operator has no such parameter, or the text is no value of its type.
    """
    from ..attention.registry import OPERATORS
    from ..errors import did_you_mean
    from ..sizes import parse_grid, parse_size

    known = OPERATORS[name].resolve().parameters
    where = f"{name}.{parameter}"
    if parameter not in known:
        hint = did_you_mean(parameter, known) or f"Known: {', '.join(known) or 'none'}."
        raise UsageError(f"{name} has no parameter {parameter!r}. {hint}")
    kind = str(known[parameter].annotation)
    default = known[parameter].default
    lowered = text.lower()
    if lowered == "none" and (default is None or "None" in kind):
        return None
    if isinstance(default, bool) or kind == "<class 'bool'>":
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
        raise UsageError(f"{where}: {text!r} is neither true nor false.")
    try:
        if "tuple[int" in kind:
            return parse_grid(text, kind.count("int"))
        if isinstance(default, int) or "int" in kind:
            return int(text) if text in ("0", "-1") else parse_size(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if isinstance(default, float) or "float" in kind:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"{where}: {text!r} is no number.")
        return number
    if choices := _choices(known[parameter].annotation):
        if text not in choices:
            raise UsageError(f"{where}: {text!r} is none of {', '.join(choices)}.")
        return text
    if isinstance(default, str) or "str" in kind:
        return text
    raise UsageError(f"{where} takes a tensor or a module: set it from Python, not here.")
