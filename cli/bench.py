"""`attn bench`: parse, call core, show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attn.core.bundles import Reporting
from attn.core.errors import UsageError

from .options import (
    DeviceOption,
    JsonOption,
    ListOption,
    QuietOption,
    ReportOption,
    SeedOption,
    ThreadsOption,
    VerboseOption,
    complete_methods,
)
from .say import say

if TYPE_CHECKING:
    from attn.core.bench.options import BenchOptions
    from attn.core.report.model import Item, Report

EXAMPLES = (
    ("attn bench --seq 128k", "Every language operator at 131072 tokens against dense attention, in under 5 minutes."),
    ("attn bench hip lightning --seq 4k..128k --plot scaling.png", "Scaling exponents and crossovers."),
    (
        "attn bench --inputs needle,topic --seeds 10 --no-memory",
        "Where selection finds the needle, and where it fails.",
    ),
    ("attn bench --inputs layer20.npz --seq 8k --report r.html", "Your own q, k, v."),
    ("attn bench --sweep hip.mask_k=128,256,512,1024 --plot recall.png", "Recall against cost."),
    ("attn bench hip blocktopk window+sink --keys 1k --seq 32k", "All at about 1024 visited keys per query."),
    ("attn bench dense --dtype bf16 --seq 16k", "Another dtype."),
    ("attn bench bra halo --grid 256x256 --dim 32", "Vision operators on a token map."),
    ("attn bench lightning superlinear --backward", "Gradients too."),
    ("attn bench --mode decode --seq 128k", "One query against a long cache."),
    ("attn bench --selftest", "All golden vectors of the official implementations; exit code 0 or 3."),
)
NOTES = (
    "Exit code 3: an operator that claims to be exact was not, or --selftest found a difference.",
    "Times are medians of interleaved runs. A row is marked noisy when other processes used more than a tenth of the "
    "cores meanwhile, or when its runs differ by more than a quarter: do not quote it.",
    "GFLOP/s count the products of attended and searched query-key pairs, causal halves counted once, softmax not. "
    "ceiling is the share of what a matrix product of the same type (or a copy, where traffic bounds) reached in the "
    "same run.",
    "recall is the share of dense softmax mass on the chosen keys, on sampled query rows that see more keys than they "
    "attend to; oracle and window are the best keys, and the first keys with the last ones, at as many visited keys. "
    "lightning is no approximation of softmax attention: its error is against its own quadratic form.",
    "Peak memory is above the inputs, the output included; a child process of its own runs the operator for it.",
)
EXIT_GATE = 3


def complete_inputs(incomplete: str) -> list[str]:
    """Shell completion of generator names (no torch)."""
    from attn.core.bench import GENERATOR_NAMES

    return [name for name in GENERATOR_NAMES if name.startswith(incomplete)]


SIZES = {"batch": "batch", "heads": "num_heads", "kv_heads": "num_kv_heads", "dim": "head_dim"}
OUTPUT_OPTIONS = frozenset({"as_json", "report_file", "quiet", "verbose", "max_memory"})


def _given(context: typer.Context) -> set[str]:
    """Names of the parameters that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _refuse(context: typer.Context, why: str, names: set[str]) -> None:
    """Raise ``UsageError`` for options that would have no effect."""
    if names:
        flags = {param.name: param.opts[0] for param in context.command.params}
        listed = ", ".join(sorted(flags[name] for name in names))
        raise UsageError(f"{why}: {listed} would have no effect. Leave it out.")


def parse_heads(text: str | None) -> tuple[int, ...] | None:
    """``0,2`` as (0, 2); ``typer.BadParameter`` for anything else."""
    if text is None:
        return None
    if not all(part.isdecimal() and len(part) < 10 for part in text.split(",")):
        raise typer.BadParameter(f"--head: {text!r} is no list of head numbers (use 0 or 0,1)")
    return tuple(int(part) for part in text.split(","))


