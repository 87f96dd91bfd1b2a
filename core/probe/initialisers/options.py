"""What `attn probe initialisers` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...bundles import Placement, Seed
from ...command import Verb
from ...errors import did_you_mean
from ...filters import INITIALISERS
from ...options import Option, OptionError, check

COMPARED = ("torch-default", "normal", "lecun", "xavier", "he", "orthogonal", "lsuv", "gabor", "zca-kmeans")


def parse_initialisers(text: str) -> tuple[str, ...]:
    """``he,lsuv`` as names; ``all``: every one. Raises ``ValueError`` for none."""
    names = tuple(INITIALISERS) if text == "all" else tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ValueError("no initialiser; give some as he,lsuv, or all")
    return names


@dataclass(frozen=True, slots=True)
class InitialisersOptions:
    """Which start values, on which network, for how long.

    Parameters
    ----------
    initialisers : tuple of str
        Of ``core.filters.INITIALISERS``.
    output : str or None
        A directory.
    seeds, steps, batch, layers, width : int
    rate : float
        Of stochastic gradient descent with a momentum of 0.9: the same for all.
    goal : float
        Accuracy, the steps to which are counted.
    seed : int
        The first of the seeds.
    placement : Placement
        A worker takes an initialiser.
    """

    initialisers: Annotated[
        tuple[str, ...],
        Option(
            "Start values, as attn train --init has them, or all.",
            name="--init", metavar="NAME[,...]", parse=parse_initialisers, text=",".join(COMPARED),
        ),
    ] = COMPARED  # fmt: skip
    output: Annotated[str | None, Option("Directory for the results.", short="-o", metavar="DIR", shown=".")] = None
    seeds: Annotated[
        int, Option("Runs of each, with start values and pictures of their own.", metavar="N", least=1)
    ] = 3
    steps: Annotated[int, Option("Steps of each run.", metavar="N", least=1)] = 200
    batch: Annotated[int, Option("Pictures a step.", metavar="N", least=1)] = 32
    layers: Annotated[int, Option("Convolutions of the network.", metavar="N", least=1, most=200)] = 10
    width: Annotated[int, Option("Channels of each.", metavar="N", least=1)] = 16
    rate: Annotated[float, Option("Learning rate, the same for all.", metavar="RATE", above=0)] = 0.01
    goal: Annotated[float, Option("Accuracy, the steps to which are counted.", metavar="A", above=0, most=1)] = 0.5
    seed: Seed = 0
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        for name in self.initialisers:
            if name not in INITIALISERS:
                hint = did_you_mean(name, INITIALISERS) or f"There are {', '.join(INITIALISERS)}."
                raise OptionError(f"{{initialisers}}: no initialiser named {name!r}. {hint}")


KIND = Verb(
    options=InitialisersOptions,
    run="attn.core.probe.initialisers.run:run",
    description="""See which start values train a plain convolutional network fastest, on drawn pictures.

    Trains the same network from each of the start values that attn train --init has, with several seeds and one
    schedule, and reports the loss after 1, 10, 100, ... steps, the steps to an accuracy, and which runs failed.
    """,
    examples=(
        ("attn probe initialisers -o out/", "Nine of them, three seeds each: about a minute on one core."),
        ("attn probe initialisers --init he,lsuv,orthogonal --layers 20 --steps 500 -o out/", "Deeper and longer."),
    ),
    files=(
        ("DIR/initialisers.png, initialisers.npz, initialisers.json", "Curves of all, what they are made of, facts."),
        ("DIR/init-NAME.png, .npz, .json", "Of one of them; a later run reads it again."),
    ),
    notes=(
        "The network has no normalisation and no shortcuts: with those, start values hardly matter. The rate is the "
        "same for all, so one that likes a larger rate may look slow: try --rate.",
        "Pictures are windows of drawn scenes with one shape, its colour is the class; every seed has pictures of its "
        "own, the same for all start values. Accuracy is that of 256 pictures that are not trained on.",
        "A run failed where its loss is no number, or has not fallen by a hundredth from that of guessing.",
    ),
    columns=("loss_1", "loss_10", "loss_100", "loss_last", "accuracy", "steps_to_goal", "failures"),
)
