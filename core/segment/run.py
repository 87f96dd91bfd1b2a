"""`attn segment`: from the photos a user names to a report; the same for a library, a shell and a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ..batch import Placement, Silent, Task, Watcher, run_batch
from ..device import pick_device
from ..errors import InputError, UsageError
from ..io.atomic import remove_stale
from ..io.photo import PHOTO_SUFFIXES, Photo, read_photo
from ..io.raster import read_png
from ..io.report import Item, Report, plain, summarise
from ..io.walk import expand_inputs
from . import metrics as scoring
from .fov import Fov, find_fov, fov_from_mask, whole_image
from .measure import measure
from .models import Prediction, Segmenter, load
from .options import (
    Companions,
    SegmentOptions,
    check_options,
    keep_what_is_there,
    model_name,
    other_models,
    places,
    task_of,
)
from .outputs import (
    TABLE,
    Segmented,
    check_table,
    least,
    measured_rows,
    probability,
    quantise,
    read_record,
    thinned,
    write_outputs,
    write_table,
)

NOTICE = "Results are for research, not for diagnosis."
MAX_SIDE = 4096
"""Longer photos are reduced while they are read: models work at about 600 pixels, fine cameras have 4000."""
LEAST_SIDE = 16
POOL_PIXELS = 2**28
"""Pooled scores need all images at once, 6 bytes a pixel."""
OFFICIAL_THRESHOLD = 0.5
Pair = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]
"""Probability, truth and field of view, each [h, w]."""


def run(
    inputs: Sequence[str],
    output: str | Path | None,
    options: SegmentOptions,
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    stdin: Any = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Segment the vessels of fundus photographs.

    Parameters
    ----------
    inputs : sequence of str
        Files, directories, glob patterns, ``-`` (paths on ``stdin``) or ``example:NAME``.
    output : str, Path or None
        A directory; with one input, a name ending in ``.png``: the mask itself. None: beside the input.
    options : SegmentOptions
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
        One item per photo; ``exit_code`` is what the command returns. With truth, ``summary["pooled"]`` holds the
        scores over the pixels of all photos of this run together.

    Raises
    ------
    UsageError
        If the options contradict each other or name something that does not exist, or there is nothing to read.
    """
    start = time.perf_counter()
    check_options(options)
    device = str(pick_device(options.device))
    options = replace(options, model=model_name(options.model), compare=other_models(options))
    sources = expand_inputs(inputs, suffixes=PHOTO_SUFFIXES, stdin=stdin)
    if len(sources) > 1 and options.truth is not None and not options.truth.is_dir():
        raise UsageError(
            f"--truth: {options.truth} is one file, but there are {len(sources)} photos. Name a directory."
        )
    folder, targets = places(sources, output)
    tasks = [task_of(s, target, options) for s, target in zip(sources, targets, strict=True)]
    keep_what_is_there(tasks)
    table = check_table(folder / TABLE) if options.measure else []
    for name in (options.model, *options.compare):
        _segmenter(name, options.device, options.dtype)  # a file that cannot be used is refused before the work
    for place in {target.parent for target in targets}:
        remove_stale(place)  # what a killed run left half-written
    outcome = run_batch(partial(segment_file, options=options), tasks, placement, watcher or Silent())
    items = tuple(_told(item, options) if item.status == "skipped" else item for item in outcome.items)
    summary, notices = dict(summarise(items)), [NOTICE]
    if options.truth is not None:
        by_name = {task.name: task.payload for task in tasks}
        summary["pooled"] = _pooled([(i, by_name[i.input]) for i in items if i.status == "ok"], options, notices)
    if options.compare:
        summary["comparison"] = _mean_comparison(items)
    if options.measure and (rows := measured_rows(items, folder)):
        write_table(folder / TABLE, table, rows)
        summary["measures"] = str(folder / TABLE)
    if outcome.interrupted:
        summary |= {"interrupted": True, "left": list(outcome.left)}
    return Report(
        command="segment",
        version=attn.__version__,
        arguments=dict(arguments or {"inputs": list(inputs), "output": output and str(output), "model": options.model}),
        device=device,
        seconds=time.perf_counter() - start,
        items=items,
        summary=summary,
        notices=tuple(notices),
    )


