"""A series as a volume beside the same slices one by one: PSNR, and what PSNR does not see. Tables as Markdown.

python tests/benchmarks/denoise_series.py series [--split dev|test]     eight phantom series with a noise-free truth
python tests/benchmarks/denoise_series.py lesions [--seeds 0 1 ...]     lesions in one slice, and their ghosts
python tests/benchmarks/denoise_series.py overlap                       noise that neighbouring slices share
python tests/benchmarks/denoise_series.py edges                         gaps, two patients, uneven noise, order of files
python tests/benchmarks/denoise_series.py real FOLDER [--dose 0.25]     a DICOM series with noise added to it

Method and bars: methods/adaptive-denoise.md, section 6. Choices may be made by the half ``dev`` and by lesions of seeds
below 10; the half ``test`` and lesions of other seeds are for the last look.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attn.core.denoise.adaptive import neighbours
from attn.core.denoise.adaptive.mixture import PRESETS
from attn.core.denoise.adaptive.neighbours import Slice, SliceGeometry
from attn.core.denoise.adaptive.volume import FromVolume, denoise_with, slicewise
from attn.core.denoise.metrics import psnr, ssim
from attn.core.denoise.phantoms.lesions import LEVELS, RADII_MM, draw_lesions
from attn.core.denoise.phantoms.phantom import KERNELS
from attn.core.denoise.phantoms.scan import scan
from attn.core.denoise.phantoms.stack import draw_series

Stack = NDArray[np.float32]
PRESET = PRESETS["default"]
FIRST_SEED = {"dev": 0, "test": 50}
PLAN = (
    ("abdomen", 0.1, "smooth", 1.25),
    ("abdomen", 0.25, "standard", 2.5),
    ("chest", 0.1, "standard", 2.5),
    ("chest", 0.25, "smooth", 5.0),
    ("head", 0.1, "standard", 1.25),
    ("head", 0.25, "smooth", 2.5),
    ("inserts", 0.1, "smooth", 2.5),
    ("inserts", 0.25, "standard", 5.0),
)
"""Kind, dose, kernel, mm from slice to slice; seven slices of 192 x 192."""
LESION_PLAN = ((0.1, "smooth"), (0.25, "standard"), (0.1, "standard"), (0.25, "smooth"))
"""Dose and kernel, in turn by seed."""


@dataclass(frozen=True, slots=True)
class Case:
    """A noisy series and its truth [Z, H, W] in [0, 1], and where its slices lie."""

    name: str
    noisy: Stack
    truth: Stack
    geometry: SliceGeometry
    valid: NDArray[np.bool_] | None = None

    def only(self, slices: Sequence[int]) -> Case:
        """Some of the slices, in that order."""
        at = self.geometry
        some = SliceGeometry(tuple(at.positions[i] for i in slices), tuple(at.offsets[i] for i in slices))
        return Case(self.name, self.noisy[list(slices)], self.truth[list(slices)], some)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Slices by themselves and with their neighbours, parallel to a case's; CPU seconds a slice."""

    own: list[Slice]
    found: list[FromVolume]
    seconds: float

    def scores(self, case: Case, score=psnr) -> NDArray[np.float64]:
        """[Z, 2]: slice-wise, series-wise."""
        rows = []
        for i, (own, found) in enumerate(zip(self.own, self.found, strict=True)):
            valid = None if case.valid is None else case.valid[i]
            both = (np.clip(result, 0, 1) for result in (own.alone, found.result))
            rows.append([score(result, case.truth[i], valid=valid) for result in both])
        return np.array(rows)


def scaled(noisy: Stack, *others: Stack) -> list[Stack]:
    """HU to [0, 1] by what the noisy series spans."""
    low, high = max(float(noisy.min()), -1024.0), min(float(noisy.max()), 3071.0)
    return [np.clip((a - low) / (high - low), 0, 1).astype(np.float32) for a in (noisy, *others)]


