"""What every ``attn prune calibrate`` can be told; a calibration's own options take it in as a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ..bundles import Compute
from ..options import Option, check
from .options import ModelChoice


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Data, model, and where what is learned goes.

    Parameters
    ----------
    data : str
        Pictures and questions, see ``data.read_samples``; none of them may be evaluated on later.
    output : Path
        The file that is written.
    choice : ModelChoice
    samples : int or None
        How many of the data are used, drawn at random; None: all.
    compute : Compute
        Device, seed and threads.
    """

    data: Annotated[
        str,
        Option(
            "Pictures and questions to learn from: a folder of datasets, Parquet, JSONL, or shapes:TASKxN, which are "
            "drawn.",
            metavar="DATA", positional=True,
        ),
    ]  # fmt: skip
    output: Annotated[Path, Option("File to write.", short="-o", metavar="FILE")]
    choice: ModelChoice = field(default_factory=ModelChoice)
    samples: Annotated[int | None, Option("Use N of them, drawn at random.", metavar="N", least=1, shown="all")] = None
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
