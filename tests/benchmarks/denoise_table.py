"""Every method on the evaluation sets: the table of methods/adaptive-denoise.md, section 3.

``python tests/benchmarks/denoise_table.py [--data DATA] [--split dev|test|all] [--scores FILE] [--workers N]`` prints
one Markdown table a half: means of PSNR (dB) and SSIM per set, CPU seconds a slice on one thread, on how many cases a
row has the best PSNR. Without ``--data`` only the phantoms are run, and it says so. ``--methods`` and ``--sets`` narrow
it; ``zs-n2n`` runs only if it is named.

Scores are kept, a JSON line per case and row, in ``--scores`` (outside the repository), and not computed again: a line
counts only for the same pixels, settings, code of the method and of the pipeline, and libraries. Trained methods run as
``fast``, Filter2Noise on the Mayo pair as ``balanced``. The test half is for the one run after everything is chosen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from denoise_cases import SETS, SPLITS, Case, cases, make  # noqa: E402

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LIBRARIES = ("numpy", "scipy", "scikit-image", "torch", "numba", "bm3d")
SETTINGS_ONLY = ("attn.core.denoise.base", "attn.core.denoise.options")
"""Code that holds options alone: what they are set to is part of the key by itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a method of the registry, and a preset of it."""

    method: str
    preset: str = ""

    @property
    def label(self) -> str:
        return f"{self.method}, `{self.preset}`" if self.preset else self.method


ROWS = (
    Row("adaptive"),
    Row("adaptive", "full-dose"),
    *(Row(name) for name in ("nlm", "tv", "bm3d", "bilateral", "filter2noise", "wavelet", "zs-n2n")),
)
NOISY = "noisy input"
UNASKED = ("zs-n2n",)
"""Only where it is named: the slowest, and never near the best."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one row came to on one case."""

    psnr: float
    ssim: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of shared data")
    parser.add_argument("--split", choices=("dev", "test", "all"), default="dev")
    parser.add_argument("--methods", help="comma-separated, of the registry")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--scores", type=Path, default=Path("denoise_scores.jsonl"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    groups = tuple(arguments.sets.split(","))
    named = arguments.methods.split(",") if arguments.methods else None
    for given, known in ((groups, SETS), (named or (), {row.method for row in ROWS})):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}. There are {', '.join(sorted(known))}.")
    if TESTS.parent in arguments.scores.resolve().parents:
        parser.error(f"--scores {arguments.scores} lies in the repository. Name a file outside it.")
    if arguments.data is None:
        groups = tuple(group for group in groups if group == "phantom")
        print("no --data: only the phantoms are run", file=sys.stderr)
    rows = [row for row in ROWS if (row.method in named if named else row.method not in UNASKED)]
    chosen = cases(arguments.split, groups)
    if not chosen:
        parser.error("there is no such case")
    scores, problems = run(chosen, rows, arguments.data or Path(), arguments.scores, arguments.workers)
    text = "\n\n".join(tables(chosen, [row.label for row in rows], scores)) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


def run(
    chosen: Sequence[Case], rows: Sequence[Row], data: Path, file: Path, workers: int
) -> tuple[dict[tuple[str, str, str], Score], list[str]]:
    """Scores by (split, case, row), and what failed. Finished ones are read from ``file``, new ones added to it."""
    known = kept(file)
    scores: dict[tuple[str, str, str], Score] = {}
    problems: list[str] = []
    os.environ |= dict.fromkeys(THREADS, "1")  # of the processes that follow: seconds are those of one thread
    keys = {row: code_of(row.method) for row in rows}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(score_case, case, keys, data, known): case for case in chosen}
        with file.open("a", encoding="utf-8") as stream:
            for done, future in enumerate(as_completed(waiting), 1):
                case = waiting[future]
                lines, faults = future.result()
                for line in lines:
                    if line["key"] not in known:
                        stream.write(json.dumps(line) + "\n")
                    scores[case.split, case.name, line["row"]] = Score(line["psnr"], line["ssim"], line["seconds"])
                stream.flush()
                problems += faults
                print(f"{done}/{len(chosen)} {case.name} ({case.split})", file=sys.stderr)
    return scores, problems


def kept(file: Path) -> dict[str, dict]:
    """The lines of an earlier run by their keys; half a line at the end, of a run that was killed, does not count."""
    known = {}
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            line = json.loads(text)
            known[line["key"]] = line
        except (ValueError, KeyError):
            print(f"{file}: passed by a line that is no score", file=sys.stderr)
    return known


