"""The `attn` command: a table of subcommands, each in a module of its own that is imported when it is used."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

import attn
from attn.core.fit.processes import processes_of_environment

from .interrupts import listen
from .lazy import EXIT_FAILED, EXIT_INTERRUPTED, SETTINGS, LazyGroup
from .say import say
from .streams import OutputLost, Streams

COMMANDS: dict[str, tuple[str, str]] = {
    "denoise": ("attn.cli.denoise", "Denoise CT and other grey images without training data."),
    "segment": ("attn.cli.segment", "Segment the retinal vessels of fundus photographs."),
    "prune": ("attn.cli.prune", "Find out which visual tokens a model can do without, on your own pictures."),
    "bench": ("attn.cli.bench", "Measure attention operators side by side: time, memory, exactness, scaling."),
    "probe": ("attn.cli.probe", "Look into models: what their attention does on your own pictures."),
    "retrieve": ("attn.cli.retrieve.main", "Find images and texts by meaning: index, search, evaluate."),
    "train": ("attn.cli.train", "Train models; every recipe resumes and keeps its best weights."),
    "methods": ("attn.cli.methods", "List the methods that are implemented."),
    "doctor": ("attn.cli.doctor", "Show versions, devices and optional parts, and how to get what is missing."),
    "man": ("attn.cli.man_command", "Write the man pages into a directory."),
}

EXIT_STATUS = (
    ("0", "All inputs are done, or were done before."),
    (
        "1",
        "At least one input failed; the others are done, and each failure is reported with its reason. Or a report, or "
        "standard output, could not be written.",
    ),
    ("2", "Usage error: an unknown option, method or value, or nothing to read."),
    ("3", "attn bench: an operator that claims to be exact was not, or --selftest found a difference."),
    ("130", "Interrupted. Finished outputs stay; the report says what was left."),
    ("141", "The reader of standard output went away, as `head` does."),
)
ENVIRONMENT = (
    ("ATTN_DEVICE", "Default of --device."),
    ("ATTN_THREADS", "Default of --threads."),
    ("ATTN_WORKERS", "Default of --workers."),
    ("NO_COLOR", "Set to anything: no colour on the terminal."),
    ("NUMBA_CACHE_DIR", "Where compiled CPU kernels are kept between runs."),
)
EXAMPLES = (
    ("attn denoise example:ct -o out/", "Denoise a CT slice that ships with an installed package."),
    ("attn segment example:retina -o out/", "Segment the vessels of a fundus photo that ships with a package."),
    ("attn bench --seq 128k", "Measure attention operators at 131072 tokens."),
    ("attn methods", "List what is implemented."),
)


class _Attn(LazyGroup):
    table = COMMANDS
    unlisted = frozenset({"man"})


app = typer.Typer(
    cls=_Attn,
    help="Published attention-guided methods on your own files.",
    no_args_is_help=True,
    **{**SETTINGS, "add_completion": True},
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"attn {attn.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the command."""
    listen()
    # torch's OpenMP threads spin while they wait: beside other load a small fit took 12 times as long as with this
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    streams = Streams()
    if not processes_of_environment().first:  # of those that torchrun started, the first speaks for all
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    code: Any = EXIT_FAILED
    try:
        app()
    except SystemExit as left:
        code = left.code or 0
    except OutputLost:
        pass  # told below
    except KeyboardInterrupt:
        say("attn: interrupted", err=True)
        streams.leave(EXIT_INTERRUPTED)
        os._exit(EXIT_INTERRUPTED)  # before the first file: nothing to tidy up, and threads of torch may hang an exit
    raise SystemExit(streams.leave(code))


if __name__ == "__main__":
    main()