@lru_cache(maxsize=8)
def _segmenter(name: str, device: str, dtype: str) -> Segmenter:
    """A model, loaded once per process however many photos there are."""
    return load(name, device=pick_device(device), dtype=dtype)


@dataclass(frozen=True, slots=True)
class Case:
    """One photo, ready: what every model is shown and scored with."""

    path: Path
    photo: Photo
    fov: Fov
    pixels: NDArray[np.float32]
    truth: NDArray[np.bool_] | None

    @property
    def factor(self) -> float:
        """Pixels of the file per pixel that is segmented."""
        return float(max(self.photo.size) / max(self.fov.mask.shape))


def segment_file(task: Task, step: Callable[[int, int], None], options: SegmentOptions) -> Item:
    """Read one photo, segment it, write what was asked for (the mask last), and report it."""
    stages = 3 + len(options.compare)
    case, warnings = _read(task, options)
    step(1, stages)
    done, prediction = _segment(case, options.model, options)
    segmenter = _segmenter(options.model, options.device, options.dtype)
    warnings += [*prediction.warnings, *(["the model has no attention maps"] if _lacks(prediction, options) else [])]
    measures = _measures(case, done) if options.measure else {}
    metrics = _density(case, done) | measures | _scored(case, done, options)
    metrics |= {
        "threshold": done.threshold,
        "fov_diameter_px": case.fov.diameter * case.factor,
        "parameters": segmenter.parameters,
    }
    step(2, stages)
    details: dict[str, Any] = {"model": done.model, "size": list(case.photo.size), "fov": options.fov}
    details |= {name: str(path) for name in ("truth", "fov") if (path := getattr(task.payload, name)) is not None}
    pictures = captions = None
    if options.compare:
        details["comparison"], pictures, captions = _compare(case, done, options, lambda k: step(k, stages))
    record = {"model": done.model, "threshold": done.threshold, "measures": {k: plain(v) for k, v in measures.items()}}
    files = write_outputs(task.output, done, record, pictures, captions)
    return Item(
        input=task.name,
        output=str(task.output) if task.output else None,
        status="ok",
        seconds=0.0,
        metrics=metrics,
        files=files,
        warnings=tuple(dict.fromkeys(warnings)),
        details=details,
    )


def _read(task: Task, options: SegmentOptions) -> tuple[Case, list[str]]:
    """The photo, its field of view and its truth. Raises ``InputError``."""
    found: Companions = task.payload
    photo = read_photo(task.source, max_side=MAX_SIDE)
    if min(photo.size) < LEAST_SIDE:
        sides = f"{photo.size[1]} x {photo.size[0]}"
        raise InputError(task.source, f"is too small: {sides} pixels, at least {LEAST_SIDE} a side are needed")
    warnings = [*photo.warnings, *found.notes]
    shape = photo.pixels.shape[1:]
    if shape != photo.size:
        warnings.append(f"segmented, measured and drawn at {shape[1]} x {shape[0]} pixels, written at its own size")
    fov = _field_of_view(task, photo, options, warnings)
    truth = None
    if found.truth is not None:
        truth = _read_mask(task.source, found.truth, "truth", photo, warnings)
    pixels = clahe(photo.pixels) if options.clahe else photo.pixels
    return Case(task.source, photo, fov, pixels, truth), warnings


def _field_of_view(task: Task, photo: Photo, options: SegmentOptions, warnings: list[str]) -> Fov:
    if options.fov == "none":
        return whole_image(photo.pixels.shape[1:])
    try:
        if options.fov == "auto":
            fov = find_fov(photo.pixels)
        else:
            what = "mask of the field of view"
            fov = fov_from_mask(_read_mask(task.source, task.payload.fov, what, photo, warnings))
    except ValueError as error:
        fix = "If it is a fundus photograph, give --fov none or a mask"
        raise InputError(task.source, str(error).partition(". ")[0].rstrip("."), fix) from None
    warnings += fov.warnings
    return fov