def code_of(method: str) -> str:
    """Digest of what a method's pixels depend on beside the case and its options: sources and libraries."""
    from attn.core.denoise import METHODS

    home = METHODS[method].home.partition(":")[0]
    digest = hashlib.sha256(repr([(name, installed(name)) for name in LIBRARIES]).encode())
    for path in sources((home, "attn.core.denoise.pipeline", "attn.core.denoise.metrics")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sources(starts: Iterable[str]) -> list[Path]:
    """The files of core/denoise and kernels that these modules are made of, through all imports."""
    from test_doors import FILES, GRAPH

    waiting, seen = list(starts), set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name.startswith(("attn.core.denoise.", "attn.kernels.")) and name not in SETTINGS_ONLY:
            seen.add(name)
            waiting += GRAPH[name]
    return [FILES[name] for name in sorted(seen)]


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def score_case(case: Case, keys: dict[Row, str], data: Path, known: dict[str, dict]) -> tuple[list[dict], list[str]]:
    """One case by every row, in a process of its own: lines for the file of scores, and what failed."""
    from attn.core.denoise.identity import identity
    from attn.core.denoise.metrics import psnr, ssim
    from attn.core.errors import AttnError

    scaled = make(case, data)
    lines, faults = [], []

    def line(row: str, key: str, pixels, seconds: float) -> dict:
        figures = {score.__name__: score(pixels, scaled.truth, valid=scaled.valid) for score in (psnr, ssim)}
        return {"case": case.name, "split": case.split, "row": row, "key": key, **figures, "seconds": seconds}

    lines.append(line(NOISY, f"{scaled.digest} {NOISY}", scaled.noisy, 0.0))
    for row, code in keys.items():
        key = f"{scaled.digest} {code} {identity(options_for(row, case))}"
        if key in known:
            lines.append(known[key])
            continue
        try:
            pixels, seconds = denoised(row, case, scaled)
        except (AttnError, ValueError, ImportError) as error:
            faults.append(f"{case.name} ({case.split}), {row.label}: {error}")
            continue
        lines.append(line(row.label, key, pixels, seconds))
    return lines, faults


def options_for(row: Row, case: Case):  # -> DenoiseOptions
    from attn.core.denoise.base import FitOptions
    from attn.core.denoise.options import DenoiseOptions

    quality = "balanced" if (row.method, case.group) == ("filter2noise", "mayo") else "fast"
    fit = FitOptions(quality=quality, preset=row.preset or "default")
    return DenoiseOptions(method=row.method, fit=fit, device="cpu")


def denoised(row: Row, case: Case, scaled):
    """The result [H, W] in [0, 1], and the CPU seconds it took; what is compiled or imported once is not counted."""
    from attn.core.denoise.pipeline import denoise_stack
    from attn.core.denoise.window import Window

    options, window = options_for(row, case), Window(0.0, 1.0)
    denoise_stack(scaled.noisy[None, :64, :64].copy(), window, options)
    start = time.process_time()
    valid = None if scaled.valid is None else scaled.valid[None]
    result = denoise_stack(scaled.noisy[None], window, options, valid=valid)
    return result.normalised[0], time.process_time() - start


def tables(chosen: Sequence[Case], labels: Sequence[str], scores: dict[tuple[str, str, str], Score]) -> list[str]:
    """A table in Markdown for each half, and one for both where both were run."""
    halves = [split for split in SPLITS if any(case.split == split for case in chosen)]
    parts = [(split, [case for case in chosen if case.split == split]) for split in halves]
    return [
        table(title, some, labels, scores) for title, some in (*parts, *([("both halves", chosen)] * (len(halves) > 1)))
    ]


def table(title: str, some: Sequence[Case], labels: Sequence[str], scores: dict[tuple[str, str, str], Score]) -> str:
    """One row per method: means per set, seconds a slice over all sets, number of cases with the best PSNR."""
    groups = [group for group in SETS if any(case.group == group for case in some)]
    best: dict[str, int] = {}
    for case in some:
        of = {label: scores[key] for label in (NOISY, *labels) if (key := (case.split, case.name, label)) in scores}
        winner = max(of, key=lambda label: of[label].psnr)
        best[winner] = best.get(winner, 0) + 1
    head = [title, *(f"{group} ({sum(case.group == group for case in some)})" for group in groups)]
    lines = [[*head, "CPU seconds a slice", f"best PSNR of {len(some)}"], ["---"] * (len(groups) + 3)]
    for label in (*labels, NOISY):
        found = {
            group: [
                scores[key]
                for case in some
                if case.group == group and (key := (case.split, case.name, label)) in scores
            ]
            for group in groups
        }
        cells = [mean(found[group], sum(case.group == group for case in some)) for group in groups]
        everything = [score for each in found.values() for score in each]
        seconds = (
            f"{sum(s.seconds for s in everything) / len(everything):.2f}" if everything and label != NOISY else "–"
        )
        lines.append([label, *cells, seconds, str(best.get(label, 0))])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def mean(found: Sequence[Score], expected: int) -> str:
    """Mean PSNR / SSIM; how many they are of where some are missing."""
    if not found:
        return "–"
    some = f" (on {len(found)})" if len(found) < expected else ""
    return f"{sum(s.psnr for s in found) / len(found):.3f} / {sum(s.ssim for s in found) / len(found):.4f}{some}"


if __name__ == "__main__":
    main()
