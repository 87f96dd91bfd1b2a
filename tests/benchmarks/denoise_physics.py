"""What a denoiser loses beside what it wins, on the phantom ``inserts``: a table per dose, as Markdown.

``python tests/benchmarks/denoise_physics.py [--doses 0.1,0.25,0.5] [--scans 8] [--methods 'adaptive;nlm'] [--seed 0]``
scans the phantom again and again (other noise, same truth), denoises every scan by itself, and measures all of them
together (``attn.core.denoise.physics``). Seeds below 100 are the development half: methods and presets may be chosen by
these tables; others are for a last look. ``--json FILE`` keeps every row of every section, too.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from attn.core.denoise import METHODS
from attn.core.denoise.base import FitOptions
from attn.core.denoise.metrics import psnr
from attn.core.denoise.options import DenoiseOptions
from attn.core.denoise.phantoms.phantom import Phantom
from attn.core.denoise.phantoms.scan import scan
from attn.core.denoise.phantoms.single import draw_slice
from attn.core.denoise.physics.measure import Measured, Measures
from attn.core.denoise.pipeline import denoise_stack
from attn.core.denoise.window import Window, choose_window
from attn.core.io.image import GreyImage
from attn.core.report.model import plain

METHODS_SHOWN = {
    "adaptive": DenoiseOptions(method="adaptive"),
    "adaptive, full-dose": DenoiseOptions(method="adaptive", fit=FitOptions(preset="full-dose")),
    "nlm": DenoiseOptions(method="nlm"),
    "tv": DenoiseOptions(method="tv"),
    "bm3d": DenoiseOptions(method="bm3d"),
    "filter2noise": DenoiseOptions(method="filter2noise"),
}
LOW = 20.0
"""HU: inserts of at most so much are counted together."""
LEAST_SHARE = 4.0
"""Contrast over its error from which on the share that is kept is shown."""


def scans(kind: str, seed: int, dose: float, count: int) -> tuple[GreyImage, Phantom]:
    """``count`` scans of one phantom as the slices of an image."""
    one = draw_slice(kind, seed)
    phantom = replace(one, truth=np.repeat(one.truth, count, 0))
    spacing = (phantom.pixel_mm,) * 2
    noisy = scan(phantom, dose, seed=1000 * seed)
    return GreyImage(Path(kind), "npy", noisy, unit="HU", spacing_mm=spacing), phantom


def row(told: Measured, pixels: np.ndarray, phantom: Phantom, window: Window) -> dict[str, float]:
    """One method's line of the first table."""
    of = {section.name: list(section.rows()) for section in told.sections}
    truth, seen = (window.normalise(stack) for stack in (phantom.truth, pixels))
    low = [disc for disc in of["inserts"] if abs(disc["contrast_truth_hu"]) <= LOW]
    gains = [sum(disc[f"{name}_after"] for disc in low) / sum(disc[f"{name}_before"] for disc in low)
             for name in ("cnr", "d_prime")]  # fmt: skip
    f50 = {}
    for edge in of["edges"]:
        if abs(edge["contrast_hu"]) > 500 or (edge["contrast_hu"] == 60 and edge["radius_mm"] > 5):
            f50[f"f50 at {edge['contrast_hu']:g} HU"] = edge["f50_after_per_mm"] / edge["f50_truth_per_mm"]
    return {
        "PSNR (dB)": psnr(seen, truth),
        "noise SD (HU)": of["noise_power"][1]["noise_sd"],
        "noise frequency": told.metrics["noise_frequency_kept"],
        **f50,
        "low contrast kept": told.metrics["contrast_kept"],
        "CNR": gains[0],
        "d'": gains[1],
        "removed at edges": told.metrics.get("removed_edge_correlation", math.nan),
    }


def table(lines: list[dict[str, object]]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))

    def cell(value: object) -> str:
        return "–" if value is None or value != value else f"{value:.2f}" if isinstance(value, float) else str(value)

    rows = [names, ["---"] * len(names), *([cell(line.get(name)) for name in names] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--doses", default="0.1,0.25,0.5")
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--methods", default=";".join(METHODS_SHOWN))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = [name for name in METHODS_SHOWN if name in arguments.methods.split(";")]
    kept: list[dict[str, object]] = []
    for dose in map(float, arguments.doses.split(",")):
        image, phantom = scans("inserts", arguments.seed, dose, arguments.scans)
        window = choose_window("auto", image)
        measures = Measures(image, window, phantom=phantom)
        summary: list[dict[str, object]] = []
        shares: dict[int, dict[str, object]] = {}
        for name in ["noisy", *chosen]:
            options = METHODS_SHOWN.get(name)
            if options is not None and METHODS[options.method].missing():
                continue
            pixels = image.pixels if options is None else denoise_stack(image.pixels, window, options).pixels
            told = measures.tell(pixels)
            summary.append({"method": name, **row(told, pixels, phantom, window)})
            sections = {section.name: plain(section.plain()) for section in told.sections}
            kept.append({"dose": dose, "method": name, "metrics": dict(told.metrics), **sections})
            for number, disc in enumerate(sections["inserts"]):
                truth, error = disc["contrast_truth_hu"], disc["error_after_hu"]
                known = error is not None and abs(truth) >= LEAST_SHARE * error
                line = shares.setdefault(number, {"contrast (HU)": f"{truth:.0f}", "radius (mm)": disc["radius_mm"]})
                line[name] = f"{disc['contrast_after_hu'] / truth:.2f} ± {error / abs(truth):.2f}" if known else None
        heading = f"{dose:g} of the dose, {arguments.scans} scans, phantom inserts, seed {arguments.seed}"
        print(f"\n### {heading}\n\n{table(summary)}\n\nShare of each insert's contrast that is kept:\n", flush=True)
        print(
            table(
                sorted(shares.values(), key=lambda line: (abs(float(str(line["contrast (HU)"]))), line["radius (mm)"]))
            )
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
