"""What the kinds of `attn probe` that know drawn pictures look at: files, or a source such as ``shapesx24``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..bundles import Inputs
from ..options import Option, OptionError

SCENES = "shapes"
"""How a source of drawn pictures begins."""


@dataclass(frozen=True, slots=True)
class DrawnInputs(Inputs):
    """Pictures, or drawn ones.

    Raises
    ------
    OptionError
        If a source of drawn pictures does not stand alone.
    """

    NOTHING: ClassVar[str] = "Name pictures, directories, - for a list on stdin, example:photo, or shapesx100."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Pictures, directories, - for a list of paths on stdin, or example:NAME. Or shapes[:SEED]xN alone: drawn "
            "pictures of what the models that ship know.",
            metavar="INPUT", positional=True,
        ),
    ] = ()  # fmt: skip

    def __post_init__(self) -> None:
        Inputs.__post_init__(self)
        if self.scenes and len(self.inputs) > 1:
            raise OptionError(f"{self.scenes}: drawn pictures stand alone. Look at others in a run of their own.")

    @property
    def scenes(self) -> str:
        """The source of drawn pictures, where there is one among the inputs; else empty."""
        from ..prune.data.drawn import is_drawn

        return next((name for name in self.inputs if name.startswith(SCENES) and is_drawn(name)), "")
