"""`attn bench`: parse, call core, show."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn.core.attention.registry import OPERATORS
from attn.core.bench.in_model.options import COUNT, InModel
from attn.core.bench.options import BenchOptions, KernelOptions
from attn.core.bundles import Reporting
from attn.core.options import Option, OptionError, stated

from .build import command

if TYPE_CHECKING:
    from attn.core.report.model import Report

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
    (
        "attn bench --model smollm2/ --text manual.txt --seq 1k,2k,4k hip dsa hisa blocktopk window+sink flux",
        "What the operators do to a language model: perplexity, needles, agreement, times, bytes, and what ran where.",
    ),
    ("attn bench --kernels --target sm_90", "What the compiler makes of every Triton kernel, without a GPU."),
    ("attn bench --selftest", "All golden vectors of the official implementations; exit code 0 or 3."),
)
NOTES = (
    "Exit code 3: an operator that claims to be exact was not, --selftest found a difference, or a kernel of --kernels "
    "does not compile, spills registers, or wants more shared memory than a block may have.",
    "Times are medians of interleaved runs. A row is marked noisy when other processes used more than a tenth of the "
    "cores meanwhile, or when its runs differ by more than a quarter: do not quote it.",
    "GFLOP/s count the products of attended and searched query-key pairs, causal halves counted once, softmax not. "
    "ceiling is the share of what a matrix product of the same type (or a copy, where traffic bounds) reached in the "
    "same run.",
    "recall is the share of dense softmax mass on the chosen keys, on sampled query rows that see more keys than they "
    "attend to; oracle and window are the best keys, and the first keys with the last ones, at as many visited keys. "
    "lightning is no approximation of softmax attention: its error is against its own quadratic form.",
    "With --model, at a length of N tokens the model reads the first N - T tokens of the text (T is --tokens) in one "
    "pass, which fills its cache, and writes T more, each the most probable one. sdpa is the model with its own dense "
    "attention; all else is compared with it, in the same run.",
    "perplexity is exp of the mean of -log p over all tokens of the text but the first. 'same next' is the share of "
    "its tokens behind which the most probable next token is the one of sdpa; 'greedy' the share of the T written "
    "tokens that are, place by place, those of sdpa (after the first difference the texts differ).",
    "needles: one prompt of N tokens holds a pass key of five digits at each of --depths, in per cent of the text; "
    "each is asked for on its own behind the same cache, and is found if the greedy answer begins with its digits and "
    "no further one.",
    "prefill is the time of the whole pass over the N - T tokens, all layers and the logits of the last token; decode "
    "the median time of a written token, the cache as full as that.",
    "KV read is what an operator visits for the last written token where it searches anew, over all layers: D numbers "
    "for each key (or pooled key) that its search scores, and D + Dv for each key and value that it attends to, each "
    "once for the query heads of a key/value head. An operator that keeps a state has none. It follows from the keys "
    "that it chose there; it is no measurement of memory traffic.",
    "flat IoU: |A and B| / |A or B| of the tokens that hisa and dsa choose with the same top_k, from the same queries "
    "and keys; the mean over the layers, key/value heads and up to 256 queries evenly spaced among those that "
    "see more keys than the candidate blocks hold (the others agree by construction and do not count).",
    "Which operator ran in which layer is what the layers themselves noted; a run in which one did not is a failure.",
    "--kernels runs nothing and measures no time. occupancy is the share of a chip's warps that registers, shared "
    "memory and blocks leave room for; instructions are counted where they stand, a loop once; a predicted time is the "
    "stated work at the chip's published ceilings, null where no work is stated.",
    "Peak memory is above the inputs, the output included; a child process of its own runs the operator for it.",
)


SIZES = frozenset({"batch", "num_heads", "num_kv_heads", "head_dim"})
OUTPUT_OPTIONS = frozenset({"as_json", "report_file", "quiet", "verbose", "max_memory"})
QUICK: dict[str, Any] = {"head_dim": 64, "num_heads": 2, "memory": False}


@dataclass(frozen=True, slots=True)
class Runs:
    """Other runs than the one that the options describe."""

    quick: Annotated[bool, Option("Under half a minute: 4k tokens at most, dimension 64, 2 heads, no memory.")] = False
    selftest: Annotated[bool, Option("Compare with all golden vectors; exit code 0 or 3.")] = False


def _refuse(why: str, names: Collection[str]) -> None:
    """Raise ``OptionError`` for options that would have no effect."""
    if names:
        listed = ", ".join(f"{{{name}}}" for name in sorted(names))
        raise OptionError(f"{why}: {listed} would have no effect. Leave it out.")


def _main(
    reporting: Reporting, options: BenchOptions, runs: Runs, compiled: KernelOptions, given: frozenset[str]
) -> None:
    """Measure attention operators side by side: time, memory, exactness, scaling.

    Every operator runs on the same q, k, v in the same run as PyTorch's dense attention, against the machine's own
    measured ceilings. No number is printed that this run did not measure; predictions are called predictions.
    """
    if compiled.kernels:
        _refuse("{kernels} compiles and measures nothing", given - {"kernels", "targets", *OUTPUT_OPTIONS})
        return _run(compiled, reporting)
    _refuse("without {kernels}", given & {"targets"})
    for name in options.operators:
        OPERATORS[name]  # the nearest name before torch is imported
    if options.seconds < 1:
        raise OptionError(f"{{budget}}: {options.seconds:g} s is too short to measure anything. Use 1 or more.")
    if runs.selftest:
        _refuse("{selftest} compares with stored vectors", set(given) - {"operators", "selftest", *OUTPUT_OPTIONS})
        return _run(options.operators, reporting)
    if options.inside.model is not None:
        _refuse("inside a {model}", given - COUNT - OUTPUT_OPTIONS)
        return _run(options, reporting)
    only = {option.field for option in stated(InModel)} & given
    if only and not runs.selftest:
        _refuse("without a {model}", only)
    if runs.quick:
        _refuse(
            "{quick} measures 2 heads of 64 without memory",
            {name for name in given & set(QUICK) if getattr(options, name) != QUICK[name]},
        )
        if max(options.lengths) > 4096:
            raise OptionError("{quick} measures 4k tokens at most. Leave {lengths} out, or {quick}.")
        options = replace(options, **QUICK)
    if options.memory and "memory" in given and (options.mode == "decode" or options.backward):
        raise OptionError("{memory} measures a forward pass over all queries: leave out {mode} decode and {backward}.")
    if options.sweep and not options.operators:
        options = replace(options, operators=(options.sweep[0],))
    return _run(replace(options, asked=given & SIZES), reporting)


main = command(_main, methods="bench")


def _run(options: BenchOptions | KernelOptions | tuple[str, ...], reporting: Reporting) -> None:
    from .show import Watch, show, watched

    arguments: dict[str, Any] = {"operators": options} if isinstance(options, tuple) else asdict(options)
    arguments["argv"] = sys.argv[1:]

    def call(watch: Watch) -> Report:
        if isinstance(options, tuple):
            from attn.core.bench import selftest

            return selftest.run(options, watcher=watch, arguments=arguments)
        if isinstance(options, KernelOptions):
            from attn.core.bench import kernel_table

            return kernel_table.run(options.targets, watcher=watch, arguments=arguments)
        if options.inside.model is not None:
            from attn.core.bench.in_model.run import run as inside

            return inside(options, watcher=watch, arguments=arguments)
        from attn.core.bench.run import run

        return run(options, watcher=watch, arguments=arguments)

    left = options if isinstance(options, tuple) else getattr(options, "operators", ())
    report = watched("bench", call, arguments, left, reporting)
    show(report, reporting)
    raise typer.Exit(report.exit_code)
