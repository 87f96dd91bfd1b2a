"""What `attn probe codebook` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ...bundles import Device, Seed
from ...command import Verb
from ...options import Option, check


@dataclass(frozen=True, slots=True)
class CodebookProbeOptions:
    """An agent or recorded probabilities, and how much is looked at.

    Parameters
    ----------
    source : Path
        A model file of `attn train codebook`, or an NPZ.
    output : str or None
        Folder of the figure, or its name (.png).
    episodes : int
        Of the environment's planner, whose views the agent's codebook reads; of no meaning to an NPZ.
    device : str
    seed : int
    """

    source: Annotated[
        Path, Option("A model.safetensors of attn train codebook, or an .npz.", metavar="CKPT", positional=True)
    ]  # fmt: skip
    output: Annotated[
        str | None, Option("Folder of the figure, or its name (.png).", short="-o", metavar="PATH")
    ] = None  # fmt: skip
    episodes: Annotated[int, Option("Episodes whose views are read; not of an NPZ.", metavar="N", least=4)] = 200
    device: Device = "auto"
    seed: Seed = 42

    def __post_init__(self) -> None:
        check(self)


KIND = Verb(
    options=CodebookProbeOptions,
    run="attn.core.probe.codebook.run:run",
    description="""Show what the codes of an agent's bottleneck are used for.

    Of an agent that attn train codebook made: the environment's planner walks drawn rooms, and the agent's codebook
    reads what is seen on the way, dropout off. How many codes are used, which are dead, what views and goals each is
    for, and how well the target in view and the clutter around it can be read from what comes in and what goes on.
    Of an NPZ with probabilities of any codebook: the same but for that reading, without any environment.
    """,
    examples=(
        ("attn probe codebook run/model.safetensors -o out/", "Writes out/model.codebook.png, .npz, .json."),
        ("attn probe codebook probs.npz -o out/", "Probabilities of your own agent."),
        ("attn probe codebook run/model.safetensors --episodes 500 --report codes.html", "More views; a page of HTML."),
    ),
    files=(
        ("NAME.codebook.png", "Usage of codes, codes by goals, and the views that the most used codes stand for."),
        (
            "NAME.codebook.npz",
            "usage, winners [codes], by_goal [codes, goals], top [shown], views [shown, 5, H, W, 3].",
        ),
        ("NAME.codebook.json", "How the figure was made and its tables: attn probe redraw makes it again."),
    ),
    notes=(
        "An NPZ holds probs [frames, codes], rows that sum to 1; if it likes, goals [frames], whole numbers from 0; "
        "codes [codes, width]; images [frames, H, W, 3], uint8.",
        "soft_perplexity: exp of the entropy of the mean; hard_perplexity: of the likeliest codes; mutual_information: "
        "nats that a frame tells of its codes, the number that matters: a softmax over many codes is usually diffuse. "
        "dead_hard: share of codes that are never the likeliest; dead_soft: of mean probability below 0.001 / codes.",
        "Read-outs are linear (ridge), fitted on every other episode and scored on the rest: target, balanced accuracy "
        "of whether the goal's thing is in view (0.5 is chance); clutter, R2 of how many other things are (0 is the "
        "mean). E is what comes to the codebook, E_hat what goes on, code the mix.",
        "Views are those of the planner's paths in rooms drawn for this command; some rooms may be of the training.",
    ),
    columns=("frames", "soft_perplexity", "hard_perplexity", "dead_hard", "mutual_information"),
)