def _read_mask(source: Path, path: Path, what: str, photo: Photo, warnings: list[str]) -> NDArray[np.bool_]:
    """A mask [h, w] of the photo's size. Raises ``InputError``."""
    found = read_photo(path, max_side=MAX_SIDE, uniform=True)  # all field of view, or no vessel at all
    if found.size != photo.size:
        sides = f"{found.size[1]} x {found.size[0]} pixels, the photo {photo.size[1]} x {photo.size[0]}"
        raise InputError(source, f"its {what} {path} has {sides}", "They must be of one size")
    values = found.pixels.max(0)  # [h, w]
    if float(values.max()) < 0.5:
        warnings.append(f"the brightest value of its {what} is below half of full scale: half of it is the limit")
    return _yes(values)


def _yes(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """A mask from its file's values [h, w] in [0, 1]: from one half on; in a file of 0 and 1, where it is not 0."""
    return np.asarray(values >= (0.5 if float(values.max()) >= 0.5 else 0.5 * float(values.max())))


def clahe(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Contrast-limited equalisation of the lightness. [3, H, W] in [0, 1] -> the same.

    methods/fsg-net.md, section 3.4, step 29: clip 2.0 (times the mean count of a bin), 8 x 8 tiles, L of Lab.
    """
    from skimage.color import lab2rgb, rgb2lab
    from skimage.exposure import equalize_adapthist

    lab = rgb2lab(np.moveaxis(pixels, 0, -1))  # [H, W, 3]
    tiles = [max(1, side // 8) for side in lab.shape[:2]]
    lab[..., 0] = 100 * equalize_adapthist(lab[..., 0] / 100, kernel_size=tiles, clip_limit=2.0 / 256, nbins=256)
    return np.ascontiguousarray(np.moveaxis(np.clip(lab2rgb(lab), 0, 1), -1, 0), np.float32)


def _threshold(segmenter: Segmenter, options: SegmentOptions, *, own: bool) -> float:
    """The user's, where it was meant for this model; the official protocol's; the model's."""
    if own and options.threshold is not None:
        return options.threshold
    return OFFICIAL_THRESHOLD if options.protocol == "fsg" else segmenter.threshold


def _segment(case: Case, model: str, options: SegmentOptions) -> tuple[Segmented, Prediction]:
    """One photo through one model. Raises ``InputError`` where the model cannot take it."""
    segmenter, own = _segmenter(model, options.device, options.dtype), model == options.model
    threshold = _threshold(segmenter, options, own=own)
    wanted = options.save_attention and own
    try:
        found = segmenter(case.pixels, case.fov, tta=options.tta, tile=options.tile, attention=wanted)
    except UsageError:
        raise
    except ValueError as error:
        raise InputError(case.path, f"cannot be segmented ({error})") from error
    stored = quantise(found.prob, case.fov.mask)
    name = segmenter.name
    maps = found.attention if wanted else {}
    return Segmented(case.photo, case.fov, stored, stored >= least(threshold), name, threshold, maps), found


def _lacks(prediction: Prediction, options: SegmentOptions) -> bool:
    return options.save_attention and not prediction.attention


def _density(case: Case, done: Segmented) -> dict[str, float]:
    inside = np.count_nonzero(case.fov.mask)
    return {"vessel_density": np.count_nonzero(done.mask) / inside if inside else 0.0}


def _measures(case: Case, done: Segmented) -> dict[str, float]:
    """The vessel measures, lengths in pixels of the file."""
    found = measure(done.mask, case.fov.mask)
    return {key: value * (case.factor if key.endswith("_px") else 1) for key, value in found.items()}


def _scored(case: Case, done: Segmented, options: SegmentOptions) -> dict[str, float]:
    if case.truth is None:
        return {}
    return _scores([(done.prob, case.truth, case.fov.mask)], done.threshold, options, pool=False)


def _scores(pairs: Sequence[Pair], threshold: float, options: SegmentOptions, *, pool: bool) -> dict[str, float]:
    """Scores of one image, or of several together, by the protocol that was asked for."""
    if options.protocol == "fsg":
        frames = [(prob, truth) for prob, truth, _ in pairs]
        return scoring.fsg_scores(frames, threshold=threshold, official_auc=options.official_auc)
    if pool:
        return scoring.pooled(list(pairs), threshold=threshold)
    return scoring.scores(*pairs[0], threshold=threshold)


def _compare(
    case: Case, done: Segmented, options: SegmentOptions, step: Callable[[int], None]
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]], dict[str, str]]:
    """The other models on the same photo: a row, a picture and a caption each, the main model first."""
    rows: list[dict[str, Any]] = [{"method": done.model, **_row(case, done, options)}]
    pictures: dict[str, NDArray[Any]] = {"green channel": case.photo.pixels[1], done.model: done.prob}
    for number, name in enumerate(options.compare):
        start = time.perf_counter()
        other, _ = _segment(case, name, options)
        seconds = time.perf_counter() - start
        rows.append({"method": other.model, **_row(case, other, options), "seconds": seconds})
        pictures[other.model] = other.prob
        step(3 + number)
    key = "f1" if case.truth is not None else "vessel_density"
    captions = {row["method"]: f"{key.replace('_', ' ')} {row[key]:.3f}" for row in rows if key in row}
    if case.truth is not None:
        pictures["truth"] = case.truth
    return rows, pictures, captions


