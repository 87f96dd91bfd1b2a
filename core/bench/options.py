"""What a benchmark run is asked to do."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ...kernels.chips import CHIPS
from ..attention.registry import OPERATORS
from ..bundles import Device, Seed, Threads
from ..catalogue import complete
from ..errors import UsageError
from ..options import Option, OptionError, check
from ..sizes import parse_grid, parse_size, parse_sizes
from . import GENERATOR_NAMES
from .in_model.options import BUDGET as IN_MODEL_BUDGET
from .in_model.options import LENGTHS as IN_MODEL_LENGTHS
from .in_model.options import InModel

Mode = Literal["prefill", "decode"]
BUDGET = 240.0  # s


def complete_inputs(incomplete: str) -> list[str]:
    """Shell completion of generator names (no torch)."""
    return [name for name in GENERATOR_NAMES if name.startswith(incomplete)]


def parse_names(text: str) -> tuple[str, ...]:
    """``needle,topic`` as names."""
    return tuple(text.split(","))


def parse_heads(text: str) -> tuple[int, ...]:
    """``0,2`` as (0, 2); ``ValueError`` for anything else."""
    if not all(part.isdecimal() and len(part) < 10 for part in text.split(",")):
        raise ValueError(f"{text!r} is no list of head numbers (use 0 or 0,1)")
    return tuple(int(part) for part in text.split(","))


def parse_baseline(text: str) -> bool:
    """Whether there is one; ``ValueError`` for what is none."""
    if text not in ("sdpa", "none"):
        raise ValueError(f"{text!r} is no baseline. Use sdpa or none.")
    return text == "sdpa"


def parse_setting(text: str) -> tuple[str, str, list[str]]:
    """``hip.mask_k=128,256`` as (operator, parameter, values as text). Raises ``UsageError`` for anything else."""
    target, equals, values = text.partition("=")
    name, dot, parameter = target.partition(".")
    if not (equals and dot and parameter and values):
        raise UsageError(f"{text!r} is no setting. Use OPERATOR.PARAMETER=VALUE, as hip.mask_k=1024.")
    OPERATORS[name]  # raises with the nearest name
    return name, parameter, values.split(",")


def parse_set(text: str) -> tuple[str, str, Any]:
    """``hip.mask_k=128`` as operator, parameter and value. Raises ``UsageError`` for anything else."""
    name, parameter, values = parse_setting(text)
    if len(values) > 1:
        raise OptionError(f"{{settings}} {text}: one value. Use {{sweep}} for several.")
    return name, parameter, convert(name, parameter, values[0])


def by_operator(settings: tuple[tuple[str, str, Any], ...]) -> dict[str, dict[str, Any]]:
    """Operator → its parameters; the last of two values counts."""
    gathered: dict[str, dict[str, Any]] = {}
    for name, parameter, value in settings:
        gathered.setdefault(name, {})[parameter] = value
    return gathered


def parse_sweep(text: str) -> tuple[str, str, tuple[Any, ...]]:
    """``hip.mask_k=128,256`` as operator, parameter and values. Raises ``UsageError`` for anything else."""
    name, parameter, values = parse_setting(text)
    return name, parameter, tuple(convert(name, parameter, value) for value in values)


def only_sweep(sweeps: tuple[Any, ...]) -> Any:
    """The one there is. Raises ``ValueError`` for several."""
    if len(sweeps) > 1:
        raise ValueError("one parameter of one operator at a time.")
    return sweeps[0]


def parse_targets(text: str) -> tuple[str, ...]:
    """``sm_90,gfx942`` as names, once each. Raises ``ValueError`` for one that is no chip we compile for."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in CHIPS:
            raise ValueError(f"no chip {name!r} to compile for. Known: {', '.join(CHIPS)}.")
    return names


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """The table of compiled kernels.

    Parameters
    ----------
    kernels : bool
        Compile the Triton kernels in the place of measuring.
    targets : tuple of str
        Chips to compile for.
    """

    kernels: Annotated[
        bool,
        Option("Compile every Triton kernel, without a GPU: registers, spills, memory, instructions; predicted times."),
    ] = False
    targets: Annotated[
        tuple[str, ...],
        Option(
            f"Chips of --kernels, separated by commas: {', '.join(CHIPS)}.",
            name="--target", metavar="NAMES", parse=parse_targets, text="sm_80,sm_90,sm_100,gfx942",
        ),
    ] = ("sm_80", "sm_90", "sm_100", "gfx942")  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


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
    budget : float or None, s
        An operator predicted to outrun what is left of it is skipped, with its prediction. None: 240, inside a model
        540.
    inside : InModel
        With a model, all is measured inside it.
    """

    operators: Annotated[
        tuple[str, ...],
        Option(
            "What to measure; nothing: every language operator (with --grid every vision operator).",
            metavar="OPERATOR", positional=True, complete=complete("bench"),
        ),
    ] = ()  # fmt: skip
    lengths: Annotated[
        tuple[int, ...],
        Option(
            "Lengths: 512, 4k (k = 1024), lists 4k,16k, doubling ranges 4k..128k.",
            name="--seq", metavar="SIZES", parse=parse_sizes,
            shown="4k, or --grid's; with --model 1k,2k,4k",
        ),
    ] = ()  # fmt: skip
    num_heads: Annotated[int, Option("Query heads.", name="--heads", metavar="N", least=1)] = 1
    num_kv_heads: Annotated[
        int | None, Option("Key/value heads.", name="--kv-heads", metavar="N", least=1, shown="as --heads")
    ] = None
    head_dim: Annotated[int, Option("Head dimension, a multiple of 8.", name="--dim", metavar="N", least=1)] = 128
    batch: Annotated[int, Option("Batch size.", metavar="N", least=1)] = 1
    grid: Annotated[
        tuple[int, int] | None,
        Option("Token map of the vision operators, as 256x256.", metavar="HxW", parse=parse_grid),
    ] = None
    causal: Annotated[bool | None, Option("Whether queries see later keys.", shown="as the operator can")] = None
    mode: Annotated[Mode, Option("All queries, or one query against a long cache.", metavar="prefill|decode")] = (
        "prefill"
    )
    backward: Annotated[bool, Option("Measure forward and backward together.")] = False
    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Generators, separated by commas (gaussian, lowrank, topic, needle, needle-smooth, video, worst), or .npz "
            "files with q, k, v.",
            metavar="NAMES", parse=parse_names, text="lowrank", complete=complete_inputs,
        ),
    ] = ("lowrank",)  # fmt: skip
    captured_heads: Annotated[
        tuple[int, ...] | None,
        Option("Heads of a .npz file, as 0,1.", name="--head", metavar="LIST", parse=parse_heads, shown="all of them"),
    ] = None
    tile: Annotated[bool, Option("Repeat the tokens of a .npz file up to --seq; the report says so.")] = False
    seeds: Annotated[int, Option("Seeds to measure, from --seed on.", metavar="N", least=1)] = 1
    settings: Annotated[
        Mapping[str, Mapping[str, Any]],
        Option(
            "A parameter of an operator; repeatable.",
            name="--set", metavar="OP.PARAM=VALUE", parse=parse_set, repeatable=True, gather=by_operator,
        ),
    ] = field(default_factory=dict)  # fmt: skip
    sweep: Annotated[
        tuple[str, str, tuple[Any, ...]] | None,
        Option(
            "Measure an operator at several values.",
            metavar="OP.PARAM=A,B,C", parse=parse_sweep, repeatable=True, gather=only_sweep,
        ),
    ] = None  # fmt: skip
    keys: Annotated[
        int | None,
        Option("Equal budget: so many keys per query, searched or attended.", metavar="SIZE", parse=parse_size),
    ] = None
    baseline: Annotated[
        bool,
        Option(
            "PyTorch's dense attention as the row to compare with.",
            metavar="sdpa|none", parse=parse_baseline, text="sdpa",
        ),
    ] = True  # fmt: skip
    peers: Annotated[bool, Option("Also the peers that compile for minutes, or need a package or a GPU.")] = False
    rows: Annotated[int, Option("Query rows on which exactness is measured.", metavar="N", least=4)] = 256
    repeat: Annotated[int | None, Option("Runs of each operator.", metavar="N", least=1, shown="1 s or 5 runs")] = None
    budget: Annotated[
        float | None,
        Option(
            "What is predicted to outrun it is skipped, and says so.",
            metavar="SECONDS", above=0, shown="240; with --model 540",
        ),
    ] = None  # fmt: skip
    memory: Annotated[bool, Option("Measure peak memory in child processes.")] = True
    plot: Annotated[
        Path | None, Option("Draw time and memory against length, and recall against keys.", metavar="FILE")
    ] = None
    device: Device = "auto"
    dtype: Annotated[
        str, Option("float32 (fp32), bfloat16 (bf16), float16 or float64.", metavar="DTYPE", common=True)
    ] = "float32"
    seed: Seed = 0
    threads: Threads = None
    inside: InModel = field(default_factory=InModel)
    asked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check(self)
        if not self.lengths:
            own = IN_MODEL_LENGTHS if self.inside.model else (math.prod(self.grid) if self.grid else 4096,)
            object.__setattr__(self, "lengths", own)

    @property
    def seconds(self) -> float:
        """The budget, s."""
        return self.budget or (IN_MODEL_BUDGET if self.inside.model else BUDGET)

    @property
    def named(self) -> tuple[str, ...]:
        """Operators that were asked for by name: refused where they cannot run, not left out."""
        return (*self.operators, *self.settings, *((self.sweep[0],) if self.sweep else ()))


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
