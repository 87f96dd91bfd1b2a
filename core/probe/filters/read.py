"""The convolution filters of a model: of a file of weights by shape, of a model that can be loaded by its layers.

Specification: methods/filter-design.md, sections 8 and 9 (7, 12).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AttnError, InputError, UsageError
from ...filters.layers import CONVOLUTIONS, TRANSPOSED, Layer
from ...io.weights import read_state
from ...models.convolutional import load_convolutional_file
from ...models.files import sha256
from ...models.load import load_model, vision_task
from ...models.loaded import Loaded
from ...options import OptionError
from ...report.sections import Row
from ...text import one_line

SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")
"""Of files of weights: what folders are searched for."""
CHAIN = (
    "its names are those of torchvision's AlexNet or VGG, so it is run as such: strides are theirs, and costs and "
    "receptive fields are those of pictures of 224 x 224 pixels"
)
NAMED = 4
"""So many layers are named where one asks what there is."""


@dataclass(frozen=True, slots=True)
class FilterBank:
    """The filters of one layer.

    Parameters
    ----------
    name : str
    filters : Tensor, shape (O, C / groups, *kernel)
        Whatever the layer's own layout.
    groups : int or None
        None, as of what follows, where a file of weights does not say.
    stride, dilation : tuple of int or None
    transposed : bool or None
    """

    name: str
    filters: Tensor
    groups: int | None = None
    stride: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None
    transposed: bool | None = None

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.filters.shape[2:])


@dataclass(frozen=True, slots=True)
class ModelFilters:
    """All layers of convolutions of a model.

    Parameters
    ----------
    banks : tuple of FilterBank
        In the order of definition.
    fingerprint : str
        Of the file or files.
    sick : tuple of Row
        Layers with NaN or infinite weights, which are not among the banks: ``layer``, ``nan``, ``infinite``.
    warnings : tuple of str
    loaded : Loaded or None
        The model itself, where it is more than a file of weights.
    """

    banks: tuple[FilterBank, ...]
    fingerprint: str
    sick: tuple[Row, ...] = ()
    warnings: tuple[str, ...] = ()
    loaded: Loaded | None = None


def read_filters(name: str, *, file: bool, allow_download: bool = False) -> ModelFilters:
    """The filters of a model.

    Parameters
    ----------
    name : str
        A path, or what ``load_model`` takes.
    file : bool
        It is a file of weights.
    allow_download : bool

    Raises
    ------
    InputError
        If there is no such model, it cannot be read, or has no convolution.
    """
    if file:
        path = Path(name)
        state, notes = read_state(path)
        banks, skipped = banks_of_state(state)
        model = ModelFilters(banks, sha256(path), warnings=(*notes, *skipped))
        if not skipped and (chain := _chain(path)) is not None:
            banks, _ = banks_of_module(chain.model)
            model = replace(model, banks=banks, loaded=chain, warnings=(*notes, CHAIN))
        there = f"its {len(state)} tensors are {_listed(f'{key} {list(t.shape)}' for key, t in state.items())}"
    else:
        try:
            loaded = load_model(name, vision_task(name, allow_download=allow_download), allow_download=allow_download)
        except OptionError as error:  # the name of a model is an input here, not an option
            raise InputError(name, str(error).removeprefix("model: ").removeprefix(f"{name} ").rstrip(".")) from None
        except UsageError as error:
            raise InputError(name, str(error).rstrip(".")) from None
        banks, skipped = banks_of_module(loaded.model)
        model = ModelFilters(banks, loaded.fingerprint, warnings=skipped, loaded=loaded)
        kinds = Counter(type(part).__name__ for part in loaded.model.modules() if not list(part.children()))
        there = f"it is made of {_listed(f'{kind} ({count})' for kind, count in kinds.most_common())}"
    if not model.banks:
        more = f"; {'; '.join(skipped)}" if skipped else ""
        raise InputError(name, f"has no convolution whose weights can be read: {there}{more}", "Name another model")
    return without_sick(model)


def _chain(path: Path) -> Loaded | None:
    """The classifier that a file of weights is of, where its names and shapes say so; None of any other."""
    try:
        return load_convolutional_file(path, device=torch.device("cpu"), dtype=torch.float32)
    except AttnError:
        return None


def banks_of_state(state: Mapping[str, Tensor]) -> tuple[tuple[FilterBank, ...], tuple[str, ...]]:
    """Tensors ``NAME.weight`` of three to five dimensions, and what is left out of them, in words.

    Their layout is taken for that of ordinary convolutions, [O, C / groups, *kernel]: shapes do not say otherwise.
    """
    banks, whole, made = [], [], []
    for key, value in state.items():
        name, _, last = key.rpartition(".")
        if not 3 <= value.ndim <= 5 or not value.numel():
            continue
        if last in ("weight_v", "original0", "original1", "weight_orig"):
            made.append(key)
        elif last == "weight" and value.is_quantized:
            banks.append(FilterBank(name or key, value.dequantize()))
        elif last == "weight" and value.is_floating_point():
            banks.append(FilterBank(name or key, value))
        elif last == "weight":
            whole.append(f"{key} ({str(value.dtype).removeprefix('torch.')})")
    warnings = []
    if whole:
        warnings.append(f"quantised weights without a scale are left out: {_listed(whole)}")
    if made:
        warnings.append(f"weights that are computed from other tensors are left out: {_listed(made)}")
    return tuple(banks), tuple(warnings)


def banks_of_module(module: nn.Module) -> tuple[tuple[FilterBank, ...], tuple[str, ...]]:
    """The convolutions of a module, a shared weight once, and what is left out."""
    banks: list[FilterBank] = []
    seen: set[int] = set()
    skipped: list[str] = []
    for name, part in _convolutions(module):
        weight: Any = part.weight
        if isinstance(weight, nn.UninitializedParameter) or not weight.is_floating_point():
            skipped.append(f"{name} ({str(weight.dtype).removeprefix('torch.')})")
        elif id(weight) not in seen:
            seen.add(id(weight))
            layer = Layer(name, part, weight, part.groups, isinstance(part, TRANSPOSED))
            filters = layer.filters.flatten(0, 1)
            banks.append(FilterBank(name, filters, part.groups, part.stride, part.dilation, layer.transposed))
    warning = f"weights that are no floating-point numbers are left out: {_listed(skipped)}"
    return tuple(banks), (warning,) if skipped else ()


def _convolutions(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, part in module.named_modules():
        if isinstance(part, (*CONVOLUTIONS, *TRANSPOSED)):
            yield name or type(part).__name__, part


def without_sick(model: ModelFilters) -> ModelFilters:
    """Layers with NaN or infinite weights are listed, and no longer among the banks."""
    healthy, sick = [], []
    for bank in model.banks:
        values = bank.filters.float() if bank.filters.element_size() < 4 else bank.filters
        if bool(torch.isfinite(values).all()):
            healthy.append(bank)
        else:
            nan = int(values.isnan().sum())
            sick.append({"layer": bank.name, "nan": nan, "infinite": int(values.isinf().sum())})
    if not sick:
        return model
    names = [f"{row['layer']} ({row['nan']} NaN, {row['infinite']} infinite)" for row in sick]
    told = f"NaN or infinite weights, left out of everything else: {_listed(names)}"
    return replace(model, banks=tuple(healthy), sick=tuple(sick), warnings=(told, *model.warnings))


def chosen(model: ModelFilters, patterns: Sequence[str], name: str) -> ModelFilters:
    """The layers that one of the patterns matches, as names of files are; without patterns all.

    Raises ``InputError`` where none is.
    """
    if not patterns:
        return model
    banks = tuple(bank for bank in model.banks if matches(bank.name, patterns))
    if not banks:
        there = _listed(bank.name for bank in model.banks) or "none with finite weights"
        raise InputError(name, f"has no layer of convolutions named {' or '.join(patterns)}", f"There are {there}")
    return replace(model, banks=banks)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns matches; without patterns everything does."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Iterable[str]) -> str:
    every = [one_line(name)[:120] for name in names]
    return ", ".join(every[:NAMED]) + (f" and {len(every) - NAMED} more" if len(every) > NAMED else "")
