"""``CenterPeriphery``, the refinement of any list of feature maps, and ``wrap``, which puts it behind a module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .prototypes import Prototypes
from .refine import Fusion, centre, fuse, periphery


class CenterPeriphery(nn.Module):
    """PPR and NCM on every level of a list of feature maps; the identity until prototypes are loaded.

    Computed in float32, returned in the maps' own dtype. Learned: ``gamma_front`` and ``gamma_back``, through softplus.

    Parameters
    ----------
    ppr, ncm : bool
        Which of the two are on. Without one, its mask is empty: with ``fusion="paper"`` all that the other does not
        take becomes 0.
    threshold_front, threshold_back : float
        Least cosines, in [-1, 1].
    gamma_front, gamma_back : float
        Their start values, above 0.
    temperature : float
        Of the weights of classes. At 1 they are almost uniform; 0.1 tells them apart.
    fusion : {"keep", "paper"}
    exclusive : bool
        See ``refine.fuse``.
    """

    def __init__(
        self, *, ppr: bool = True, ncm: bool = True, threshold_front: float = 0.75, threshold_back: float = 0.75,
        gamma_front: float = 1.0, gamma_back: float = 0.5, temperature: float = 1.0, fusion: Fusion = "keep",
        exclusive: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(gamma_front, gamma_back, temperature) <= 0:
            raise ValueError("gammas and temperature are above 0")
        if fusion not in ("keep", "paper"):
            raise ValueError(f"no fusion named {fusion!r}: keep or paper")
        self.ppr, self.ncm = ppr, ncm
        self.threshold_front, self.threshold_back, self.temperature = threshold_front, threshold_back, temperature
        self.fusion, self.exclusive = fusion, exclusive
        self.raw_front = nn.Parameter(torch.tensor(_inverse_softplus(gamma_front)))
        self.raw_back = nn.Parameter(torch.tensor(_inverse_softplus(gamma_back)))
        self.levels = 0
        self.shares: dict[str, float] = {}
        """Of the newest maps: shares of cells in the ``front``, in the ``back``, in ``both`` and in ``none``."""

    @property
    def gamma_front(self) -> Tensor:
        return F.softplus(self.raw_front)

    @property
    def gamma_back(self) -> Tensor:
        return F.softplus(self.raw_back)

    def load(self, prototypes: Prototypes) -> None:
        """Take prototypes, as buffers."""
        device = self.raw_front.device
        self.levels = len(prototypes.foreground)
        self.register_buffer("known", prototypes.known.to(device))
        for level, (front, back) in enumerate(zip(prototypes.foreground, prototypes.background, strict=True)):
            self.register_buffer(f"foreground_{level}", front.detach().float().to(device))
            self.register_buffer(f"background_{level}", back.detach().float().to(device))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Refined maps, [B, C, h, w] of each level. Raises ``ValueError`` where they do not fit the prototypes."""
        if not self.levels:
            return list(maps)
        if len(maps) != self.levels:
            raise ValueError(f"prototypes are of {self.levels} feature maps, the module yields {len(maps)}")
        refined, counts = [], torch.zeros(4, dtype=torch.float64)
        for level, features in enumerate(maps):
            front_rows, back_row = self.get_buffer(f"foreground_{level}"), self.get_buffer(f"background_{level}")
            if features.ndim != 4 or features.shape[1] != len(back_row):
                raise ValueError(f"level {level} is {list(features.shape)}, prototypes have {len(back_row)} channels")
            with torch.autocast(features.device.type, enabled=False):
                f = features.float()
                front = centre(
                    f, front_rows, gamma=self.gamma_front, threshold=self.threshold_front,
                    temperature=self.temperature, known=self.get_buffer("known"),
                ) if self.ppr else None  # fmt: skip
                back = (
                    periphery(f, back_row, gamma=self.gamma_back, threshold=self.threshold_back) if self.ncm else None
                )
                fused = fuse(f, front, back, fusion=self.fusion, exclusive=self.exclusive)
            refined.append(fused.to(features.dtype))
            nothing = torch.zeros_like(f[:, 0])
            a, b = front.mask if front else nothing, back.mask if back else nothing
            found = torch.stack([a.sum(), b.sum(), (a * b).sum(), ((1 - a) * (1 - b)).sum()])
            counts += found.double().cpu()
        cells = sum(f.shape[0] * f.shape[2] * f.shape[3] for f in maps)
        self.shares = dict(zip(("front", "back", "both", "none"), (counts / max(1, cells)).tolist(), strict=True))
        return refined


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))


def wrap(model: nn.Module, refinement: nn.Module, after: str = "backbone") -> RemovableHandle:
    """Refine the feature maps that a part of ``model`` yields.

    Parameters
    ----------
    model : Module
    refinement : Module
        Called with the list of maps; usually a ``CenterPeriphery``. Its parameters stay its own: give them to the
        optimizer.
    after : str
        Dotted name of the part. It yields a map [B, C, h, w], or lists, tuples and mappings of them, in which all else
        (masks, positions) is left alone; of an output with ``feature_maps`` these alone are taken.

    Returns
    -------
    RemovableHandle
        Its ``remove()`` takes the refinement out again.

    Raises
    ------
    ValueError
        If there is no such part; on use, if it yields no map, or other ones than the prototypes were made of.
    """
    try:
        part = model.get_submodule(after)
    except AttributeError:
        raise ValueError(f"{type(model).__name__} has no part named {after!r}") from None

    def refine(_: nn.Module, __: Any, output: Any) -> Any:
        content = output.feature_maps if hasattr(output, "feature_maps") else output
        maps = feature_maps(content)
        if not maps:
            raise ValueError(f"{after} of {type(model).__name__} yields no feature map [B, C, h, w]")
        replaced = _with_maps(content, iter(refinement(maps)))
        if content is output:
            return replaced
        return type(output)(**{**output, "feature_maps": replaced})

    return part.register_forward_hook(refine)


def feature_maps(content: Any) -> list[Tensor]:
    """All maps in lists, tuples and mappings, in order."""
    if isinstance(content, Tensor):
        return [content] if content.ndim == 4 and content.is_floating_point() else []
    if isinstance(content, Mapping):
        content = list(content.values())
    return [found for part in content for found in feature_maps(part)] if isinstance(content, list | tuple) else []


def _with_maps(content: Any, maps: Any) -> Any:
    """``content`` with its maps replaced by the next ones."""
    if isinstance(content, Tensor):
        return next(maps) if feature_maps(content) else content
    if isinstance(content, Mapping):
        copied: Any = type(content)
        return copied({name: _with_maps(part, maps) for name, part in content.items()})
    if isinstance(content, list | tuple):
        parts = [_with_maps(part, maps) for part in content]
        return type(content)(*parts) if hasattr(content, "_fields") else type(content)(parts)
    return content
