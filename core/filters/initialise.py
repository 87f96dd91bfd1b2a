"""One door to all initialisers: a module and a name in, what was done to each layer out.

Specification: methods/filter-design.md, sections 3.1-3.4 and 9. Ours: biases start at 0 (but under ``torch-default``);
offset layers of deformable convolutions start at 0 whatever the rule; grouped convolutions are orthogonal per group;
not here of section 3.4, step 12 (its options: ICA, sparse coding, auto-encoder, self-organising map).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ..errors import UsageError, did_you_mean
from . import INITIALISERS, NEEDS_IMAGES, structured
from .banks import bank, rescale
from .layers import CONVOLUTIONS, Layer, find_layers
from .learned import LEARNERS, learn_bank
from .lsuv import lsuv_
from .residual import residual_branches
from .rules import RULES, he_gain

Done = dict[str, str]
"""Layer -> what was done to it."""


@dataclass(frozen=True, slots=True)
class _Job:
    module: nn.Module
    name: str
    layers: list[Layer]
    generator: torch.Generator | None
    images: Tensor | None
    gain: float | None


def initialise(
    module: nn.Module, name: str, *, generator: torch.Generator | None = None, images: Tensor | None = None,
    gain: float | None = None,
) -> list[str]:  # fmt: skip
    """Give every convolution and linear layer of a module new start values, in place.

    Parameters
    ----------
    module : Module
        Normalisation layers, embeddings and other parameters are left alone (but for ``fixup`` and ``zero-gamma``).
        The first layer of the banks is the first convolution in the order of definition.
    name : str
        A key of ``attn.core.filters.INITIALISERS``.
    generator : Generator, optional
        Source of all random numbers; numbers are drawn on its device. Default: torch's own on the CPU.
    images : Tensor, shape (N, C, H, W), optional
        Prepared as for training. Needed by ``lsuv``, ``pca``, ``zca-kmeans`` and ``sanger``; ``lsuv`` runs the module
        on all of them at once.
    gain : float, optional
        Larger gain, larger weights. The standard deviation of ``normal``, ``trunc-normal`` and ``uniform`` (0.02);
        that of the outputs of ``lsuv`` (1); a factor elsewhere: 1 for lecun, xavier, orthogonal, delta-orthogonal and
        dirac, sqrt(2) for he and all that builds on it. A bank's filters have this norm.

    Returns
    -------
    list of str, one line per layer: ``"encoder.0.conv: he, std 0.0471, bias 0"``

    Raises
    ------
    UsageError
        For an unknown name, or one that needs images and got none.
    ValueError
        If the module has no layer for this initialiser (no residual branch, no pixel shuffle, more than one layer for
        ``zeros``), a kernel does not suit the bank, the patches are too few, or LSUV meets a dead layer.

    References
    ----------
    methods/filter-design.md, section 3; arXiv 2410.21644.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 1, 1))
    >>> initialise(net, "gabor")
    ['0: 8 filters from gabor, norm 1.41, bias 0', '2: he, std 0.5, bias 0']
    """
    if name not in INITIALISERS:
        hint = did_you_mean(name, INITIALISERS) or f"Known: {', '.join(INITIALISERS)}."
        raise UsageError(f"no initialiser named {name!r}. {hint}")
    if name in NEEDS_IMAGES and images is None:
        raise UsageError(f"{name} needs images to learn from: give some, or choose another initialiser.")
    if gain is not None and not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"gain is {gain}: it must be positive.")
    layers = find_layers(module)
    if name in ("torch-default", "zeros") and gain is not None:
        raise ValueError(f"{name} has no gain.")
    if name == "torch-default":
        return [f"{layer.name}: kept as it is" for layer in layers]
    job = _Job(module, name, [layer for layer in layers if not layer.is_offset], generator, images, gain)
    with torch.no_grad():
        done = _HOW[name](job)
        for layer in layers:
            if layer.is_offset:
                layer.write(layer.blank().zero_())
                done[layer.name] = "offsets, 0"
    return [f"{layer.name}: {done[layer.name]}, bias 0" for layer in layers]


def _random(job: _Job) -> Done:
    return {layer.name: _draw(job, layer, job.name) for layer in job.layers}


def _draw(job: _Job, layer: Layer, name: str) -> str:
    """Fill a layer by a rule of ``RULES``."""
    rule = RULES[name]
    layer.write(rule.draw(layer.blank(job.generator), *layer.fans, job.gain, job.generator))
    return f"{name}, std {rule.std(*layer.fans, job.gain):.3g}"


def _per_group(job: _Job, layer: Layer, make: Callable[[Tensor], Tensor]) -> None:
    """Fill a layer group by group: ``make`` gets memory of [O / G, C / G, *kernel] and returns the filters."""
    layer.write(torch.stack([make(group) for group in layer.blank(job.generator)]))


def _zeros(job: _Job) -> Done:
    if len(job.layers) > 1:
        raise ValueError(
            f"zeros: with all {len(job.layers)} layers at 0 nothing trains. Use it on the last layer alone, or choose "
            "zero-gamma for residual networks."
        )
    for layer in job.layers:
        layer.write(layer.blank().zero_())
    return {layer.name: "zeros" for layer in job.layers}


def _orthogonal(job: _Job) -> Done:
    gain = 1.0 if job.gain is None else job.gain
    for layer in job.layers:
        _per_group(job, layer, lambda group: structured.orthogonal(group, gain=gain, generator=job.generator))
    return {layer.name: f"orthogonal, gain {gain:.3g}" for layer in job.layers}


def _delta_orthogonal(job: _Job) -> Done:
    gain = 1.0 if job.gain is None else job.gain

    def delta(group: Tensor) -> Tensor:
        return structured.delta_orthogonal(
            group.shape[0], group.shape[1], group.shape[2:], gain=gain, generator=job.generator, dtype=group.dtype
        )

    done = {}
    for layer in job.layers:
        fits = layer.filters.shape[1] >= layer.filters.shape[2]
        _per_group(
            job, layer, delta if fits else lambda g: structured.orthogonal(g, gain=gain, generator=job.generator)
        )
        how = "delta-orthogonal" if fits else "orthogonal (fewer channels out than in)"
        done[layer.name] = f"{how}, gain {gain:.3g}"
    return done


def _dirac(job: _Job) -> Done:
    gain, done = 1.0 if job.gain is None else job.gain, {}
    for layer in job.layers:
        _per_group(
            job, layer, lambda group: structured.dirac(group.shape[0], group.shape[1], group.shape[2:], gain=gain)
        )
        groups, out, channels = layer.filters.shape[:3]
        done[layer.name] = f"dirac, {groups * min(out, channels)} of {groups * out} filters pass a channel on"
    return done


def _sparse(job: _Job) -> Done:
    gain = he_gain() if job.gain is None else job.gain
    for layer in job.layers:
        _per_group(job, layer, lambda group: structured.sparse(group, gain=gain, generator=job.generator))
    return {layer.name: f"sparse, at most 15 weights per filter, norm about {gain:.3g}" for layer in job.layers}


def _icnr(job: _Job) -> Done:
    factors: dict[int, int] = {}  # weight -> factor of the pixel shuffle that follows in the order of definition
    nearest: Layer | None = None
    by_module = {id(layer.module): layer for layer in job.layers}
    for part in job.module.modules():
        nearest = by_module.get(id(part), nearest)
        if isinstance(part, nn.PixelShuffle) and nearest is not None:
            factors[id(nearest.weight)] = part.upscale_factor
    if not factors:
        raise ValueError(f"icnr: {type(job.module).__name__} has no convolution before a pixel shuffle.")
    shuffled = [(layer, factors[id(layer.weight)]) for layer in job.layers if id(layer.weight) in factors]
    for layer, factor in shuffled:
        if (count := layer.filters.shape[1]) % factor**2:
            raise ValueError(f"{layer.name}: {count} filters per group are no multiple of {factor}^2, its shuffle's.")
    done = {layer.name: _draw(job, layer, "he") for layer in job.layers}
    for layer, factor in shuffled:
        base = layer.filters[:, :: factor**2].clone()
        layer.write(torch.stack([structured.icnr(group, factor) for group in base]))
        done[layer.name] += f", each filter {factor**2} times"
    return done


def _residual(job: _Job) -> Done:
    branches = residual_branches(job.module)
    if not branches:
        raise ValueError(f"{job.name}: no residual branch was found in {type(job.module).__name__}. Use he.")
    done = {layer.name: _draw(job, layer, "he") for layer in job.layers}
    by_module = {id(layer.module): layer for layer in job.layers}
    for branch in branches:
        last = by_module.get(id(branch.last))
        if last is not None:
            last.write(last.blank().zero_())
            done[last.name] = "0, the end of a residual branch"
        elif isinstance(branch.last.weight, Tensor):
            branch.last.weight.zero_()
        if job.name == "fixup" and len(branch.weighted) > 1:
            factor = len(branches) ** (-1 / (2 * len(branch.weighted) - 2))
            for layer in (by_module[id(part)] for part in branch.weighted if id(part) in by_module):
                if layer is not last:
                    layer.filters.mul_(factor)
                    done[layer.name] += f" times {factor:.3g}"
    names = {id(part): name for name, part in job.module.named_modules()}
    for branch in branches:
        if id(branch.last) not in by_module:
            before = by_module.get(id(branch.weighted[-1]))
            if before is not None:
                done[before.name] += f", 0 in {names[id(branch.last)]}"
    return done


def _lsuv(job: _Job) -> Done:
    assert job.images is not None  # initialise has checked it
    scaled = lsuv_(job.module, job.images, std=1.0 if job.gain is None else job.gain, generator=job.generator)
    done = {layer.name: "orthogonal; not run on the images, so not scaled" for layer in job.layers}
    for scaling in scaled:
        done[scaling.name] = f"lsuv, output variance {scaling.before:.3g} -> {scaling.after:.3g}"
    return done


def _first_layer(job: _Job) -> Done:
    """A bank for the first convolution, he for the others."""
    first = next((layer for layer in job.layers if isinstance(layer.module, CONVOLUTIONS)), None)
    if first is None or len(first.kernel) != 2:
        raise ValueError(f"{job.name}: the first layer must be a 2-D convolution. Use he.")
    count, channels = first.weight.shape[:2]
    high, wide = first.kernel
    norm = he_gain() if job.gain is None else job.gain
    if job.name in LEARNERS:
        assert job.images is not None  # initialise has checked it
        images = job.images
        if images.dim() != 4 or images.shape[1] != channels * first.groups:
            raise ValueError(
                f"{first.name}: images of shape {tuple(images.shape)}, {channels * first.groups} channels."
            )
        images = images.reshape(-1, channels, *images.shape[2:])  # every group sees its own channels
        filters = learn_bank(images, method=job.name, size=(high, wide), count=count, generator=job.generator)
    elif high != wide:
        raise ValueError(f"{first.name}: kernels of {high} x {wide}, the {job.name} bank is square. Use he.")
    else:
        try:
            filters = bank(job.name, size=high, count=count, channels=channels, generator=job.generator)
        except ValueError as error:
            raise ValueError(f"{first.name}: {error}") from None
    first.write(rescale(filters, norm))
    done = {layer.name: _draw(job, layer, "he") for layer in job.layers if layer is not first}
    return {first.name: f"{count} filters from {job.name}, norm {norm:.3g}"} | done


_HOW: Mapping[str, Callable[[_Job], Done]] = MappingProxyType(
    {name: _first_layer for name in INITIALISERS}
    | {name: _random for name in RULES}
    | {
        "zeros": _zeros,
        "orthogonal": _orthogonal,
        "delta-orthogonal": _delta_orthogonal,
        "dirac": _dirac,
        "sparse": _sparse,
        "icnr": _icnr,
        "fixup": _residual,
        "zero-gamma": _residual,
        "lsuv": _lsuv,
    }
)
