"""What is measured: an operator with its parameters, or the baseline, as one callable of q, k, v."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..attention.contract import Cost, Operator, Shape
from ..attention.registry import OPERATORS
from ..errors import UsageError
from ..options import OptionError
from .options import BenchOptions

BASELINE = "sdpa"


@dataclass(frozen=True)
class Candidate:
    """One row of the table before its numbers: ``label`` is unique within a run."""

    label: str
    name: str
    params: Mapping[str, Any]
    causal: bool

    @property
    def operator(self) -> Operator:
        """The operator; the baseline's is ``dense``, whose contract it shares."""
        operator = OPERATORS["dense" if self.name == BASELINE else self.name].resolve()
        assert isinstance(operator, Operator)
        return operator

    @property
    def settings(self) -> Any:
        """The operator's settings with these parameters."""
        return self.operator.settings(**self.params)

    def arguments(self, scale: float, grid: tuple[int, int] | None) -> dict[str, Any]:
        """Keyword arguments of the call, plain values only."""
        named: dict[str, Any] = {"causal": self.causal, "scale": scale, **self.params}
        if self.operator.rows is not None:
            named["scale"] = None  # not softmax attention: the operator's own scale
        if self.operator.grid:
            named["grid"] = grid
        return named

    def cost(self, shape: Shape) -> Cost:
        """Predicted cost at ``shape``."""
        operator = self.operator
        params = {} if self.name == BASELINE else dict(self.params)
        return operator.cost(shape, **params)


def call(name: str) -> Callable[..., Tensor]:
    """The function of a candidate's name: ``(q, k, v, *, causal, scale, ...) -> out``."""
    if name == BASELINE:
        from ..attention.dense import sdpa

        baseline: Callable[..., Tensor] = sdpa
        return baseline
    operator = OPERATORS[name].resolve()
    assert isinstance(operator, Operator)
    return operator.blocked


def from_plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that came as JSON: a grid is a tuple again."""
    return {name: tuple(value) if name == "grid" and value else value for name, value in arguments.items()}


def warm(
    call_: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, arguments: Mapping[str, Any], length: int = 1024
) -> None:
    """A call on few tokens, so that everything is compiled and loaded before the clock starts."""
    arguments = dict(arguments)
    if grid := arguments.get("grid"):
        side = min(32, *grid)
        arguments["grid"], length = (side, side), side * side
    if length < k.shape[2]:
        queries = min(length, q.shape[2])
        q, k, v = q[:, :, -queries:].contiguous(), k[:, :, :length].contiguous(), v[:, :, :length].contiguous()
    call_(q, k, v, **arguments)


def choose(options: BenchOptions) -> tuple[list[str], dict[str, str]]:
    """The operators of a run, and what is left out with the reason.

    Raises
    ------
    UsageError
        For an unknown operator, or one that cannot do what is asked for.
    """
    names = options.operators or tuple(
        name for name in OPERATORS if _by_default(name, options) and (options.peers or not _peer(name))
    )
    if options.sweep and options.sweep[0] not in names:
        names = (*names, options.sweep[0])
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for name in (*options.settings, *((options.sweep[0],) if options.sweep else ())):
        if name not in names:
            raise OptionError(f"{{settings}} {name}...: {name} is not measured. Name it, or leave the parameter out.")
    for name in dict.fromkeys(names):
        if missing := OPERATORS[name].missing():
            if name in options.named:
                OPERATORS[name].resolve()  # raises, with how to install it
            left_out[name] = f"not installed: pip install {' '.join(missing)}"
            continue
        operator = Candidate(name, name, {}, causal=False).operator
        if reason := _cannot(name, operator, options):
            if name in options.named:
                raise UsageError(reason)
            left_out[name] = reason
            continue
        given = dict(options.settings.get(name, {}))
        for value in options.sweep[2] if options.sweep and options.sweep[0] == name else (None,):
            given |= {} if value is None or not options.sweep else {options.sweep[1]: value}
            try:
                operator.check_effects(name, given)
            except ValueError as error:
                raise UsageError(str(error)) from None
        unused = operator.decode_only & given.keys()
        if unused and options.mode != "decode" and options.inside.model is None:
            raise OptionError(f"{name}.{min(unused)} would have no effect without {{mode}} decode.")
        chosen.append(name)
    if options.grid is not None and not any(OPERATORS[name].resolve().grid for name in chosen):
        raise OptionError("{grid} is about operators on token maps (bra, halo), and none is measured.")
    if options.sweep and options.sweep[1] in options.settings.get(options.sweep[0], {}):
        raise UsageError(f"{'.'.join(options.sweep[:2])} is both set and swept. Leave one out.")
    if options.operators and options.peers:
        raise OptionError("{peers} adds to the operators that run by default, and some were named. Name the peers too.")
    return chosen, left_out


def plan(names: Sequence[str], options: BenchOptions, shape: Shape) -> list[Candidate]:
    """The candidates of inputs of ``shape``, baselines first."""
    candidates: list[Candidate] = []
    for name in names:
        operator = Candidate(name, name, {}, causal=False).operator
        causal = options.causal if options.causal is not None else operator.causal[0]
        params = dict(options.settings.get(name, {}))
        if options.keys is not None and operator.at_budget is not None:
            params = {**operator.at_budget(options.keys, shape), **params}
        if options.sweep and options.sweep[0] == name:
            _, parameter, values = options.sweep
            candidates += [Candidate(f"{name} {parameter}={v}", name, {**params, parameter: v}, causal) for v in values]
        else:
            candidates.append(Candidate(name, name, params, causal))
    baselines = []
    if options.baseline:
        for causal in sorted({candidate.causal for candidate in candidates}, reverse=True):
            label = BASELINE if causal or len({c.causal for c in candidates}) == 1 else f"{BASELINE} (not causal)"
            baselines.append(Candidate(label, BASELINE, {}, causal))
    return baselines + candidates


def _by_default(name: str, options: BenchOptions) -> bool:
    """Language operators; with --grid, the vision operators."""
    operator = None if OPERATORS[name].missing() else OPERATORS[name].resolve()
    if operator is None:
        return options.grid is None
    if options.grid is not None:
        return bool(operator.grid)
    wanted = True if options.causal is None else options.causal
    return not operator.grid and wanted in operator.causal and (operator.decodes or options.mode == "prefill")


def _peer(name: str) -> bool:
    """What compiles for minutes, or needs a package or a GPU: measured when named, or with --peers."""
    return bool(OPERATORS[name].missing() or OPERATORS[name].resolve().compiled)


def _cannot(name: str, operator: Operator, options: BenchOptions) -> str:
    """Why an operator cannot run with these options; empty where it can."""
    if options.inside.model is not None and (operator.grid or True not in operator.causal):
        return f"{name} is not causal, as attention inside a language model is. Leave it out."
    if operator.grid and options.grid is None:
        return f"{name} works on a token map: add --grid HxW, as --grid 64x64."
    if options.causal is not None and options.causal not in operator.causal:
        return (
            f"{name} is {'not ' if options.causal else 'only '}causal: use --{'no-' if options.causal else ''}causal."
        )
    if options.mode == "decode" and not operator.decodes and operator.decoder is None:
        return f"{name} cannot decode: it needs as many queries as keys."
    if options.backward and not operator.differentiable:
        return f"{name} has no backward pass."
    if options.keys is not None and operator.at_budget is None:
        return f"{name} has no budget of keys: {operator.no_budget} Leave out --keys, or the operator."
    return ""