def main(
    context: typer.Context,
    operators: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OPERATOR",
            help="What to measure; nothing: every language operator (with --grid every vision operator).",
            autocompletion=complete_methods("bench"),
            show_default=False,
        ),
    ] = None,
    seq: Annotated[
        str | None,
        typer.Option(
            "--seq",
            metavar="SIZES",
            help="Lengths: 512, 4k (k = 1024), lists 4k,16k, doubling ranges 4k..128k.",
            show_default="4k, or --grid's",
        ),
    ] = None,
    heads: Annotated[int, typer.Option("--heads", metavar="N", min=1, help="Query heads.")] = 1,
    kv_heads: Annotated[
        int | None, typer.Option("--kv-heads", metavar="N", min=1, help="Key/value heads.", show_default="as --heads")
    ] = None,
    dim: Annotated[int, typer.Option("--dim", metavar="N", min=1, help="Head dimension, a multiple of 8.")] = 128,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Batch size.")] = 1,
    grid: Annotated[
        str | None, typer.Option("--grid", metavar="HxW", help="Token map of the vision operators, as 256x256.")
    ] = None,
    causal: Annotated[
        bool | None,
        typer.Option(
            "--causal/--no-causal", help="Whether queries see later keys.", show_default="as the operator can"
        ),
    ] = None,
    mode: Annotated[
        Literal["prefill", "decode"],
        typer.Option("--mode", metavar="prefill|decode", help="All queries, or one query against a long cache."),
    ] = "prefill",
    backward: Annotated[bool, typer.Option("--backward", help="Measure forward and backward together.")] = False,
    inputs: Annotated[
        str,
        typer.Option(
            "--inputs",
            metavar="NAMES",
            help="Generators, separated by commas (gaussian, lowrank, topic, needle, needle-smooth, video, worst), or "
            ".npz files with q, k, v.",
            autocompletion=complete_inputs,
        ),
    ] = "lowrank",
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="LIST", help="Heads of a .npz file, as 0,1.", show_default="all of them"),
    ] = None,
    tile: Annotated[
        bool, typer.Option("--tile", help="Repeat the tokens of a .npz file up to --seq; the report says so.")
    ] = False,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Seeds to measure, from --seed on.")] = 1,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OP.PARAM=VALUE", help="A parameter of an operator; repeatable."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="OP.PARAM=A,B,C", help="Measure an operator at several values."),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            "--keys",
            metavar="SIZE",
            help="Equal budget: so many keys per query, searched or attended.",
        ),
    ] = None,
    baseline: Annotated[
        Literal["sdpa", "none"],
        typer.Option("--baseline", metavar="sdpa|none", help="PyTorch's dense attention as the row to compare with."),
    ] = "sdpa",
    peers: Annotated[
        bool, typer.Option("--peers", help="Also the peers that compile for minutes, or need a package or a GPU.")
    ] = False,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=4, help="Query rows on which exactness is measured.")
    ] = 256,
    repeat: Annotated[
        int | None,
        typer.Option("--repeat", metavar="N", min=1, help="Runs of each operator.", show_default="1 s or 5 runs"),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            "--budget", metavar="SECONDS", min=1.0, help="Operators predicted to outrun it are skipped, and say so."
        ),
    ] = 240.0,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory in child processes.")
    ] = True,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under half a minute: 4k tokens at most, dimension 64, 2 heads, no memory.")
    ] = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Compare with all golden vectors; exit code 0 or 3.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw time and memory against length, and recall against keys."),
    ] = None,
    list_: ListOption = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="DTYPE", help="float32 (fp32), bfloat16 (bf16), float16 or float64.")
    ] = "float32",
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Measure attention operators side by side: time, memory, exactness, scaling.

    Every operator runs on the same q, k, v in the same run as PyTorch's dense attention, against the machine's own
    measured ceilings. No number is printed that this run did not measure; predictions are called predictions.
    """
    if list_:
        from .methods import list_methods

        return list_methods("bench", as_json=as_json)
    from attn.core.attention.registry import OPERATORS
    from attn.core.bench.options import BenchOptions, convert, parse_setting
    from attn.core.sizes import parse_grid, parse_size, parse_sizes

    for name in operators or ():
        OPERATORS[name]  # the nearest name before torch is imported
    given = _given(context)
    if selftest:
        _refuse(context, "--selftest compares with stored vectors", given - {"operators", "selftest", *OUTPUT_OPTIONS})
        return _run(tuple(operators or ()), as_json, report_file, quiet, verbose)
    shape = parse_grid(grid) if grid else None
    if seq is None:
        lengths: tuple[int, ...] = (shape[0] * shape[1],) if shape else (4096,)
    else:
        lengths = parse_sizes(seq)
    if quick:
        chosen = {"dim": dim != 64, "heads": heads != 2, "memory": memory}
        _refuse(context, "--quick measures 2 heads of 64 without memory", {x for x in given if chosen.get(x)})
        if max(lengths) > 4096:
            raise UsageError(f"--quick measures 4k tokens at most. Leave --seq {seq} out, or --quick.")
        dim, heads, memory = 64, 2, False
    sources = tuple(inputs.split(","))
    if memory and given & {"memory"} and (mode == "decode" or backward):
        raise UsageError("--memory measures a forward pass over all queries: leave out --mode decode and --backward.")
    settings: dict[str, dict[str, Any]] = {}
    for text in setting or ():
        name, parameter, values = parse_setting(text, OPERATORS)
        if len(values) > 1:
            raise UsageError(f"--set {text}: one value. Use --sweep for several.")
        settings.setdefault(name, {})[parameter] = convert(name, parameter, values[0])
    swept = None
    if sweep:
        if len(sweep) > 1:
            raise UsageError("--sweep: one parameter of one operator at a time.")
        name, parameter, values = parse_setting(sweep[0], OPERATORS)
        swept = (name, parameter, tuple(convert(name, parameter, value) for value in values))
    options = BenchOptions(
        operators=tuple(operators or ((swept[0],) if swept else ())),
        lengths=lengths,
        batch=batch,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        grid=(shape[0], shape[1]) if shape else None,
        inputs=sources,
        captured_heads=parse_heads(head),
        tile=tile,
        causal=causal,
        mode=mode,
        backward=backward,
        baseline=baseline == "sdpa",
        peers=peers,
        settings=settings,
        sweep=swept,
        keys=parse_size(keys) if keys else None,
        rows=rows,
        memory=memory,
        repeat=repeat,
        budget=budget,
        seed=seed,
        seeds=seeds,
        device=device,
        dtype=dtype,
        threads=threads,
        plot=plot,
        asked=frozenset(SIZES[name] for name in given & set(SIZES)),
    )
    return _run(options, as_json, report_file, quiet, verbose)


def _run(
    options: BenchOptions | tuple[str, ...], as_json: bool, report_file: Path | None, quiet: bool, verbose: bool
) -> None:
    from dataclasses import asdict

    from .show import Watch, show, watched

    arguments: dict[str, Any] = {"operators": options} if isinstance(options, tuple) else asdict(options)
    arguments["argv"] = sys.argv[1:]

    def call(watch: Watch) -> Report:
        if isinstance(options, tuple):
            from attn.core.bench import selftest

            return selftest.run(options, watcher=watch, arguments=arguments)
        from attn.core.bench.run import run

        return run(options, watcher=watch, arguments=arguments)

    left = options if isinstance(options, tuple) else options.operators
    report = watched("bench", call, arguments, left, report_file, quiet=quiet)
    tested = isinstance(options, tuple)
    table = None if tested else [_row(item) for item in report.items]
    show(report, Reporting(as_json, report_file, quiet, verbose), rows=table)
    if not as_json and not quiet and not tested:
        _print_rest(report)
    gate = tested or any(item.details.get("gate_failed") for item in report.items)
    raise typer.Exit(EXIT_GATE if gate and report.exit_code == 1 else report.exit_code)


def _row(item: Item) -> dict[str, Any]:
    """The columns of a terminal; reports have all of them."""
    m = item.metrics
    if "median_ms" not in m:
        status = item.error if item.status == "skipped" else item.status  # why it failed stands on stderr
        return {"operator": item.details.get("label", item.input), "seq": _size(item), "status": status}
    return {
        "operator": item.details["label"],
        "seq": _size(item),
        "inputs": item.details["inputs"],
        "median ms": _sig(m["median_ms"]),
        "x dense": _sig(m.get("speedup")),
        "GFLOP/s": _sig(m["gflops_useful"]),
        "ceiling": f"{100 * m['ceiling_share']:.0f}%" if "ceiling_share" in m else None,
        "keys": round(m["keys_searched"] + m["keys_attended"]),
        "peak MiB": _sig(m["peak_bytes"] / 2**20) if "peak_bytes" in m else None,
        "recall": _share(m.get("mass_recall")),
        "p5": _share(m.get("mass_recall_p5")),
        "oracle": _share(m.get("oracle_recall")),
        "window": _share(m.get("window_recall")),
        "needle": _share(m.get("needle_hit")),
        "rel. error": f"{m['relative_error']:.1e}" if "relative_error" in m else None,
        "status": "noisy" if item.details.get("noisy") and item.status == "ok" else item.status,
    }


def _size(item: Item) -> str:
    from attn.core.sizes import show_size

    return show_size(int(item.metrics["seq_len"])) if "seq_len" in item.metrics else ""


def _sig(value: float | None) -> str | None:
    """Three significant digits."""
    if value is None:
        return None
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _print_rest(report: Report) -> None:
    from .show import print_rows

    if fits := report.summary.get("scaling"):
        crossed = [f"{fit['crossover']} ({fit['crossover_from']})" if fit.get("crossover") else None for fit in fits]
        shown = [
            {
                "operator": fit["operator"],
                "inputs": fit["inputs"],
                "lengths": fit["lengths"],
                "exponent": f"{fit['exponent']:.2f}",
                "95 %": f"{fit['low']:.2f} - {fit['high']:.2f}" if fit["low"] == fit["low"] else None,
                "between neighbours": fit["local"],
                "faster than dense from": f"{fit['crossover']} ({fit['crossover_from']})"
                if fit.get("crossover")
                else None,
            }
            for fit, where in zip(fits, crossed, strict=True)
        ]
        print_rows(shown, title="scaling: time ~ length ^ exponent")
    if "machine" not in report.summary:  # interrupted before the first measurement
        return
    found = report.summary["machine"]
    peaks = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in report.summary["ceilings"].items())
    say(f"{found['cpu']}, {found['threads']} threads, torch {found['torch']}; ceilings: {peaks}")
