"""What a run leaves: figures with their arrays and facts, heads, and the report's sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.images import ImagePreparation
from ...models.loaded import Loaded
from ...prune.data.drawn import is_drawn
from ...report.model import Item
from ...report.sections import Section, Table, Trust, TrustLine
from ..frame import drawn_alone
from ..panel import FigureData, Origin, write_figure
from .checks import largest_class
from .ladder import TOP, Bench, Rung
from .measure import interval
from .options import ClassifyOptions
from .query_maps import complementarity, entropies, group_maps, grouped, maps_of, query_rows
from .reading import reads_of, token_shape
from .saved_head import SavedHead, write_head

GROUPED = 512
"""Test pictures, drawn at random, over which queries are grouped."""


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """What was found.

    Parameters
    ----------
    bench : Bench
    rungs : tuple of Rung
        Layer by layer.
    shots : mapping of int to list of Rung
    lines : tuple of TrustLine
    notices : tuple of str
    mapped : Rung or None
        Whose queries are drawn.
    loaded : Loaded or None
    """

    bench: Bench
    rungs: tuple[Rung, ...]
    shots: Mapping[int, Sequence[Rung]]
    lines: tuple[TrustLine, ...]
    notices: tuple[str, ...]
    mapped: Rung | None
    loaded: Loaded | None


def written(
    options: ClassifyOptions, found: ProbeOutcome, folder: Path, result: Path, origin: Origin
) -> tuple[Item, list[Section], list[str]]:
    """Write all files, the figure of the ladder last, since its presence means "complete"."""
    bench = found.bench
    pictures, features, split = bench.pictures, bench.features, bench.split
    last = found.rungs[-1].layer
    rows = [_row(rung, len(pictures.classes)) for rung in found.rungs]
    shots = [
        {"probe": rung.probe, "shots": count, **_accuracy(rung), "chosen": rung.facts["chosen"]}
        for count, rungs in found.shots.items()
        for rung in rungs
    ]
    chance = largest_class(pictures, split.test)
    sections: list[Section] = [
        Table("ladder", [row for row in rows if row["layer"] == last], title=f"Probes on layer {last}")
    ]
    if len({row["layer"] for row in rows}) > 1:
        kept = ("probe", "layer", "top1", "low", "high", "chosen")
        sections.append(Table("layers", [{name: row[name] for name in kept} for row in rows], title="Layer by layer"))
    if shots:
        sections.append(Table("shots", shots, title="Few pictures of each class (last epoch, nothing validated)"))
    files: dict[str, str] = {}
    for rung in (rung for rung in found.rungs if rung.layer == last and rung.trained):
        files[f"head_{rung.probe}"] = str(_write_head(options, found, rung, folder))
    if found.mapped is not None:
        queries, table = _queries(options, found, found.mapped)
        sections.append(table)
        if queries is not None:
            path = result.with_name(result.name.removesuffix(".classify.png") + ".queries.png")
            trust = [Trust("trust", found.lines)] if found.lines else []
            made = write_figure(path, replace(queries, origin=origin), sections=[table, *trust])
            files |= {f"queries_{name}": where for name, where in made.items()}
    if found.lines:
        sections.append(Trust("trust", found.lines, title="Can the ladder be believed?"))
    best = max((rung for rung in found.rungs if rung.layer == last), key=lambda rung: rung.hits.mean())
    metrics = {
        "accuracy": float(best.hits.mean()), "chance": chance, "pictures": float(len(features.whole)),
        "classes": float(len(pictures.classes)),
    }  # fmt: skip
    notices = [*found.notices, *_said(options, found)]
    facts = {"rows": rows, "shots": shots, "chance": chance, "split": split.said, "notices": notices}
    arrays: dict[str, NDArray[Any]] = {"train": split.train, "val": split.val, "test": split.test}
    for rung in found.rungs:
        arrays[f"hits_{rung.probe}_{rung.layer}"] = rung.hits
        if rung.curves is not None:
            arrays[f"curve_{rung.probe}_{rung.layer}"] = rung.curves
    title = f"{options.data}: what {origin.model} knows of {len(pictures.classes)} classes"
    data = FigureData("classify", title, arrays, facts, origin)
    files |= write_figure(result, data, metrics=metrics, sections=sections, warnings=())
    details = {
        "model": origin.model, "best": best.probe, "layer": last, "split": split.said, "chance_is": "largest class",
        "encoder_ms_per_image": features.encoder_ms, "width": features.tokens[last].shape[2],
        "patches": features.tokens[last].shape[1], "grid": features.grid, "features": str(features.folder),
    }  # fmt: skip
    item = Item(options.data, str(result), "ok", 0.0, metrics=metrics, files=files, details=details)
    return item, sections, notices


def _said(options: ClassifyOptions, found: ProbeOutcome) -> list[str]:
    """What every reader must know."""
    bench = found.bench
    features, split = bench.features, bench.split
    said = [
        f"encoder: {options.model if found.loaded is not None else 'none, saved features'}; features are cached, "
        "without augmentation: not the paper's protocol",
        "top1: mean over seeds; low and high: 95 % bootstrap over seeds and test pictures; epochs were chosen on the "
        f"validation part ({len(split.val)} pictures)",
    ]
    if found.loaded is not None and not is_drawn(options.data):
        said += drawn_alone(options.model)
    if features.reused:
        said.append(f"features of {features.reused} pictures were there already ({features.folder})")
    unfinished = [
        rung.probe
        for rung in found.rungs
        if rung.layer == found.rungs[-1].layer
        and rung.trained
        and min(one.epoch for one in rung.trained) > 0.97 * options.epochs
    ]
    if unfinished:
        said.append(
            f"{', '.join(unfinished)}: the best epoch is the last; more epochs or a higher rate may give more accuracy"
        )
    for rung in found.rungs:
        heads, wanted = rung.facts["heads"], rung.facts.get("paper_heads", 0)
        if rung.layer == found.rungs[-1].layer and wanted and heads != wanted:
            width = features.tokens[rung.layer].shape[2]
            said.append(f"{rung.probe}: {heads} heads, since the paper's {wanted} do not divide {width} channels")
    return said


def _accuracy(rung: Rung) -> dict[str, float]:
    found = interval(rung.hits)
    return {"top1": found.mean, "low": found.low, "high": found.high}


def _row(rung: Rung, classes: int) -> dict[str, Any]:
    """A line of the ladder."""
    facts = rung.facts
    row: dict[str, Any] = {"probe": rung.probe, "reads": rung.reads, "layer": rung.layer, **_accuracy(rung)}
    if classes > TOP:
        row["top5"] = float(rung.top_hits.mean())
    row |= {name: facts.get(name) for name in ("parameters", "mega_multiply_adds", "ms_per_image", "width", "chosen")}
    return row


def _write_head(options: ClassifyOptions, found: ProbeOutcome, rung: Rung, folder: Path) -> Path:
    bench, path = found.bench, folder / "heads" / f"{rung.probe}.safetensors"
    one = rung.trained[0]
    saved = SavedHead(
        one.head, rung.probe, rung.reads, rung.layer, options.final_norm, bench.pictures.classes,
        found.loaded.fingerprint if found.loaded is not None else "",
    )  # fmt: skip
    pooling, tokens = reads_of(rung.probe, bench.features)
    shape = token_shape(bench.features, tokens, bench.queries, bench.d_out)
    told = {"epoch": one.epoch, "test_accuracy": float(rung.hits[0].mean()), "data": options.data}
    write_head(path, saved, pooling, shape, told)
    return path


def _queries(options: ClassifyOptions, found: ProbeOutcome, rung: Rung) -> tuple[FigureData | None, Table]:
    """The figure of a rung's first head, where there are pictures to draw on, and what is told of its queries."""
    bench = found.bench
    place = np.random.default_rng((options.compute.seed, 43)).permutation(len(bench.split.test))[:GROUPED]
    read, test = bench.reader(rung.layer, rung.reads), bench.split.test[place]
    maps = maps_of(rung.trained[0].head, read, test)
    assert maps is not None
    owner = grouped(maps)
    if bench.features.grid is not None:
        told = [
            {"query": number, "group": int(owner[number]) + 1, "entropy_share": one.entropy, "row": one.row,
             "column": one.column}
            for number, one in enumerate(query_rows(maps, bench.features.grid))
        ]  # fmt: skip
    else:
        told = [
            {"query": number, "group": int(owner[number]) + 1, "entropy_share": float(share)}
            for number, share in enumerate(entropies(maps).mean(0))
        ]
    title = (
        f"Queries of {rung.probe}, layer {rung.layer}: entropy over ln N, centroid in shares of the grid; "
        f"complementarity {complementarity(maps):.3f} ({len(test)} test pictures)"
    )
    table = Table("queries", told, title=title, detail=True)
    if found.loaded is None or not options.maps or bench.features.grid is None:
        return None, table
    images = found.loaded.processor.images
    assert images is not None
    chosen = range(min(options.maps, len(test)))
    names = bench.pictures.names
    seen = np.stack([shown_to_model(images, bench.pictures.picture(int(test[number])).pixels) for number in chosen])
    of_groups = group_maps(maps[: len(chosen)], owner).reshape(len(chosen), -1, *bench.features.grid)
    captions = [
        f"{Path(names[test[number]]).name}: {bench.pictures.classes[bench.pictures.labels[test[number]]]}, "
        + ("recognised" if rung.hits[0, place[number]] else "not recognised")
        for number in chosen
    ]
    heading = f"Where {maps.shape[1]} queries of {rung.probe} look, in {of_groups.shape[1]} groups (layer {rung.layer})"
    data = FigureData(
        "classify-queries", heading, {"seen": seen, "maps": of_groups.astype(np.float32), "owner": owner},
        {"captions": captions},
    )  # fmt: skip
    return data, table


def shown_to_model(images: ImagePreparation, pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What of a photo [3, H, W] the model sees, [h, w, 3]."""
    plain = replace(images, mean=(0.0,) * 3, std=(1.0,) * 3)(pixels).numpy()
    return np.asarray(np.rint(plain.transpose(1, 2, 0).clip(0, 1) * 255), np.uint8)