def evenly(count: int, step_mm: float) -> SliceGeometry:
    return SliceGeometry(tuple(step_mm * i for i in range(count)), ((0.0, 0.0),) * count)


def phantom_case(index: int, split: str) -> Case:
    kind, dose, kernel, step = PLAN[index]
    seed = FIRST_SEED[split] + index
    drawn = draw_series(kind, seed, spacing_mm=step, cutoff_per_mm=KERNELS[kernel])
    noisy, truth = scaled(scan(drawn, dose, seed=1000 * (seed + 1)), drawn.truth)
    return Case(f"{kind}, dose {dose:g}, {kernel}, {step:g} mm", noisy, truth, evenly(len(noisy), step))


def denoised(case: Case) -> Outcome:
    """Every slice by itself, then with its neighbours; seeds by position."""
    start = time.process_time()
    rank = {i: k for k, i in enumerate(case.geometry.order())}
    own = [
        slicewise(x, None if case.valid is None else case.valid[i], PRESET, rank[i]) for i, x in enumerate(case.noisy)
    ]
    shape = case.noisy.shape[-2:]
    found = [
        denoise_with(s, [(own[j], shift) for j, shift in case.geometry.near(i, shape)], PRESET)
        for i, s in enumerate(own)
    ]
    return Outcome(own, found, (time.process_time() - start) / len(own))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table, line by line."""
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cells) + " |"


HEAD = (
    "slice-wise PSNR / SSIM", "series-wise", "gain (dB)", "inner slices", "first and last", "least",
    "share of neighbours", "CPU s a slice",
)  # fmt: skip


def cells(case: Case, outcome: Outcome) -> tuple[list[str], NDArray[np.float64]]:
    """What stands below `HEAD`, and [Z, 4]: PSNR slice-wise and series-wise, SSIM likewise."""
    scores = np.concatenate([outcome.scores(case, score) for score in (psnr, ssim)], 1)
    share = np.mean([found.from_neighbours.mean() for found in outcome.found])
    return [*means(scores[None]), f"{share:.2f}", f"{outcome.seconds:.1f}"], scores


def means(scores: NDArray[np.float64]) -> list[str]:
    """The first cells of `HEAD` for [series, Z, 4]."""
    (p, p_series, s, s_series), d = scores.mean((0, 1)), scores[..., 1] - scores[..., 0]
    inner = f"{d[:, 2:-2].mean():+.2f}" if d.shape[1] > 4 else "–"
    qualities = [f"{p:.3f} / {s:.4f}", f"{p_series:.3f} / {s_series:.4f}"]
    return [*qualities, f"{d.mean():+.3f}", inner, f"{d[:, [0, -1]].mean():+.2f}", f"{d.min():+.2f}"]


def series(split: str) -> Iterator[str]:
    rows, every = [], []
    for index in range(len(PLAN)):
        case = phantom_case(index, split)
        row, scores = cells(case, denoised(case))
        rows.append([case.name, *row])
        every.append(scores)
    yield from markdown([split, *HEAD], [*rows, ["all slices", *means(np.array(every)), "", ""]])


def lesions(seeds: Sequence[int]) -> Iterator[str]:
    """Share of a lesion's contrast in a result: the difference that the lesion makes there, over that in the truth."""
    kept = np.array([lesion_shares(seed) for seed in seeds])  # [seed, (slice-wise, series-wise, ghosts), lesion]
    alone, series_wise, ghosts = kept[:, 0], kept[:, 1], kept[:, 2:]
    more = series_wise - alone
    rows = []
    for k, (level, radius) in enumerate((level, radius) for level in LEVELS for radius in RADII_MM):
        ghost = ghosts[..., k]
        rows.append(
            [
                f"{level:g} levels, {radius:g} mm", f"{alone[:, k].mean():.2f}", f"{series_wise[:, k].mean():.2f}",
                f"{more[:, k].mean():+.2f}", f"{more[:, k].min():+.2f}", f"{(more[:, k] < 0).sum()} of {len(seeds)}",
                f"{ghost.mean():+.3f}", f"{ghost.max():+.3f}",
            ]
        )  # fmt: skip
    head = ["lesion in one slice", "kept slice-wise", "kept series-wise", "more", "least more", "less than slice-wise"]
    yield from markdown([*head, "ghost in the next slices", "strongest ghost"], rows)


