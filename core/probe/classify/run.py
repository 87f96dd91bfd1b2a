"""`attn probe classify`: features once, a ladder of probes, checks, figures, heads."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...batch.run import BatchOutcome
from ...device import pick_device, set_threads
from ...io.atomic import place_fault
from ...models.load import load_model
from ...models.loaded import Loaded
from ...options import OptionError, identity, values
from ...progress import Bars, Watcher
from ...report.model import Item, Report, command_line_of
from ...report.sections import TrustLine
from ..frame import noted, request_of
from ..panel import Origin
from ..trust.randomised import randomised
from .data import ClassSet, read_classes
from .features import Extraction, Features, block_count, read_features
from .ladder import Bench, Rung, climb
from .options import DEFAULT, FOR_TRAINING, OF_ENCODERS, PROBES, ClassifyOptions, refuse
from .saved import is_saved_features, read_saved_features
from .split import few, split_of
from .training import HeadRecipe
from .written import ProbeOutcome, written

WORD = "classify"
FREE = {"output", "data", "device", "threads", "overwrite"}
"""Options that do not decide the result, or for which the identity of the pictures stands."""
LARGE = 10 * 4096
"""Pictures to learn from with which the paper's LARS has steps enough."""
UNTRAINED_SEED = 10_007


@dataclass(frozen=True, slots=True)
class ProbedData:
    """What is probed: pictures or saved tokens; no encoder where the tokens were saved. ``read`` reads features."""

    pictures: ClassSet
    read: Callable[[], Features]
    loaded: Loaded | None = None
    layers: tuple[int, ...] = (0,)

    @property
    def fingerprint(self) -> str:
        return self.loaded.fingerprint if self.loaded is not None else ""