def _row(case: Case, done: Segmented, options: SegmentOptions) -> dict[str, float]:
    return _density(case, done) | _scored(case, done, options) | {"threshold": done.threshold}


def _mean_comparison(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The rows of all photos averaged per model, in the order of the first."""
    rows = [row for item in items if item.status == "ok" for row in item.details["comparison"]]
    means: list[dict[str, Any]] = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        mean: dict[str, Any] = {"method": name, "files": len(own)}
        for key in dict.fromkeys(key for row in own for key in row if key != "method"):
            if values := [row[key] for row in own if key in row and np.isfinite(row[key])]:
                mean[key] = float(np.mean(values))
        means.append(mean)
    return means


def _pooled(
    done: Sequence[tuple[Item, Companions]], options: SegmentOptions, notices: list[str]
) -> dict[str, float] | None:
    """Scores over the pixels of all photos together, from the files just written: arrays never travel."""
    pairs: list[Pair] = []
    try:
        for item, found in done:
            if found.truth is None or "probability" not in item.files:
                continue
            stored = read_png(Path(item.files["probability"])).stored
            truth = read_photo(found.truth, max_side=MAX_SIDE).pixels.max(0)
            assert stored is not None
            prob = thinned(stored[0], truth.shape)
            pairs.append((probability(prob), _yes(truth), prob > 0))
            if sum(one.size for one, _, _ in pairs) > POOL_PIXELS:
                notices.append(f"No pooled scores: the photos have more than {POOL_PIXELS} pixels together.")
                return None
    except InputError as error:
        notices.append(f"No pooled scores: {error}.")
        return None
    if not pairs:
        return None
    return {"images": len(pairs), **_scores(pairs, done[0][0].metrics["threshold"], options, pool=True)}


def _told(item: Item, options: SegmentOptions) -> Item:
    """A skipped item with what its result differs in from what is asked for now."""
    record = read_record(Path(item.output)) if item.output else {}
    notes = []
    wanted = _segmenter(options.model, options.device, options.dtype)
    threshold = _threshold(wanted, options, own=True)
    if record and (record.get("model"), record.get("threshold")) != (wanted.name, threshold):
        made = f"{record.get('model')}, threshold {record.get('threshold')}"
        notes.append(f"the result that exists was made with {made}; --overwrite makes it again")
    if options.measure and not record.get("measures"):
        notes.append(f"the result that exists was not measured; --overwrite adds it to {TABLE}")
    if options.truth is not None:
        notes.append("skipped: not among the pooled scores; --overwrite scores it again")
    return replace(item, warnings=(*item.warnings, *notes))