def lesion_shares(seed: int) -> NDArray[np.float64]:
    """[4, lesions]: kept slice-wise and series-wise in the slice that has them, ghosts in the slices beside it."""
    dose, kernel = LESION_PLAN[seed % len(LESION_PLAN)]
    drawn = draw_lesions(seed, dose=dose, cutoff_per_mm=KERNELS[kernel])
    (at,) = drawn.present
    plain, noise = drawn.plain.truth, drawn.noise
    with_them, without, truth, empty = scaled(drawn.truth + noise, plain + noise, drawn.truth, plain)
    geometry, shape = evenly(len(plain), float(np.diff(drawn.plain.positions_mm)[0])), plain.shape[-2:]
    bare = [slicewise(x, None, PRESET, i) for i, x in enumerate(without)]
    marked = [slicewise(x, None, PRESET, i) if i == at else bare[i] for i, x in enumerate(with_them)]

    def made(i: int) -> Stack:
        """What the lesions change in slice ``i``, series-wise."""
        beside = geometry.near(i, shape)
        a, b = (denoise_with(s[i], [(s[j], shift) for j, shift in beside], PRESET).result for s in (marked, bare))
        return a - b

    changes = [marked[at].alone - bare[at].alone, *(made(i) for i in (at, at - 1, at + 1))]
    real = truth[at] - empty[at]
    cores = [lesion.core(shape) for lesion in drawn.lesions]
    return np.array([[change[core].mean() / real[core].mean() for core in cores] for change in changes])


def overlap() -> Iterator[str]:
    """The same noise, shared between neighbouring slices as overlapping reconstructions share it; gains (the least)."""
    rules = {"counted": (0.1, 0.7), "not counted": (9.0, 9.0), "neighbours with it left out": (0.1, 0.1)}
    rows = []
    for index in (1, 4, 7):
        case = phantom_case(index, "dev")
        for taps in ((1, 0), (1, 0.35), (1, 1), (1, 1, 1), (1, 1, 1, 1, 1)):
            mixed = overlapping(case, taps)
            row = [case.name, " ".join(f"{tap:g}" for tap in taps)]
            for neighbours.RHO_FROM, neighbours.RHO_MOST in rules.values():
                outcome = denoised(mixed)
                d = np.diff(outcome.scores(mixed))
                row.append(f"{d.mean():+.2f} ({d.min():+.2f})")
                if len(row) == 3:
                    correlations = [rho for found in outcome.found for rho in found.correlations]
                    left_out = sum(found.left_out for found in outcome.found)
                    row.insert(2, f"{max(correlations, default=0.0):.2f} ({left_out} left out)")
            rows.append(row)
    yield from markdown(["series", "shared as", "strongest correlation", *rules], rows)


def overlapping(case: Case, taps: Sequence[float]) -> Case:
    """Every slice's noise is the weighted sum of several."""
    noise, weights = case.noisy - case.truth, np.array(taps) / np.sqrt(np.sum(np.square(taps)))
    shared = sum(weight * np.roll(noise, k, 0) for k, weight in enumerate(weights))
    noisy = np.clip(case.truth + shared, 0, 1).astype(np.float32)
    return Case(case.name, noisy, case.truth, case.geometry).only(
        range(len(taps) - 1, len(noisy))
    )  # the first ones' noise comes round from the other end


