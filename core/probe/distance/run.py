"""`attn probe distance`: attention dispersion, source against target domain, layer by layer.

Paper: "Remedying Target-Domain Astigmatism for Cross-Domain Few-Shot Object Detection", arXiv 2603.18541.
Specification: methods/astigmatism.md, section 3.1; the distance itself is in ``probe/reach.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...io.atomic import place_fault
from ...io.walk import Input, expand_inputs, names_file, read_list
from ...models.files import sha256
from ...models.pictures import PICTURE_SUFFIXES
from ...options import OptionError, values
from ...progress import Watcher
from ...report.model import Report, command_line_of
from ...report.sections import Picture, Section
from ..frame import drawn_alone, look_at_files, request_of, result_of
from ..panel import FigureData, Origin, write_figure
from .boxes import read_boxes
from .compare import arrays_of, changes_of, domain_of, sections_of
from .look import before_of, look, tower_of
from .options import DistanceOptions
from .reach import uniform_distance

WORD = "distance"
TOGETHER = "domains"
"""Of the figure of all pictures: domains.distance.png."""
SOURCE, TARGET = "source", "target"


def run(
    options: DistanceOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at every picture of both domains, and compare them.

    Raises
    ------
    UsageError
        If there is nothing to read, a picture is in both domains, the boxes cannot be read or are of none of the
        pictures, or a model cannot be loaded or does not attend among all patches.
    """
    start = time.perf_counter()
    arguments = arguments or values(options)
    folder = Path(options.inputs.output or ".")
    together = folder / f"{TOGETHER}.{WORD}.png"
    if options.inputs.output is not None and names_file(options.inputs.output, (".png",)):
        raise OptionError(f"{{output}} {options.inputs.output}: there are several results. Name a directory.")
    if fault := place_fault(together):
        raise OptionError(f"{{output}} {folder}: {fault}.")
    name, notices = options.model, [*drawn_alone(options.model)]
    loaded = tower_of(name, options.device, options.allow_download)
    options, domains = with_names(options)
    sources, targets = domains
    notices += [*between(sources, targets), *boxed(options.boxes, [*sources, *targets])]
    settings = {
        "boxes": tuple(sha256(path) for path in options.boxes), "checked": options.checked, "seed": options.seed,
        "before": before_of(options).fingerprint if options.before is not None else "",
    }  # fmt: skip
    checked = frozenset(
        str(source.path) for of in domains for source in [one for one in of if one.error is None][: options.checked]
    )
    report = look_at_files(
        WORD, partial(look, checked=checked), options, loaded, model=name, since=start, watcher=watcher,
        arguments=arguments, settings=settings,
    )  # fmt: skip
    if report.left is not None:
        return replace(report, notices=(*notices, *report.notices))
    request = request_of(loaded.fingerprint, settings)
    origin = Origin(command_line_of(arguments), name, loaded.fingerprint, seed=options.seed, request=request)
    names = frozenset(source.name for source in targets)
    found: dict[str, list[FigureData]] = {SOURCE: [], TARGET: []}
    for item in report.items:
        if (data := result_of(item, request)) is not None:
            found[TARGET if item.input in names else SOURCE].append(data)
    left_out = sum(item.status != "failed" for item in report.items) - sum(map(len, found.values()))
    if left_out:
        notices.append(
            f"{left_out} pictures are left out of the comparison: their results are of another model or other settings"
        )
    if not targets:
        notices.append("one domain: no other is compared with it. Name pictures of another as target.")
    files, sections, summary, said = compared(found, together, origin, options.seed)
    return replace(
        report, notices=(*notices, *said, *report.notices), sections=(*report.sections, *sections), files=files,
        summary={**report.summary, "model": name, **summary}, seconds=time.perf_counter() - start,
    )  # fmt: skip


