"""All that is found out about the filters of one model, as tables, numbers and arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...options import about_file
from ...report.sections import Section, Table, Trust
from ..frame import Finding
from .activations import SHARES, effective_fields, field_radii, spread_over, watch
from .change import Change
from .figure import NORMS, norms, tiles
from .read import FilterBank, ModelFilters
from .statistics import FilterStatistics, statistics
from .suggest import narrow_field, suggestions
from .trace import Traced, traced
from .trust import mean, number, trust_lines

BATCH = 8
"""Pictures at a time."""
FIELD_PICTURES = 4
"""For the effective receptive field."""
KERNEL_NUMBERS = (
    "separability", "centre_energy", "energy_radius", "dc", "frequency_centroid", "even_fraction",
)  # fmt: skip
LAYER_NUMBERS = (
    "he_ratio", "kurtosis", "effective_rank", "stable_rank", "participation_ratio", "orthogonality_defect", "cos_mean",
    "variance_entropy", "sparse_fraction", "spectral_norm", "cond",
)  # fmt: skip
SHOWN = 12
"""Suggestions that a terminal shows."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What running the model adds; empty where it cannot be run."""

    places: Mapping[str, Traced]
    activity: Mapping[str, dict[str, float]]
    fields: Mapping[str, NDArray[np.float32]]


def measure(
    model: ModelFilters, pixels: Sequence[Tensor], *, seed: int, object_size: int | None, changed: Sequence[Change],
    title: str, step: Callable[[int, int], None],
) -> Finding:  # fmt: skip
    """Everything of one model.

    Parameters
    ----------
    model : ModelFilters
    pixels : sequence of Tensor, shape (3, h, w)
        Prepared pictures; none: no activations.
    seed : int
    object_size : int or None
        Pixels.
    changed : sequence of Change
        Against another model.
    title : str
    step : callable
        Progress.
    """
    total = len(model.banks) + 2
    found: list[FilterStatistics] = []
    for done, bank in enumerate(model.banks):
        found.append(statistics(bank.filters, groups=bank.groups or 1))
        step(done + 1, total)
    with about_file(title):
        seen = _run(model, pixels)
    step(total - 1, total)
    rows = [_row(bank, one, seen) for bank, one in zip(model.banks, found, strict=True)]
    said = _suggestions(model, found, seen, object_size)
    facts: dict[str, Any] = {"layers": [bank.name for bank in model.banks], "suggestions": len(said)}
    arrays = _arrays(model, found, seen, changed, facts)
    sections: list[Section] = []
    if model.sick:
        sections.append(Table("sick", model.sick, title="Layers with NaN or infinite weights, left out"))
    sections.append(Table("layers", rows, short=_short(rows), title="Layer by layer", printed=len(rows) <= SHOWN))
    if said:
        sections.append(Table("suggestions", said, short=_first(said), title="What could be made otherwise"))
    if changed:
        moves = [change.row() for change in changed]
        sections.append(Table("moved", moves, title="Moved since the other model", printed=len(moves) <= SHOWN))
    if model.banks:
        sections.append(Trust("trust", trust_lines(model.banks, seed), title="Do the weights differ from random ones?"))
    step(total, total)
    return Finding(
        title=title, arrays=arrays, metrics=_metrics(model, found, seen, changed), facts=facts,
        sections=tuple(sections), warnings=model.warnings,
    )  # fmt: skip


