"""What `attn probe icl` can be told, and its registry entry."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ...bundles import Device, Placement, Seed
from ...command import Verb
from ...options import Option, OptionError, check
from ...sizes import parse_sizes

LINEAR = "linear"
NETWORKS = ("4", "1", LINEAR)
MOST = 16
"""Heads of a network."""


def parse_networks(text: str) -> tuple[str, ...]:
    """``4,1,linear`` as names. Raises ``ValueError`` for anything else."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name != LINEAR and not (name.isdecimal() and 1 <= int(name) <= MOST and name == str(int(name))):
            raise ValueError(f"{name!r} is neither a number of heads from 1 to {MOST} nor {LINEAR}. Give some as 4,1.")
    return names


def parse_variances(text: str) -> tuple[float, ...]:
    """``0.3,1,2`` as positive numbers. Raises ``ValueError`` for anything else."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(0 < value < math.inf for value in values):
        raise ValueError(f"{text!r} is no list of positive variances, as 0.3,1,2.")
    return values


@dataclass(frozen=True, slots=True)
class IclOptions:
    """Which networks learn which regression, and how their circuits are judged.

    Parameters
    ----------
    networks : tuple of str or None
        Numbers of heads of softmax attention, or ``linear``: one head of linear attention. None: ``NETWORKS``; of
        ``weights``, softmax.
    output : str or None
        A directory.
    weights : Path or None
        Networks that are probed instead of trained: NPZ with KQ and OV, or K, Q, V and O.
    known : bool
        Check the tools on circuits that are known, instead.
    dim, length, noise, tasks
        See ``Problem``.
    variances : tuple of float
        Of the covariates: one for all, or one for each.
    lengths : tuple of int or None
        Where errors are measured, beside ``length``. None: a quarter, a half, twice and four times of it.
    prompts : int
        Errors are measured on, at each length.
    steps, batch : int
    rate, init_std : float
    factored, paired_init, attend_query : bool
        See ``InContextHeads``.
    seeds, seed : int
        How many networks of each, and the first one's seed.
    device : str
    placement : Placement
        A worker takes a kind of network.
    """

    networks: Annotated[
        tuple[str, ...] | None,
        Option(
            "Networks to train: numbers of heads, or linear (one head of linear attention).",
            name="--heads", metavar="N[,...]", parse=parse_networks, shown=",".join(NETWORKS),
        ),
    ] = None  # fmt: skip
    output: Annotated[str | None, Option("Directory for the results.", short="-o", metavar="DIR", shown=".")] = None
    weights: Annotated[
        Path | None,
        Option("Probe these instead of training: NPZ with KQ and OV, or K, Q, V and O.", metavar="FILE"),
    ] = None
    known: Annotated[bool, Option("Check attn's own tools on circuits whose answers are known, and train nothing.")] = (
        False
    )
    dim: Annotated[int, Option("Covariates.", metavar="N", least=2, most=64)] = 5
    length: Annotated[int, Option("Examples of a prompt.", metavar="N", least=2, most=4096)] = 40
    noise: Annotated[float, Option("Variance of the labels' noise.", metavar="V", least=0, most=100)] = 0.1
    tasks: Annotated[
        int, Option("Regressions at once, each on a part of the covariates of its own.", metavar="N", least=1, most=64)
    ] = 1
    variances: Annotated[
        tuple[float, ...],
        Option(
            "Variances of the covariates: one for all, or one for each.",
            metavar="V[,V...]", parse=parse_variances, text="1",
        ),
    ] = (1.0,)  # fmt: skip
    lengths: Annotated[
        tuple[int, ...] | None,
        Option(
            "Lengths that errors are measured at, beside that of the training.",
            metavar="N[,N...]", parse=parse_sizes, shown="1/4, 1/2, 2 and 4 times it",
        ),
    ] = None  # fmt: skip
    prompts: Annotated[
        int, Option("Prompts that errors are measured on, at each length.", metavar="N", least=100, most=10**6)
    ] = 20_000
    steps: Annotated[int, Option("Steps of Adam.", metavar="N", least=1, resumable=True)] = 20_000
    batch: Annotated[int, Option("Prompts a step.", metavar="N", least=1, most=2**16)] = 256
    rate: Annotated[float, Option("Learning rate.", metavar="RATE", above=0)] = 3e-3
    init_std: Annotated[float, Option("Deviation of the start values.", metavar="X", above=0, most=10)] = 0.1
    factored: Annotated[bool, Option("Learn K, Q, V and O instead of their products.")] = False
    paired_init: Annotated[bool, Option("Start every second head as the one before it, negated.")] = False
    attend_query: Annotated[bool, Option("Let the query attend to itself, too.")] = False
    seeds: Annotated[int, Option("Networks of each, side by side.", metavar="N", least=1, most=256)] = 3
    seed: Seed = 0
    device: Device = "auto"
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        if self.networks is not None:
            parse_networks(",".join(self.networks) or "none")
        if self.tasks > self.dim:
            raise OptionError(
                f"{{tasks}}: {self.tasks} tasks cannot share {self.dim} covariates. Give a larger {{dim}}."
            )
        if len(self.variances) not in (1, self.dim):
            raise OptionError(
                f"{{variances}}: {len(self.variances)} variances of {self.dim} covariates ({{dim}}). Give one for "
                "each, or one for all."
            )
        if not all(0 < value < math.inf for value in self.variances):
            raise OptionError("{variances}: they are positive numbers.")
        if self.lengths is not None and not all(2 <= length <= 2**16 for length in self.lengths):
            raise OptionError("{lengths}: a prompt has 2 to 65536 examples.")
        if self.paired_init and not any(name not in ("1", LINEAR) for name in self.trained):
            raise OptionError("{paired_init}: no network has two heads to pair. Name one in {networks}.")
        self._check_unread()

    def _check_unread(self) -> None:
        """Refuse what would be of no effect where nothing is trained."""
        if self.weights is None and not self.known:
            return
        why = "{known}: the circuits are built" if self.known else "{weights}: these are probed"
        kept = PLACE if self.known else PLACE | PROBED
        for entry in dataclasses.fields(self):
            if entry.name not in kept and getattr(self, entry.name) != entry.default:
                raise OptionError(f"{why}, so {{{entry.name}}} would do nothing. Leave it out.")
        if not self.known and len(self.networks or ()) > 1:
            raise OptionError("{networks}: of weights from a file, give linear where they are of linear attention.")

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the networks."""
        return NETWORKS if self.networks is None else self.networks

    @property
    def measured_lengths(self) -> tuple[int, ...]:
        """All lengths that errors are measured at, ascending."""
        own = self.length
        others = (own // 4, own // 2, 2 * own, 4 * own) if self.lengths is None else self.lengths
        return tuple(sorted({own, *(length for length in others if length >= 2)}))


PLACE = frozenset({"known", "seed", "device", "placement"})
PROBED = frozenset(
    {
        "output",
        "networks",
        "weights",
        "dim",
        "length",
        "noise",
        "tasks",
        "variances",
        "lengths",
        "prompts",
        "attend_query",
    }
)
"""Options that count where weights are given."""

KIND = Verb(
    options=IclOptions,
    run="attn.core.probe.icl.run:run",
    description="""See what attention learns on linear regression in its context, and hold it against theory.

    Trains networks of one attention layer on prompts of examples (x, y) and a query x, several seeds at once, and
    reports the circuit in their matrices (heads that are +/- multiples of the identity, and add up to one debiased step
    of gradient descent), and errors at several lengths beside those of gradient descent, ridge regression (Bayes), the
    best single head, and linear attention.
    """,
    examples=(
        ("attn probe icl -o out/", "Four heads, one head, linear attention, three seeds each: a few minutes."),
        ("attn probe icl --heads 2 --seeds 16 --steps 5000 -o two/", "How often two heads find the circuit."),
        ("attn probe icl --heads 4 --variances 0.3,0.7,1.1,1.5,2 -o skew/", "Is KQ the preconditioner of theory?"),
        ("attn probe icl --heads 2,3,4 --tasks 2 --dim 6 -o shared/", "Heads that two tasks must share."),
        ("attn probe icl --weights out/icl-4.npz --noise 0.5", "Trained networks on noisier labels."),
        ("attn probe icl --known", "Do attn's own tools find what is known to be there?"),
    ),
    files=(
        ("DIR/icl.png, icl.npz, icl.json", "Errors of all networks, what the figure is made of, facts."),
        ("DIR/icl-N.png, .npz, .json", "Of one kind of network: matrices KQ and OV of every seed, errors, dynamics."),
        ("DIR/icl-N/", "The run: checkpoint, and metrics.jsonl with every head at every evaluation."),
    ),
    notes=(
        "The pattern is called present where the blocks of KQ are multiples of the identity (of the preconditioner, "
        "where variances differ), heads that count have one size, both signs, the sign of their OV, and OVs that add "
        "up to nothing and read labels alone, and the error is within 5% of debiased gradient descent's risk. A head "
        "counts whose |omega| is above a tenth of the largest.",
        "Two heads often take one sign and stay on the single head's solution: reported, not mended. --paired-init "
        "starts on the other side.",
        "The weights are the last of the run, not its best. A run that is killed goes on from its last evaluation.",
        "--known ends with exit code 3 where a tool is wrong.",
    ),
    columns=("mse", "mse_spread", "risk_dgd", "mse_ridge", "eta", "zero_sum", "pattern", "seeds", "checks", "wrong"),
)
