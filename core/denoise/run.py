"""`attn denoise`: from the inputs a user names to a report; the same for a library, a shell and a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..batch.run import run_batch
from ..batch.task import Task
from ..bundles import Placement
from ..compare import mean_table
from ..device import pick_device, pick_dtype
from ..errors import InputError
from ..io import GreyImage, expand_inputs, output_paths
from ..io.atomic import remove_stale
from ..io.walk import Passed, Schemes
from ..options import OptionError
from ..progress import Bars, Watcher
from ..report.model import Item, Report
from ..report.sections import Curve, Facts, Section, Table
from . import METHODS
from .check import check_options, check_slice
from .evaluate import compare_methods, little_removed, noise_metrics, scores
from .identity import identity, resumed
from .kept import load_filter
from .maps import check_room
from .naming import side_path
from .options import DenoiseOptions
from .outputs import write_outputs
from .phantoms.inputs import phantom_inputs
from .physics import together
from .physics.measure import NOTHING, wanted_measures
from .pipeline import Denoised, denoise_stack, method_device, method_dtype
from .reference import Reference, read_reference
from .series import fit_series
from .series_volume import SeriesVolumes, draws_on_neighbours
from .shared import Shared
from .simulate import read_noisy
from .surroundings import InFiles, Surroundings, in_image, recent_files
from .window import choose_window, other_window, outside

NOTICE = "Not for diagnosis. Keep the source images."


def run(
    inputs: Sequence[str],
    output: str | Path | None,
    options: DenoiseOptions,
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    stdin: Any = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Denoise files.

    Parameters
    ----------
    inputs : sequence of str
        Files, directories, glob patterns, ``-`` (paths on ``stdin``), ``example:NAME`` or ``phantom:KIND``.
    output : str, Path or None
        A directory; with one input and a suffix of an image, the result itself. None: beside the input.
    options : DenoiseOptions
    placement : Placement
        Where the batch runs, and whether finished outputs are done again.
    watcher : Watcher, optional
        Told about progress.
    stdin : text stream, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report
        One item per input; ``exit_code`` is what the command returns.

    Raises
    ------
    UsageError
        If the options contradict each other or name something that does not exist, or there is nothing to read.
    """
    check_options(options)
    with phantom_inputs(output, options.simulate_dose) as schemes:
        return _run(inputs, output, options, placement, watcher, stdin, arguments, schemes)


