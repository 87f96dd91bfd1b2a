"""Which kernels there are and how each is built, as data: the compile tests and reports run over these tables.

Importing this file imports neither torch nor triton; ``kernels()`` imports the operators' files.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODULES = ("bilateral", "blocks", "guided", "halo", "hip", "lightning", "probing")
"""Files of this folder that define ``KERNELS``."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a wrapper launches a kernel.

    Parameters
    ----------
    label : str
        Distinguishes the variants of one kernel, as ``"c1-cell8"``.
    types : mapping of str to str
        Triton type of each run-time argument: ``"*fp32"``, ``"i32"``, ``"fp32"``. A suffix ``":16"`` promises an
        address or value divisible by 16, which the launcher finds out by itself (torch allocations always are).
    constants : mapping of str to object
        Value of each ``tl.constexpr`` argument.
    num_warps, num_stages : int
        As in the launch.
    options : mapping of str to object
        Further compiler options, such as ``waves_per_eu``.
    targets : tuple of str
        The chips the variant is for; empty means all.
    """

    label: str
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 1
    options: Mapping[str, Any] | None = None
    targets: tuple[str, ...] = ()

    def is_for(self, target: str) -> bool:
        """Whether the variant is launched on ``target``."""
        return not self.targets or target in self.targets


@dataclass(frozen=True, slots=True)
class Kernel:
    """A ``@triton.jit`` function and everything that is launched from it.

    Parameters
    ----------
    name : str
        Unique over all operators.
    function : triton JITFunction
        What ``@triton.jit`` returned.
    variants : tuple of Variant
        Labels are unique within the kernel.
    """

    name: str
    function: Any
    variants: tuple[Variant, ...]

    def __post_init__(self) -> None:
        labels = [variant.label for variant in self.variants]
        if not labels or len(set(labels)) != len(labels):
            raise ValueError(f"kernel {self.name}: variants need unique labels, got {labels}")

    def variant(self, label: str) -> Variant:
        """The variant of that label. Raises ``ValueError`` where there is none."""
        for variant in self.variants:
            if variant.label == label:
                return variant
        raise ValueError(f"kernel {self.name} has no variant {label!r}. Known: {[v.label for v in self.variants]}")


def kernels(modules: Sequence[str] = MODULES) -> dict[str, Kernel]:
    """All kernels by name, in the order of ``modules``. Raises ``ValueError`` when two share a name."""
    found: dict[str, Kernel] = {}
    for module in modules:
        for kernel in importlib.import_module(f"{__package__}.{module}").KERNELS:
            if kernel.name in found:
                raise ValueError(f"kernel {kernel.name!r} is registered twice")
            found[kernel.name] = kernel
    return found
