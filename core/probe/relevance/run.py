"""`attn probe relevance`: relevance maps of pictures, and of drawn pictures whose objects are known.

Paper: "Beyond saliency", arXiv 1712.08268. Specification: methods/salient-relevance.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...batch.task import Task
from ...errors import UsageError
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture, eight_bits, read_picture
from ...options import OptionError
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Section, Table, Trust
from ..frame import Finding, drawn_alone, look_at_files, settings_of
from ..panel import shown
from ..trust.likeness import cosine, spearman
from .figure import overlay
from .look import LookedThrough, Looker, check_classifier, class_of
from .options import RelevanceOptions
from .regions import SalientRegion, regions_of
from .saliency import SaliencySettings

WORD = "relevance"
TOP_CLASSES, TOP_REGIONS = 5, 8


def run(
    options: RelevanceOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at every picture, or at drawn ones.

    Raises
    ------
    UsageError
        If there is nothing to read, the model cannot be loaded, or has a module whose rule is not known.
    """
    start = time.perf_counter()
    loaded = classifier(options.model, options.device, options.allow_download)
    class_of(options.target, loaded)
    settings = settings_of(options)
    if options.compare is not None:
        settings["compare"] = classifier(options.compare, options.device, options.allow_download).fingerprint
    if options.inputs.scenes:
        from .scenes import look_at_scenes

        return look_at_scenes(options, looker_of(options, loaded), watcher, arguments, start)
    return look_at_files(
        WORD, look, options, loaded, model=options.model, since=start, watcher=watcher, arguments=arguments,
        settings=settings, notices=drawn_alone(options.model),
    )  # fmt: skip


def look(task: Task, step: Callable[[int, int], None], options: RelevanceOptions) -> Finding:
    """Look at one picture."""
    loaded = classifier(options.model, options.device, options.allow_download)
    picture = read_picture(task.source)
    images = loaded.processor.images
    assert images is not None
    prepared = images.prepared(picture.pixels).of(picture.size)
    looker = looker_of(options, loaded)
    target = class_of(options.target, loaded)
    found = looker.look(prepared.pixels, target, trust=options.trust, step=step)
    regions = regions_of(found.salient, np.abs(found.relevance.pixels.float().cpu().numpy()).sum(0))
    compared, pictures = _compared(picture, found, options)
    warnings = [*picture.warnings]
    if not np.ptp(found.signed):
        warnings.append("the relevance is the same everywhere: there is no map to show, and there are no regions")
    signed = found.signed
    layers = found.relevance.layers
    return Finding(
        title=f"{task.name}, {options.model}: {name_of(loaded, found.relevance.target)} ({found.probability:.3f})",
        arrays={
            "relevance": found.relevance.pixels.float().cpu().numpy(), "saliency": found.salient,
            "gradient": found.gradient, "kept": np.array([[one.above, one.below] for one in layers]),
            "boxes": np.array([region.box for region in regions[:TOP_REGIONS]], np.int64).reshape(-1, 4),
            **({"curves": np.stack([one.curves for one in found.removals.values()])} if found.removals else {}),
            "picture": shown(picture.pixels),
        },
        metrics=metrics_of(found, regions),
        facts={
            "model": options.model, "family": loaded.family, "rules": options.rules, "class": name_of(
                loaded, found.relevance.target
            ), "size": list(picture.size), "box": list(prepared.box), "layers_named": [one.name for one in layers],
            "maps": list(found.removals), "positive": float(signed[signed > 0].sum()),
            "negative": float(signed[signed < 0].sum()),
        },
        sections=(*sections_of(found, regions, loaded, prepared.box), *compared),
        warnings=tuple(warnings),
        pictures={
            "heat": found.heat, "overlay": overlay(eight_bits(shown_part(prepared.pixels, loaded)), found), **pictures
        },
    )  # fmt: skip


def _compared(
    picture: ColourPicture, found: LookedThrough, options: RelevanceOptions
) -> tuple[list[Section], dict[str, NDArray[np.uint8]]]:
    """What the second classifier makes of the picture: a table of both, and its overlay."""
    if options.compare is None:
        return [], {}
    loaded = classifier(options.compare, options.device, options.allow_download)
    assert loaded.processor.images is not None
    pixels = loaded.processor.images(picture.pixels)
    other = looker_of(options, loaded).look(pixels, trust=False)
    first = classifier(options.model, options.device, options.allow_download)
    rows = [
        {
            "model": name, "class": name_of(model, one.relevance.target), "probability": one.probability,
            "conserved": one.relevance.conserved,
        }
        for name, model, one in ((options.model, first, found), (options.compare, loaded, other))
    ]  # fmt: skip
    sections: list[Section] = [Table("models", rows, title="Two classifiers on this picture")]
    if found.signed.shape == other.signed.shape:
        alike = {"cosine": cosine(found.signed, other.signed), "spearman": spearman(found.signed, other.signed)}
        sections.append(Table("likeness", [alike], title="How alike their maps are, pixel by pixel"))
    return sections, {"compared": overlay(eight_bits(shown_part(pixels, loaded)), other)}