def _run(
    inputs: Sequence[str],
    output: str | Path | None,
    options: DenoiseOptions,
    placement: Placement,
    watcher: Watcher | None,
    stdin: Any,
    arguments: Mapping[str, Any] | None,
    schemes: Schemes,
) -> Report:
    """What `run` does, once the options are known to be right."""
    start = time.perf_counter()
    chosen = pick_device(options.device)
    device = chosen if options.compare else method_device(options.method, options.device)
    passed = Passed()
    sources = expand_inputs(inputs, stdin=stdin, output=output, passed=passed, schemes=schemes)
    if options.save_filter and options.fit_on == "each" and len(sources) > 1:
        raise OptionError("{save_filter} keeps one filter: add {fit_on} first, middle or INDEX, or name one input.")
    targets = output_paths(sources, output, word="denoised")
    for folder in {target.parent for target in targets}:
        remove_stale(folder)  # what a killed run left half-written
    shared = None
    if options.filter is not None:
        fitted, fitted_in = load_filter(options.filter, options.method)
        shared = Shared(fitted, fitted_in=fitted_in)
    stems = [side_path(target, "any", "") for target in targets]
    alike = Counter(stems)
    tasks = [
        Task(s.path, target, s.name, payload=shared, error=s.error, whole=alike[stem] > 1)
        for s, target, stem in zip(sources, targets, stems, strict=True)
    ]
    watcher = watcher or Bars()
    series: list[dict[str, Any]] = []
    request = identity(options)
    volumes = SeriesVolumes(tasks, options, request)

    def prepare(tasks: Sequence[Task]) -> Sequence[Task]:
        tasks = volumes.prepare(tasks, placement, watcher)
        if shared is not None or options.fit_on == "each":
            return tasks
        return fit_series(tasks, options, placement, watcher, series)

    work = partial(denoise_file, options=options, request=request, only=len(tasks) == 1)
    recent_files().clear()
    try:
        outcome = run_batch(work, tasks, placement, watcher, prepare=prepare)
    finally:
        recent_files().clear()
    items = resumed(outcome.items, tasks, options, volumes.request_of)
    sections: list[Section] = [Table("series", series, detail=True)] if series else []
    if rows := volumes.rows():
        sections.append(Table("volumes", rows, detail=True))
    sections += together.of_all(items)
    if options.compare:
        sections.append(mean_table(items, best="psnr"))
    remarks = [f"warning: series fitted on {row['fitted_on']}: {text}" for row in series for text in row["warnings"]]
    if options.device != "auto" and device != chosen:
        remarks.append(f"warning: {options.method} runs on the CPU, not on {chosen}")
    if method_dtype(options.method, options.dtype) != pick_dtype(options.dtype):
        remarks.append(f"warning: {options.method} computes in float32, not in {options.dtype}")
    remarks += volumes.remarks()
    named = arguments or {"inputs": list(inputs), "output": output and str(output), "method": options.method}
    return outcome.report(
        "denoise", named, str(device), start, items=items, sections=sections, notices=(NOTICE,), passed=passed,
        remarks=remarks,
    )  # fmt: skip


def denoise_file(
    task: Task, step: Callable[[int, int], None], options: DenoiseOptions, request: str, only: bool = False
) -> Item:
    """Read one file, denoise it, write what was asked for (the main output last), and report it.

    ``request`` is the ``identity`` of the options, which all files of one call share. ``only``: it is the one file of
    the call, so that a slice to fit on which it has not is the fault of the command line.
    """
    shared: Shared = task.payload or Shared()
    others = InFiles(task.source, shared, options) if shared.volume else None
    image, noisy = others.read() if others else read_noisy(task.source, options)
    reference = _reference(image, options)
    if options.save_filter is not None and shared.fitted is None and options.fit_on == "each" and len(noisy.pixels) > 1:
        raise OptionError(
            f"{{save_filter}} keeps one filter: {task.name} has {len(noisy.pixels)} slices. Add {{fit_on}}."
        )
    window = shared.window or choose_window(options.window, noisy)
    warnings = list(noisy.warnings)
    if window.width <= 0:
        warnings.append("constant image: written unchanged")
    warnings += outside(window, noisy) + _missed(options, *noisy.pixels.shape[1:])
    fitted = shared.fitted
    if fitted is None and not only:
        check_slice(noisy, options)
    if shared.fitted_in is not None and window.width > 0:
        warnings += other_window(shared.fitted_in, window)
    if fitted is not None and (size := getattr(fitted, "shape", noisy.pixels.shape[1:])) != noisy.pixels.shape[1:]:
        own, other = (f"{height} x {width}" for height, width in (size, noisy.pixels.shape[1:]))
        raise InputError(noisy.path, f"has slices of {other} pixels, the filter is for {own}", "Fit one for it")
    if options.maps:
        check_room(noisy)
    surroundings: Surroundings | None = others
    if others is None and draws_on_neighbours(options):
        surroundings = in_image(noisy, window, options, warnings)
    result = denoise_stack(
        noisy.pixels, window, options, valid=noisy.valid, aspect=noisy.aspect, fitted=fitted, progress=step,
        surroundings=surroundings,
    )  # fmt: skip
    warnings += [text for used in result.filters for text in getattr(used, "warnings", ())]
    if surroundings is not None:
        request = shared.volume.request if shared.volume else f"{request} volume"
    if others and others.lost:
        names = ", ".join(dict.fromkeys(others.lost))
        warnings.append(f"done without {names}, which cannot be used: --overwrite makes it again")
    metrics = noise_metrics(noisy, result.pixels)
    if fitted is None and "edge_weight" in (METHODS[options.method].options or ()) and window.width > 0:
        warnings += little_removed(metrics)
    if reference is not None:
        metrics |= scores(noisy, result.pixels, reference, window)
        warnings += reference.warnings
    metrics |= drawn_metrics(result)
    metrics |= _cost(result, fitted is not None)
    measures = wanted_measures(noisy, window, options)
    told = measures.tell(result.pixels) if measures else NOTHING
    metrics |= told.metrics
    warnings += told.warnings
    compared = compare_methods(noisy, result, window, reference, options, step, measures) if options.compare else None
    truth = None if reference is None else reference.pixels
    files = write_outputs(task, image, noisy, result, window, options, request, truth, compared, warnings)
    return Item(
        input=task.name,
        output=str(task.output) if task.output else None,
        status="ok",
        seconds=0.0,
        metrics=metrics,
        files=files,
        warnings=tuple(dict.fromkeys(warnings)),
        details={"window": str(window), "shape": list(noisy.pixels.shape)},
        sections=(*_fits(result), *drawn_table(result), *told.sections, *([compared.table] if compared else [])),
        unit=noisy.unit,
    )


