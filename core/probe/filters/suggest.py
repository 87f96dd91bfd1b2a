"""What could be made otherwise, in words; nothing is ever changed.

Specification: methods/filter-design.md, section 3.7, step 21.
"""

from __future__ import annotations

from .activations import EXPLODES, VANISHES
from .statistics import FilterStatistics

SEPARABLE = 0.95
CENTRAL = 0.95
LOW_RANK = 0.25


def suggestions(
    kernel: tuple[int, ...], found: FilterStatistics, seen: dict[str, float] | None = None, *, grouped: bool = False
) -> list[str]:
    """Of one layer.

    Parameters
    ----------
    kernel : tuple of int
        Its sides.
    found : FilterStatistics
    seen : dict, optional
        Its numbers on pictures, see ``activations``.
    grouped : bool
        The filters of a group see other channels than those of the next: that two are alike says nothing.
    """
    said = []
    separable, central = float(found.separability.mean()), float(found.centre_energy.mean())
    side = kernel[0] if len(kernel) == 2 and kernel[0] == kernel[1] else 0
    if len(kernel) == 2 and separable > SEPARABLE:
        high, wide = kernel
        share = (high + wide) / (high * wide)
        said.append(
            f"kernels are nearly products of a column and a row ({separable:.2f} of their energy): {high} x 1 and "
            f"1 x {wide} would take {share:.0%} of the weights"
        )
    if side >= 5 and central > CENTRAL:
        said.append(f"{central:.0%} of the energy is in the central 3 x 3: 3 x 3 kernels would do ({9 / side**2:.0%})")
    if dead := int(found.dead.sum()):
        said.append(f"{dead} of {len(found.dead)} filters are next to nothing (by weights): they can be taken out")
    if found.duplicates and not grouped:
        said.append(f"{found.duplicates} filters say what another one says (cosine above 0.99): they can be merged")
    possible = min(len(found.filter_norm), found.fan_in)
    if possible > 1 and not grouped and found.effective_rank < LOW_RANK * possible:
        said.append(
            f"effective rank {found.effective_rank:.3g} of {possible}: fewer filters, or a product of two narrow layers"
        )
    if seen is not None:
        if seen["dead_on_data"] > 0:
            said.append(f"{seen['dead_on_data']:.0f} channels are 0 behind the ReLU on these pictures: dead, or rare")
        if seen["variance_ratio"] > EXPLODES or seen["variance_ratio"] < VANISHES:
            grows = "grows" if seen["variance_ratio"] > EXPLODES else "shrinks"
            said.append(f"the variance of its output {grows} to {seen['variance_ratio']:.3g} of the layer before")
    return said


def narrow_field(field: float, wanted: int) -> str:
    """What to say where the last layer sees less than the objects; empty where it sees enough, or nobody knows."""
    if field >= wanted or field != field:
        return ""
    return f"the last layer sees {field:.0f} pixels, objects have {wanted}: more stride or dilation, or more layers"