def edges() -> Iterator[str]:
    case, stranger = phantom_case(1, "dev"), phantom_case(5, "dev")
    pairs = zip((case.noisy, case.truth), (stranger.noisy, stranger.truth), strict=True)
    noisy, truth = (np.stack([a[:3], b[:3]], 1).reshape(-1, *a.shape[1:]) for a, b in pairs)
    odd = (np.arange(7) % 2)[:, None, None].astype(np.float32)

    def louder(times: int) -> Case:
        noise = (1 + (times - 1) * odd) * (case.noisy - case.truth)
        return Case("", np.clip(case.truth + noise, 0, 1), case.truth, case.geometry)

    twice = Case("", np.repeat(case.noisy[:3], 2, 0), np.repeat(case.truth[:3], 2, 0), evenly(6, 1.25))
    rows = []
    for name, some in {
        "seven slices": case,
        "slice 3 is missing": case.only([0, 1, 2, 4, 5, 6]),
        "every second slice": case.only([0, 2, 4, 6]),
        "two slices": case.only([0, 1]),
        "one slice": case.only([0]),
        "two slices 100 mm apart": Case("", case.noisy[[0, 6]], case.truth[[0, 6]], evenly(2, 100.0)),
        "every slice twice, each with a position of its own": twice,
        "slices of two patients in turn": Case("", noisy, truth, evenly(len(noisy), 2.5)),
        "noise of every second slice doubled": louder(2),
        "fourfold": louder(4),
        "eightfold": louder(8),
    }.items():
        d = np.diff(denoised(some).scores(some))[:, 0]
        rows.append([name, f"{d.mean():+.2f}", f"{d.min():+.2f}", " ".join(f"{v:+.2f}" for v in d)])
    yield from markdown(["phantom series 2 (dev)", "gain (dB)", "least", "by slice"], rows)
    order = [3, 0, 6, 1, 5, 2, 4]
    straight, mixed = denoised(case).found, denoised(case.only(order)).found
    same = all(np.array_equal(found.result, straight[order[k]].result) for k, found in enumerate(mixed))
    yield f"\nIn another order of files: {'the same bytes' if same else 'OTHER RESULTS'}."


def real(folder: Path, dose: float) -> Iterator[str]:
    """The truth is the series as it is, with the noise of its full dose."""
    from attn.core.denoise.options import DenoiseOptions
    from attn.core.denoise.simulate import simulated
    from attn.core.io import read_grey

    images = [read_grey(path) for path in sorted(folder.iterdir())]
    low = np.concatenate([simulated(image, DenoiseOptions(simulate_dose=dose)).pixels for image in images])
    full = np.concatenate([image.pixels for image in images])
    masks = [np.ones(image.pixels.shape, bool) if image.valid is None else image.valid for image in images]
    valid = np.concatenate(masks)
    full[~valid] = low[~valid] = -1024
    places = [place for image in images for place in image.places]
    if not places or None in places:
        raise SystemExit(f"{folder}: a slice without a position")
    seen = [place.seen_from(places[0]) for place in places]
    noisy, truth = scaled(low, full)
    tilted = SliceGeometry(tuple(mm for mm, _, _ in seen), tuple((rows, columns) for _, rows, columns in seen))
    case = Case(folder.name, noisy, truth, tilted, None if valid.all() else valid)
    row, scores = cells(case, denoised(case))
    yield from markdown([f"dose {dose:g}", *HEAD], [[folder.name, *row]])
    yield "\nBy slice: " + " ".join(f"{after - before:+.2f}" for before, after, *_ in scores)
    yield f"First pixels lie up to {max(abs(rows) for _, rows, _ in seen):.2f} rows from the first slice's."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("series").add_argument("--split", choices=FIRST_SEED, default="dev")
    verbs.add_parser("lesions").add_argument("--seeds", type=int, nargs="+", default=range(10))
    verbs.add_parser("overlap")
    verbs.add_parser("edges")
    reality = verbs.add_parser("real")
    reality.add_argument("folder", type=Path)
    reality.add_argument("--dose", type=float, default=0.25)
    settings = vars(parser.parse_args())
    verb = {"series": series, "lesions": lesions, "overlap": overlap, "edges": edges, "real": real}
    for line in verb[settings.pop("verb")](**settings):
        print(line, flush=True)


if __name__ == "__main__":
    main()