def _reference(image: GreyImage, options: DenoiseOptions) -> Reference | None:
    """The clean image to compare with, or None."""
    if options.simulate_dose is not None:
        return Reference(image.pixels, image.valid)
    if options.reference is None:
        return None
    return read_reference(image, options.reference, luma=options.luma, fill=options.fill, unit=options.unit)


def _missed(options: DenoiseOptions, height: int, width: int) -> list[str]:
    """Regions that change nothing, because the image ends before them."""
    size = f"{width} x {height} pixels"
    missed = [r for r in options.regions if r.x0 >= width or r.y0 >= height]
    return [f"the region {r.x0},{r.y0},{r.x1},{r.y1} is not inside the image of {size}" for r in missed]


def _cost(result: Denoised, shared: bool) -> dict[str, float]:
    if not result.filters:
        return {}
    return {
        "parameters": result.filters[0].parameters,
        "steps": 0 if shared else sum(f.steps for f in result.filters),
        "fit_seconds": result.fit_seconds,
        "apply_seconds": result.apply_seconds,
    }


def drawn_metrics(result: Denoised) -> dict[str, float]:
    """``neighbours`` that a slice drew on, and the share of its weight that lies in them (``from_neighbours``); means.

    A slice of a volume that found no usable neighbour counts with 0, one outside any volume does not count.
    """
    drawn = [one for one in result.drawn if one is not None]
    if not drawn:
        return {}
    return {
        "neighbours": sum(one.neighbours for one in drawn) / len(drawn),
        "from_neighbours": sum(one.share for one in drawn) / len(drawn),
    }


def drawn_table(result: Denoised) -> Iterator[Section]:
    """A row per slice of a volume; ``noise_correlation`` is the strongest with a neighbour."""
    rows = [
        {"slice": z, "neighbours": one.neighbours, "from_neighbours": one.share,
         "noise_correlation": max(one.correlations, default=0.0)}
        for z, one in enumerate(result.drawn) if one is not None
    ]  # fmt: skip
    if rows:
        yield Table("volume", rows, title="neighbours of the slices", detail=True)


def _fits(result: Denoised) -> Iterator[Section]:
    """The parameters that were learned or chosen, a row per fit, and the loss curve of the first."""
    settings = [dict(f.settings) for f in result.filters]
    if len(settings) == 1:
        yield Facts("settings", settings[0], title="fit", detail=True)
    elif settings:
        yield Table("settings", settings, title="fits", detail=True)
    if losses := list(getattr(result.filters[0], "losses", ())) if result.filters else []:
        yield Curve("losses", {"loss": losses}, title="loss", detail=True)
