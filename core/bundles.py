"""The options that serve every command, each stated once, in bundles that a command's options take in whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from .errors import UsageError
from .memory import VARIABLE, parse_budget
from .options import Option, check

AsJson = Annotated[bool, Option("Print one JSON document on stdout and nothing else.", name="--json", common=True)]
Device = Annotated[
    str,
    Option("auto, cpu, cuda, cuda:N or mps.", metavar="DEVICE", env="ATTN_DEVICE", resumable=True, common=True),
]  # fmt: skip
Dtype = Annotated[str, Option("float32 or float64.", metavar="DTYPE", common=True)]
Seed = Annotated[int, Option("Seed of everything random.", metavar="N", least=0, most=2**32 - 1, common=True)]
Threads = Annotated[
    int | None,
    Option(
        "CPU threads per process.",
        metavar="N", least=1, most=1024, env="ATTN_THREADS", shown="all cores", resumable=True, common=True,
    ),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a batch reads, and where its results go.

    Parameters
    ----------
    inputs : tuple of str
        Files, directories, glob patterns, ``-`` (paths on standard input) or ``example:NAME``.
    output : str or None
        A directory; with one input, a name with a suffix the command writes: the result itself. None: beside the input.
    nul : bool
        The list on standard input is separated by NUL.

    Raises
    ------
    UsageError
        If nothing is named.
    """

    NOTHING: ClassVar[str] = "Name files, directories, or - for a list on stdin."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Files, directories, - for a list of paths on stdin, or example:NAME.", metavar="INPUT", positional=True
        ),
    ] = ()
    output: Annotated[
        str | None,
        Option(
            "Directory for the results; with one input, NAME with an image's suffix is the result.",
            short="-o", metavar="PATH",
        ),
    ] = None  # fmt: skip
    nul: Annotated[
        bool,
        Option(
            "The list on stdin is separated by NUL, as find -print0 writes it.",
            name="--null", short="-0", common=True,
        ),
    ] = False  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if not self.inputs:
            raise UsageError(f"nothing to read. {self.NOTHING}")


@dataclass(frozen=True, slots=True)
class Reporting:
    """How a command tells what it came to.

    Parameters
    ----------
    as_json : bool
        One JSON document on standard output and nothing else.
    report_file : Path or None
        Where the report is written too, by suffix.
    quiet, verbose : bool
    """

    as_json: AsJson = False
    report_file: Annotated[
        Path | None,
        Option("Write the report too: .json, .csv, .md or .html.", name="--report", metavar="FILE", common=True),
    ] = None
    quiet: Annotated[bool, Option("Print errors only.", short="-q", common=True)] = False
    verbose: Annotated[bool, Option("Say more; show where a failure came from.", short="-v", common=True)] = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What one input may take.

    Parameters
    ----------
    max_memory : int or None
        Bytes; None: half of the machine's.
    """

    max_memory: Annotated[
        int | None,
        Option(
            "Memory that one input may take, such as 4g; what would take more is refused before it is read.",
            metavar="SIZE", env=VARIABLE, parse=parse_budget, shown="half of the machine's", common=True,
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and how a computation runs.

    Parameters
    ----------
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
    seed : int
        Of everything random.
    threads : int or None
        CPU threads; None: all cores.
    """

    device: Device = "auto"
    seed: Seed = 77
    threads: Threads = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a batch runs.

    Parameters
    ----------
    overwrite : bool
        Do outputs again that already exist.
    threads : int or None
        CPU threads per process; None shares the cores among the workers.
    workers : int
        Processes on this machine; 1 runs in this process.
    cluster : str or None
        Address of a running dask scheduler, e.g. ``tcp://host:8786``.
    item_timeout : float or None
        Seconds after which a file is given up (its worker is restarted).
    connect_timeout : float
        Seconds within which the scheduler at ``cluster`` must answer.
    """

    overwrite: Annotated[bool, Option("Do outputs again that exist already.", common=True)] = False
    threads: Threads = None
    workers: Annotated[
        int,
        Option("Processes on this machine.", metavar="N", least=1, most=1024, env="ATTN_WORKERS", common=True),
    ] = 1
    cluster: Annotated[
        str | None,
        Option("Run on a dask.distributed scheduler, e.g. tcp://host:8786.", metavar="ADDRESS", common=True),
    ] = None
    item_timeout: Annotated[
        float | None, Option("Give a file up after so long.", metavar="SECONDS", least=1.0, common=True)
    ] = None
    connect_timeout: float = 10.0

    def __post_init__(self) -> None:
        check(self)

    @property
    def distributed(self) -> bool:
        return self.workers > 1 or self.cluster is not None or self.item_timeout is not None