def shown_part(pixels: Any, loaded: Loaded) -> Any:
    """What the model sees [3, h, w], in [0, 1]."""
    images = loaded.processor.images
    assert images is not None
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (images.mean, images.std))
    return np.clip(pixels.numpy() * std + mean, 0, 1)


def metrics_of(found: LookedThrough, regions: list[SalientRegion]) -> dict[str, float]:
    metrics: dict[str, float] = {
        "class": found.relevance.target, "probability": found.probability, "conserved": found.relevance.conserved,
        "regions": len(regions),
    }  # fmt: skip
    if found.removals:
        own = found.removals["relevance"]
        metrics |= {"deletion": own.deletion, "insertion": own.insertion}
        metrics["trusted"] = sum(line.passed for line in found.lines)
    return metrics


def sections_of(
    found: LookedThrough, regions: list[SalientRegion], loaded: Loaded, box: tuple[float, ...]
) -> tuple[Section, ...]:
    """Trust, classes, regions, layers, and the maps side by side."""
    logits = found.relevance.logits.double()
    best = logits.topk(min(TOP_CLASSES, len(logits))).indices.tolist()
    classes = [
        {"class": name_of(loaded, number), "probability": float(logits.softmax(0)[number]),
         "logit": float(logits[number])}
        for number in dict.fromkeys([found.relevance.target, *best])
    ]  # fmt: skip
    height, width = found.salient.shape
    top, left, bottom, right = box
    down, across = (bottom - top) / height, (right - left) / width
    places = [
        {
            "region": number, "x0": left + x0 * across, "y0": top + y0 * down, "x1": left + x1 * across,
            "y1": top + y1 * down, "area": region.area, "saliency": region.saliency, "relevance": region.relevance,
        }
        for number, region in enumerate(regions[:TOP_REGIONS], 1)
        for x0, y0, x1, y1 in [region.box]
    ]  # fmt: skip
    layers = [
        {"layer": one.name, "kind": one.kind, "above": one.above, "below": one.below,
         "kept": one.below / one.above if one.above else float("nan")}
        for one in found.relevance.layers
    ]  # fmt: skip
    out: list[Section] = [Trust("trust", found.lines)] if found.lines else []
    out.append(Table("classes", classes, title="Classes", printed=False))
    if places:
        out.append(Table("regions", places, title="Salient regions, in pixels of the file", printed=False))
    if found.removals:
        rows = [
            {"ranking": name, "deletion": one.deletion, "insertion": one.insertion, "gap": one.gap}
            for name, one in found.removals.items()
        ]
        own = found.removals["relevance"]
        drawn = {"ranking": "random orders", "deletion": float(own.random_deletion.mean()),
                 "insertion": float(own.random_insertion.mean()), "gap": float(own.random_gaps.mean())}  # fmt: skip
        out.append(Table("removal", [*rows, drawn], title="Deletion (low is good) and insertion", printed=False))
    out.append(Table("layers", layers, title="Relevance that each layer kept", detail=True))
    return tuple(out)


def name_of(loaded: Loaded, number: int) -> str:
    """Of a class."""
    return loaded.labels[number] if number < len(loaded.labels) else f"class {number}"


def looker_of(options: RelevanceOptions, loaded: Loaded) -> Looker:
    settings = SaliencySettings(options.max_side, nearest=options.nearest, position=options.position,
                                focus=options.focus)  # fmt: skip
    return Looker(loaded, options.rules, options.epsilon, settings, options.seed)


@lru_cache(maxsize=2)
def classifier(model: str, device: str, allow_download: bool) -> Loaded:
    """A model; two are kept, read once per process. Raises ``UsageError`` where relevance does not go through it."""
    loaded = load_model(model, "classifier", device=device, allow_download=allow_download)
    try:
        check_classifier(loaded)
    except UsageError as error:
        raise OptionError(f"{{model}}: {model}: {error}") from None
    return loaded
