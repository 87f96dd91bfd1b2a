"""Phantoms by name, as users type them: ``phantom:KIND``, ``phantom:KIND:SEED``, ``phantom:KIND:SEEDxSLICES``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ...errors import UsageError, did_you_mean
from .phantom import KINDS, Phantom

SCHEME = "phantom"
MOST_SLICES = 512
MOST_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class PhantomName:
    """What a name stands for.

    Parameters
    ----------
    kind : str
        One of `attn.core.denoise.phantoms.phantom.KINDS`.
    seed : int
        Of the anatomy.
    slices : int or None
        Of a series, 2.5 mm apart; None: one slice.
    """

    kind: str
    seed: int = 0
    slices: int | None = None

    def __str__(self) -> str:
        return f"{SCHEME}:{self.kind}:{self.seed}" + ("" if self.slices is None else f"x{self.slices}")

    @property
    def stems(self) -> list[str]:
        """What its files are called, one a slice."""
        stem = str(self).replace(":", "-")
        if self.slices is None:
            return [stem]
        return [f"{stem}-{z + 1:0{len(str(self.slices))}}" for z in range(self.slices)]

    def draw(self) -> Phantom:
        """The phantom, with the geometry that `draw_slice` and `draw_series` have by themselves; not to be changed."""
        return _drawn(self)


@lru_cache(maxsize=1)  # who has written it measures on it next
def _drawn(name: PhantomName) -> Phantom:
    from .single import draw_slice
    from .stack import draw_series

    if name.slices is None:
        return draw_slice(name.kind, name.seed)
    return draw_series(name.kind, name.seed, slices=name.slices)


def parse_phantom(text: str) -> PhantomName:
    """The phantom that ``text`` names. Raises ``UsageError`` in one line for anything else."""
    scheme, _, rest = text.partition(":")
    kind, colon, number = rest.partition(":")
    if scheme != SCHEME or kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise UsageError(f"{text}: no such phantom. {hint} There are: {', '.join(KINDS)}.".replace("  ", " "))
    if not colon:
        return PhantomName(kind)
    match = re.fullmatch(r"([0-9]{1,10})(?:x([0-9]{1,4}))?", number, re.ASCII)
    seed = int(match[1]) if match else -1
    if match is None or seed > MOST_SEED:
        raise UsageError(
            f"{text}: {number!r} is no seed. Use a whole number up to {MOST_SEED}, such as {SCHEME}:{kind}:3, or with "
            f"the slices of a series {SCHEME}:{kind}:3x7."
        )
    slices = None if match[2] is None else int(match[2])
    if slices is not None and not 2 <= slices <= MOST_SLICES:
        raise UsageError(f"{text}: a phantom series has 2 to {MOST_SLICES} slices, not {slices}.")
    return PhantomName(kind, seed, slices)