def compared(
    found: Mapping[str, Sequence[FigureData]], path: Path, origin: Origin, seed: int
) -> tuple[dict[str, str], list[Section], dict[str, float], list[str]]:
    """The figure of all pictures: its files, the sections, the numbers and the lines that say what came out."""
    domains = [domain_of(name, of) for name, of in found.items() if of]
    if not domains:
        return {}, [], {}, []
    grids = {tuple(one.facts["grid"]) for of in found.values() for one in of}
    if len(grids) > 1:
        raise UsageError(f"pictures have different grids ({grids}): their distances do not compare.")
    grid = grids.pop()
    changes = changes_of(domains, seed=seed)
    pictures = ", ".join(f"{len(domain.distance)} {domain.name}" for domain in domains)
    facts = {
        "domains": [domain.name for domain in domains], "changes": [one.name for one in changes],
        "uniform_patches": uniform_distance(grid), "grid": list(grid),
    }  # fmt: skip
    sections = sections_of(domains, changes, grid)
    data = FigureData(
        TOGETHER, f"{origin.model}, pictures: {pictures}", arrays_of(domains, changes), facts, origin
    )  # fmt: skip
    files = write_figure(path, data, sections=sections)
    summary = {f"distance_patches_{domain.name}": float(domain.distance.mean()) for domain in domains}
    if changes:
        ends = {"change_percent": changes[0].percent, "change_low": changes[0].low, "change_high": changes[0].high}
        summary |= {key: float(ends[key][-1]) for key in ends}
    said = [one.told(pictures) for one in changes]
    return files, [Picture("figure", str(path), title="All pictures"), *sections], summary, said


def with_names(options: DistanceOptions) -> tuple[DistanceOptions, tuple[list[Input], list[Input]]]:
    """The options with all names among the inputs, lists on stdin read; and the pictures of source and target.

    Raises ``UsageError`` if there are none, or a picture is in both domains.
    """
    given = options.inputs
    if "-" in given.inputs and "-" in options.target:
        raise OptionError("{target}: - is the list of one domain, not of both.")
    named = [
        [line for name in names for line in (read_list(nul=given.nul) if name == "-" else (name,))]
        for names in (given.inputs, options.target)
    ]
    sources, targets = (
        expand_inputs(names, suffixes=PICTURE_SUFFIXES, output=given.output) if names else [] for names in named
    )
    places = {os.path.realpath(one.path) for one in sources}
    if both := next((one.name for one in targets if os.path.realpath(one.path) in places), ""):
        raise OptionError(f"{{target}}: {both} is among the pictures of the source, too.")
    if clash := next((one.name for one in [*sources, *targets] if one.path.stem == TOGETHER), ""):
        raise UsageError(f"{clash}: its result would have the name of the comparison. Rename it.")
    return replace(options, inputs=replace(given, inputs=(*named[0], *named[1]))), (sources, targets)


def between(sources: Sequence[Input], targets: Sequence[Input]) -> list[str]:
    """A word where a pattern for the target seems to have been expanded: all but its first file are sources then."""
    alone = {one.path.parent for one in targets if one.root is None and not one.example}
    strays = [one.name for one in sources if one.root is None and not one.example and one.path.parent in alone]
    if not strays:
        return []
    return [
        f"{len(strays)} pictures of the source, {strays[0]} among them, lie beside one of the target: a pattern for "
        "the target must be quoted, or the shell makes sources of all but its first picture"
    ]


def boxed(files: tuple[Path, ...], pictures: Sequence[Input]) -> list[str]:
    """How many pictures have boxes. Raises ``UsageError`` where none has, or one entry is of two pictures."""
    if not files:
        return []
    index, seen = read_boxes(files), dict[str, str]()
    for picture in pictures:
        if (entry := index.of(picture.path)) is None:
            continue
        if other := seen.get(entry.name):
            raise OptionError(
                f"{{boxes}}: the boxes of {entry.name} would be those of {other} and of {picture.name}. Put folders "
                "into the file_name."
            )
        seen[entry.name] = picture.name
    if not seen:
        raise OptionError(f"{{boxes}}: {', '.join(map(str, files))}: no picture's path ends in a file_name of it.")
    return [f"the files of boxes name {len(seen)} of {len(pictures)} pictures"]