def _run(model: ModelFilters, pixels: Sequence[Tensor]) -> _Seen:
    """One pass on an empty picture for costs, others on the pictures."""
    images = model.loaded.processor.images if model.loaded is not None else None
    if model.loaded is None or images is None:
        return _Seen({}, {}, {})
    net = model.loaded.model
    places = traced(net, torch.zeros(1, 3, *images.size))
    names = sorted((bank.name for bank in model.banks if bank.name in places), key=lambda name: places[name].order)
    if not pixels or not names:
        return _Seen(places, {}, {})
    batches = [torch.stack(list(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)]
    activity = watch(net, names, batches).rows()
    fields = effective_fields(net, spread_over(names), batches[0][:FIELD_PICTURES])
    return _Seen(places, activity, fields)


def _row(bank: FilterBank, found: FilterStatistics, seen: _Seen) -> dict[str, Any]:
    """A layer in the table."""
    place = seen.places.get(bank.name)
    row: dict[str, Any] = {
        "layer": bank.name, "filters": len(found.filter_norm), "channels": bank.filters.shape[1],
        "kernel": " x ".join(map(str, bank.kernel)), "stride": _sides(bank.stride), "dilation": _sides(bank.dilation),
        "groups": bank.groups, "transposed": bank.transposed, "weights": bank.filters.numel(),
        "macs": place.macs if place else None, "receptive_field": place.field if place else None,
        "effective_rank_share": 1 - found.redundancy, "redundancy": found.redundancy,
        "dead": int(found.dead.sum()), "duplicates": found.duplicates,
        **{name: getattr(found, name) for name in LAYER_NUMBERS},
        **{name: number(found, name) for name in KERNEL_NUMBERS},
        "mean": found.mean, "std": found.std, "least": found.least, "most": found.most,
        "fan_in": found.fan_in, "fan_out": found.fan_out,
    }  # fmt: skip
    row |= seen.activity.get(bank.name, {})
    if bank.name in seen.fields:
        radii = field_radii(seen.fields[bank.name])
        row |= {f"field_radius_{share:.0%}".rstrip("%"): radius for share, radius in zip(SHARES, radii, strict=True)}
    return row


def _sides(values: tuple[int, ...] | None) -> str | None:
    return None if values is None else " x ".join(map(str, values))


def _short(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = ("layer", "filters", "channels", "kernel", "effective_rank_share", "cos_mean", "separability",
             "frequency_centroid", "dead", "duplicates", "macs", "receptive_field", "dead_on_data")  # fmt: skip
    known = [name for name in names if any(row.get(name) is not None for row in rows)]
    return [{name: row.get(name) for name in known} for row in rows]


def _first(said: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    more = len(said) - SHOWN
    rest = [{"layer": "…", "suggestion": f"and {more} more in the report"}] if more > 0 else []
    return [*said[:SHOWN], *rest]


def _suggestions(
    model: ModelFilters, found: Sequence[FilterStatistics], seen: _Seen, object_size: int | None
) -> list[dict[str, str]]:
    said = [
        {"layer": bank.name, "suggestion": text}
        for bank, one in zip(model.banks, found, strict=True)
        for text in suggestions(bank.kernel, one, seen.activity.get(bank.name), grouped=(bank.groups or 1) > 1)
    ]
    if object_size is not None and (text := narrow_field(_field(model, seen), object_size)):
        said.append({"layer": "all", "suggestion": text})
    return said


def _field(model: ModelFilters, seen: _Seen) -> float:
    """The widest theoretical receptive field of the layers; NaN where none is known."""
    known = [seen.places[bank.name].field for bank in model.banks if bank.name in seen.places]
    return max((field for field in known if not math.isnan(field)), default=math.nan)


def _metrics(
    model: ModelFilters, found: Sequence[FilterStatistics], seen: _Seen, changed: Sequence[Change]
) -> dict[str, float]:
    metrics: dict[str, float] = {
        "layers": len(found), "filters": sum(len(one.filter_norm) for one in found),
        "weights": sum(bank.filters.numel() for bank in model.banks), "sick_layers": len(model.sick),
        "effective_rank_share": mean([1 - one.redundancy for one in found]),
        "redundancy": mean([one.redundancy for one in found]),
        **{name: mean([number(one, name) for one in found]) for name in
           ("cos_mean", "orthogonality_defect", "kurtosis", "he_ratio", "separability", "frequency_centroid")},
        "dead": sum(int(one.dead.sum()) for one in found), "duplicates": sum(one.duplicates for one in found),
    }  # fmt: skip
    if seen.places:
        metrics["macs"] = sum(seen.places[bank.name].macs for bank in model.banks if bank.name in seen.places)
        metrics["receptive_field"] = _field(model, seen)
    if seen.activity:
        for name in ("dead_on_data", "correlation", "gradient_ratio"):
            values = [row[name] for row in seen.activity.values()]
            known = [value for value in values if not math.isnan(value)]
            metrics[name] = sum(known) if name == "dead_on_data" and known else mean(values)
    if changed:
        moves = [change.row() for change in changed]
        metrics |= {name: mean([float(row[name]) for row in moves]) for name in ("cosine", "moved_relative")}
    return metrics


def _arrays(
    model: ModelFilters, found: Sequence[FilterStatistics], seen: _Seen, changed: Sequence[Change],
    facts: dict[str, Any],
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """What the figure is made of; ``facts`` gets the names that belong to it."""
    names = [bank.name for bank in model.banks]
    first = tiles(model.banks[0].filters) if model.banks else np.zeros((0, 1, 1, 1), np.float32)
    facts |= {"mosaic_layer": names[0] if names else "", "mosaic_of": len(model.banks[0].filters) if names else 0}
    deeper = [bank for bank in model.banks[bool(len(first)) :] if bank.filters.shape[1] > 1]
    drawn = spread_over([bank.name for bank in deeper], NORMS)
    facts["norm_layers"], facts["field_layers"] = drawn, list(seen.fields)
    of_filter = {
        "layer_of_filter": [np.full(len(one.filter_norm), at, np.int32) for at, one in enumerate(found)],
        **{name: [getattr(one, name).numpy() for one in found] for name in ("filter_norm", "cos_max", "dead")},
        **{
            f"{name}_by_filter": [getattr(one, name).view(len(one.filter_norm), -1).mean(1).numpy() for one in found]
            for name in KERNEL_NUMBERS
        },
    }  # fmt: skip
    arrays: dict[str, NDArray[Any]] = {
        "mosaic": first,
        "effective_rank_share": np.array([1 - one.redundancy for one in found]),
        **{name: np.array([getattr(one, name) for one in found]) for name in LAYER_NUMBERS},
        **{name: np.array([number(one, name) for one in found]) for name in KERNEL_NUMBERS},
        **{name: _joined(parts) for name, parts in of_filter.items()},
    }  # fmt: skip
    by_name = {bank.name: bank for bank in deeper}
    arrays |= {f"norms_{at}": norms(by_name[name].filters) for at, name in enumerate(drawn)}
    arrays |= {f"field_{at}": field for at, field in enumerate(seen.fields.values())}
    if seen.activity:
        channels = {bank.name: len(bank.filters) for bank in model.banks}
        dead = [seen.activity.get(name, {}).get("dead_on_data", math.nan) / channels[name] for name in names]
        arrays["dead_share"] = np.array(dead)
    if changed:
        arrays |= {
            "layer_of_change": _joined([np.full(len(c.moved), names.index(c.layer), np.int32) for c in changed]),
            "cosine": _joined([c.cosine.numpy() for c in changed]),
            "moved": _joined([c.moved.numpy() for c in changed]),
            "moved_relative": _joined([c.relative.numpy() for c in changed]),
        }  # fmt: skip
    return arrays


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    joined = np.concatenate(parts) if parts else np.zeros(0)
    return joined.astype(np.float32) if joined.dtype == np.float64 else joined
