"""What `attn train oat` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ...bundles import Compute
from ...command import Verb
from ...fit.options import (
    FILES,
    NOTES,
    EvaluateEvery,
    LearningRate,
    OutputFolder,
    TrainingOptions,
    Warmup,
    WeightDecay,
    check_warmup,
)
from ...options import Option, OptionError, check

SHELVES = "shelves"
"""What users type for drawn scenes."""


@dataclass(frozen=True, slots=True)
class OATOptions:
    """The scenes, the network, and the length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run.
    data : str
        ``shelves``, which are drawn, or a file of recorded paths (``recorded``).
    scenes, searchers : int
        Drawn shelves to learn from, and simulated searchers over each.
    judged : int
        Shelves of each test; an evaluation takes half as many. Of recorded paths a tenth of the scenes is the test.
    samples : int
        Paths that are drawn over each shelf of a test.
    positions : {"learned", "original"}
    compat : bool
        As the reference: row 3 is blank for original positions, and MultiMatch fills short paths.
    width, heads, layers, feed_forward
        See ``OATShape``.
    steps, warmup, batch : int
        Of AdamW; shelves per step.
    learning_rate, weight_decay : float
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    data: Annotated[
        str, Option("shelves, which are drawn; or people's paths, a file of JSON lines.", metavar="shelves|FILE")
    ] = SHELVES
    scenes: Annotated[int, Option("Drawn shelves to learn from.", metavar="N", least=1)] = 3000
    searchers: Annotated[int, Option("Simulated searchers over each shelf.", metavar="N", least=1)] = 4
    judged: Annotated[int, Option("Shelves of each test.", metavar="N", least=2, resumable=True)] = 100
    samples: Annotated[int, Option("Paths drawn over each shelf of a test.", metavar="N", least=1, resumable=True)] = (
        100
    )
    positions: Annotated[
        Literal["learned", "original"],
        Option("Of objects: a table that falls off with distance, or a sinusoid.", metavar="learned|original"),
    ] = "learned"
    compat: Annotated[
        bool,
        Option("As the reference: original positions leave row 3 blank; MultiMatch fills paths of one or two."),
    ] = False
    width: Annotated[int, Option("Of tokens; the paper's is 512.", metavar="N", least=8)] = 96
    heads: Annotated[int, Option("Of attention.", metavar="N", least=1)] = 4
    layers: Annotated[int, Option("Of encoder and decoder each; the paper has 4.", metavar="N", least=1)] = 2
    feed_forward: Annotated[int, Option("Width inside a layer; the paper's is 512.", metavar="N", least=1)] = 96
    steps: Annotated[int, Option(metavar="N", least=2, resumable=True)] = 1500
    warmup: Warmup = 50
    batch: Annotated[int, Option("Shelves per step.", metavar="N", least=1)] = 24
    learning_rate: LearningRate = 1e-3
    weight_decay: WeightDecay = 0.01
    evaluate_every: EvaluateEvery = 200
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.width % (2 * self.heads):
            raise OptionError(f"{{width}}: {self.width} is no multiple of twice the {self.heads} {{heads}}.")
        check_warmup(self.warmup, {"{steps}": self.steps})


RECIPE = Verb(
    options=OATOptions,
    run="attn.core.train.oat.run:train_oat",
    description="""Train a transformer over objects to search as a simulated searcher does, beside samplers.

    Draws shelves of covers, one of which is searched while others look like it, and the paths of a searcher whose rule
    is known. Learns the next fixation, then draws paths over shelves of known kinds, of layouts it has never seen and
    for targets of hues it has never seen, beside those of five samplers without a network and of another searcher.
    The default takes about seven minutes on one core.
    """,
    examples=(
        ("attn train oat -o run/", "The default, and its table."),
        ("attn train oat -o sinusoid/ --positions original", "The original positions instead of the learned table."),
        ("attn probe scanpath shelf:3 --model run/", "What was learnt, on a shelf."),
        ("attn train oat -o own/ --data people.jsonl", "Paths that people left over your own pictures."),
        ("attn train oat -o paper/ --width 512 --layers 4 --feed-forward 512", "The paper's sizes: hours."),
    ),
    files=FILES,
    notes=(
        "Columns of the table: ss: sequence score, common fixations in order over the longer path; fed: edit distance "
        "in fixations; mm_*: MultiMatch without grouping (mm_undefined: pairs with a path of one or two fixations, "
        "left out); nss: of the map of all drawn fixations; delta: mean relative difference of found, length, and "
        "shares of search, refixation and revisit; tfp_auc: how early the target is met; sim, nll: probability of the "
        "searchers' next fixation and its negative logarithm (nats), under teacher forcing, rule: that of the rule.",
        'Lines of --data: {"id": scene, "image": FILE, "boxes": [[x, y, w, h], ...], "target": 2, "fixations": '
        '[0, 2]}, objects numbered from 0; "rows" and "cols" instead of "boxes" for a grid that fills the picture. Of '
        "its scenes 80 % are for training and 10 % each for development and the test, by --seed; --scenes, "
        "--searchers and --judged are about drawn shelves alone.",
        "another searcher: the rule itself, with other numbers; no model can be expected above it.",
        "Each sampler draws objects it has not been at, until the target, with a strength fitted to the searchers of "
        "training; none is told the searcher's rule.",
        "No shelf of a test is in training, by hash of picture and target; the report says how many were compared.",
        "The best weights are those of the largest sim on shelves that are in no test.",
        *NOTES,
    ),
    columns=("known_ss", "layouts_ss", "targets_ss", "known_delta", "test_ss", "test_delta"),
)
