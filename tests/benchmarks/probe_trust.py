"""How often the lines of trust are wrong on known answers, and how large a page of many figures is.

``python tests/benchmarks/probe_trust.py``: the tables of probe.md, "The page and the lines of trust".
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attn.core.probe.trust.lines import UNTRAINED, removal_line, weights_line
from attn.core.probe.trust.removal import deletion_insertion
from attn.core.report.model import Item, Report, summarise
from attn.core.report.write import write_report

DRAWS = 400


def smooth(draw: np.random.Generator, times: int, size: int = 14) -> np.ndarray:
    """Noise, averaged with its neighbours so many times."""
    noise = draw.exponential(size=(size, size))
    for _ in range(times):
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    return noise


def weights() -> None:
    """Maps of 14 x 14: untrained ones are noise of one smoothness, the map in question is of the same or another."""
    print("| untrained maps | the map | green |\n|---|---|---|")
    for theirs, mine, name in ((0, 0, "one more of the same"), (2, 2, "one more of the same"), (0, 1, "smoother"),
                               (2, 3, "a little smoother"), (0, 3, "much smoother")):  # fmt: skip
        green = 0
        for number in range(DRAWS):
            draw = np.random.default_rng([number, theirs, mine])
            untrained = [smooth(draw, theirs) for _ in range(UNTRAINED)]
            green += weights_line(smooth(draw, mine), untrained).passed
        print(f"| smoothed {theirs} times | {name} | {green / DRAWS:.1%} |")


def removal() -> None:
    """A score that is the sum of what cells contribute; maps are the contributions, mixed with noise."""
    print("\n| share of noise in the map | green | mean gap |\n|---|---|---|")
    for share in (0.0, 0.5, 0.8, 0.9, 1.0):
        green, gaps = 0, []
        for number in range(DRAWS // 4):
            draw = np.random.default_rng([number, int(100 * share)])
            truth = smooth(draw, 1)
            truth /= truth.sum()
            noise = smooth(draw, 1)
            found = deletion_insertion(
                lambda x: x.sum((1, 2, 3)), torch.tensor(truth)[None], (1 - share) * truth + share * noise / noise.sum()
            )
            green += removal_line(found).passed
            gaps.append(found.gap)
        print(f"| {share:.0%} | {green / (DRAWS // 4):.0%} | {np.mean(gaps):.3f} |")


def page() -> None:
    """Figures that compress badly: half of each is noise."""
    print("\n| pictures | of their files, MB | the page, MB | processor time, s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in (10, 64, 300):
            items, total = [], 0
            for number in range(count):
                path = Path(folder, f"{number % 20}.png")
                if not path.exists():
                    pixels = np.full((620, 1680, 3), 255, np.uint8)
                    pixels[:, ::2] = np.random.default_rng(number).integers(0, 255, (620, 840, 3))
                    Image.fromarray(pixels).save(path, compress_level=1)
                total += path.stat().st_size
                items.append(Item(path.name, str(path), "ok", 0.0, files={"figure": str(path)}))
            report = Report("probe", "0", {}, "cpu", 1.0, tuple(items), summarise(items))
            start = time.process_time()
            write_report(report, Path(folder, "r.html"))
            size = Path(folder, "r.html").stat().st_size
            print(f"| {count} | {total / 1e6:.0f} | {size / 1e6:.1f} | {time.process_time() - start:.1f} |")


if __name__ == "__main__":
    weights()
    removal()
    page()