def run(
    options: ClassifyOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Probe an encoder on a set of classes.

    Raises
    ------
    UsageError
        If an option makes no sense, or the model cannot be used.
    InputError
        If the data cannot be.
    """
    start, watcher, arguments = time.perf_counter(), watcher or Bars(), arguments or values(options)
    set_threads(options.compute.threads)
    if options.head is not None:
        from .drawing import draw_head

        refuse(options, FOR_TRAINING, "says nothing of a saved {head}, which is drawn as it is")
        return draw_head(options, watcher, arguments, start)
    folder = options.output or beside(options.data)
    if fault := place_fault(folder / "x"):
        raise OptionError(f"{{output}}: {fault}. Name a folder.")
    source = _source(options, folder, watcher)
    device = str(pick_device(options.compute.device))
    result = folder / f"{stem(options.data)}.{WORD}.png"
    settings = {name: value for name, value in identity(options).items() if name not in FREE}
    request = request_of(source.fingerprint + source.pictures.identity, settings)
    if result.exists() and not options.overwrite:
        item = noted(Item(options.data, str(result), "skipped", 0.0), request)
        return BatchOutcome((item,)).report("probe", arguments, device, start)
    features = source.read()
    outcome = _probed(options, source, features, watcher)
    origin = Origin(command_line_of(arguments), _named(options, source), source.fingerprint,
                    seed=options.compute.seed, request=request)  # fmt: skip
    item, sections, notices = written(options, outcome, folder, result, origin)
    item = replace(item, seconds=time.perf_counter() - start)
    return BatchOutcome((item, *_failed(source.pictures, features))).report(
        "probe", arguments, device, start, sections=sections, notices=notices
    )


def stem(data: str) -> str:
    """What results of a source are called."""
    if is_saved_features(data) or Path(data).suffix.lower() in (".csv", ".jsonl", ".parquet"):
        return Path(data).stem
    return re.sub(r"[^\w.-]+", "-", Path(data).expanduser().absolute().name if Path(data).exists() else data)


def beside(data: str) -> Path:
    """Where a run is kept unless the user says: beside files, else here."""
    path = Path(data).expanduser()
    return (path.parent if path.exists() else Path()) / f"{stem(data)}.{WORD}"


def layers_of(asked: str, count: int) -> tuple[int, ...]:
    """Blocks by number. Raises ``OptionError`` for one that does not exist."""
    if asked == "all":
        return tuple(range(count))
    numbers = [-1] if asked == "last" else [int(part) for part in asked.split(",")]
    if wrong := next((number for number in numbers if not -count <= number < count), None):
        raise OptionError(f"{{layer}}: no block {wrong}; this encoder has 0 to {count - 1}.")
    return tuple(sorted({number % count for number in numbers}))


def recipe_of(options: ClassifyOptions, learning: int) -> tuple[HeadRecipe, str]:
    """How heads are trained on so many pictures, and what to say of it."""
    kind, said = options.optimizer, ""
    if kind == "auto":
        kind = "lars" if learning >= LARGE else "adamw"
        said = f"auto: {learning} pictures to learn from are {'enough' if kind == 'lars' else 'few'} for LARS"
    batch = options.batch or (16 if kind == "adamw" else 4096)
    rate = options.learning_rate or (0.003 if kind == "adamw" else 0.1)
    recipe = HeadRecipe(kind, rate, options.weight_decay, batch, options.epochs, options.warmup)
    steps = max(1, round(learning / batch))
    told = f"{kind}, rate {recipe.rate(min(batch, learning)):.3g}, {options.epochs} epochs of {steps} steps"
    return recipe, f"{told} ({said})" if said else told


def _source(options: ClassifyOptions, folder: Path, watcher: Watcher) -> ProbedData:
    cache = folder / "features"
    if is_saved_features(options.data):
        refuse(options, OF_ENCODERS, "says nothing of saved features: they are of one layer, without pictures")
        pictures, features = read_saved_features(options.data, cache)
        return ProbedData(pictures, lambda: features)
    pictures = read_classes(options.data, label=options.label, limit=options.limit, seed=options.compute.seed)
    loaded = load_model(options.model, "vision", device=options.compute.device, allow_download=options.allow_download)
    layers = layers_of(options.layer, block_count(loaded.model))
    asked = Extraction(loaded, layers, options.final_norm, options.feature_dtype)
    read = partial(read_features, asked, pictures, cache, partial(watcher.step, "features"))
    return ProbedData(pictures, read, loaded, layers)


def _untrained(options: ClassifyOptions, source: ProbedData, cache: Path, watcher: Watcher, draw: int) -> Features:
    """Features of the last of the layers, with randomised weights."""
    assert source.loaded is not None
    seed = options.compute.seed + UNTRAINED_SEED + draw
    asked = Extraction(
        source.loaded, source.layers[-1:], options.final_norm, options.feature_dtype, weights=f"randomised {seed}"
    )
    with randomised(source.loaded.model, seed):
        step = partial(watcher.step, f"features of randomised weights {draw + 1}")
        return read_features(asked, source.pictures, cache, step)


def _failed(pictures: ClassSet, features: Features) -> list[Item]:
    """An item of each picture that could not be read."""
    return [Item(pictures.names[row], None, "failed", 0.0, error=why) for row, why in sorted(features.failed.items())]


def _named(options: ClassifyOptions, source: ProbedData) -> str:
    return options.model if source.loaded is not None else "saved features"


def _probed(options: ClassifyOptions, source: ProbedData, features: Features, watcher: Watcher) -> ProbeOutcome:
    """All probes on all layers, with few pictures, and on the encoder without its weights."""
    from .checks import DRAWS, against_untrained, seed_agreement, seeds_agree, shuffled

    pictures, seed = source.pictures, options.compute.seed
    split = split_of(pictures, features.whole, test_share=options.test_share, val_share=options.val_share, seed=seed)
    recipe, told = recipe_of(options, len(split.train))
    bench = Bench(pictures, features, split, recipe, options.queries, options.d_out)
    probes, dropped = _possible(options.poolings, bench)
    bench.check(probes)
    if not any(probe in ("ep", "ep_all") for probe in probes):
        refuse(options, ("queries", "d_out"), "is of ep, which is not among {poolings}")
    seeds = tuple(range(seed, seed + options.seeds))
    said = watcher.step
    notices = [f"split: {split.said}", f"heads: {told}", *dropped]
    rungs: list[Rung] = []
    shots: dict[int, list[Rung]] = {}
    layer = source.layers[-1]
    for number in source.layers:
        for probe in probes:
            rung = climb(bench, probe, number, seeds, said)
            rungs.append(rung if number == layer else replace(rung, trained=()))  # heads of all layers are too much
    for count in options.shots:
        drawn = {one: few(pictures, split.train, count, one) for one in seeds}
        if short := drawn[seed][1]:
            notices.append(f"{count} shots: {', '.join(short[:4])} have fewer pictures to learn from; all are used")
        few_rows = {one: rows for one, (rows, _) in drawn.items()}
        shots[count] = [climb(bench, probe, layer, seeds, said, train=few_rows) for probe in probes]
    lines: list[TrustLine] = []
    last = [rung for rung in rungs if rung.layer == layer]
    mapped = next((rung for rung in reversed(last) if rung.trained and _has_maps(bench, rung)), None)
    if options.trust and source.loaded is not None:
        draws, agreements = [], []
        for draw in range(DRAWS):
            others = _untrained(options, source, features.folder.parent, watcher, draw)
            gone = Bench(pictures, others, split, recipe, options.queries, options.d_out)
            several = {mapped.probe: seeds[:2]} if mapped is not None else {}
            draws.append([climb(gone, probe, layer, several.get(probe, seeds[:1]), said) for probe in probes])
            of = next((rung for rung in draws[-1] if mapped is not None and rung.probe == mapped.probe), None)
            agreements.append(seed_agreement(gone, of) if of is not None else None)
        lines += against_untrained(last, draws)
        found = seed_agreement(bench, mapped) if mapped is not None else None
        if mapped is not None and found is not None:
            known = [agreed for agreed in agreements if agreed is not None]
            lines.append(seeds_agree(found, known, mapped.probe, len(seeds)))
        elif mapped is not None:
            notices.append("one seed: whether seeds agree on where to look is not known; give more seeds")
    elif options.trust:
        notices.append("saved features have no encoder whose weights could be randomised: that check is left out")
    if options.trust:
        lines.append(shuffled(bench, probes[-1], layer, seed, said))
    return ProbeOutcome(bench, tuple(rungs), shots, tuple(lines), tuple(notices), mapped, source.loaded)


def _possible(probes: tuple[str, ...], bench: Bench) -> tuple[tuple[str, ...], list[str]]:
    """The probes; of ``all`` and of the default those that these features allow, and what to say of the others."""
    if probes not in (PROBES, DEFAULT):
        return probes, []
    kept, dropped = [], []
    for probe in probes:
        try:
            if probe != "ep":  # its queries are the user's to choose
                bench.check([probe])
            kept.append(probe)
        except OptionError as error:
            dropped.append(f"{probe} is left out: {error.text.partition(': ')[2].rstrip('.')}")
    return tuple(kept), dropped


def _has_maps(bench: Bench, rung: Rung) -> bool:
    from .query_maps import maps_of

    read = bench.reader(rung.layer, rung.reads)
    return rung.reads in ("patches", "all") and maps_of(rung.trained[0].head, read, bench.split.test[:1]) is not None
