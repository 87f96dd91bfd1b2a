"""Decoding of OAT's paths with caches, against the literal loop that runs the whole network at every step.

Usage: python tests/benchmarks/scanpath_decode.py. One thread; random weights, 100 sampled paths of one scene. Every
round times both ways by processor time, in turn, on the same draws; the paths are compared first.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from attn.core.nets.oat import OAT, Decoding, LearnedPositions, OATShape, generate, table_width

PATHS, LONGEST, ROUNDS = 100, 16, 5
SIZES = {
    "of the paper (width 512, 4 + 4 layers, crops 150 x 93)": (OATShape(), (150, 93)),
    "of attn train oat (width 96, 2 + 2 layers, crops 32 x 24)": (
        OATShape(width=96, layers=2, feed_forward=96, head_width=96), (32, 24),
    ),
}  # fmt: skip
ROWS, COLS, TARGET = 3, 9, 5


def timed(net: OAT, crops: Tensor, triples: Tensor, decoding: Decoding) -> tuple[list[list[int]], float]:
    """Paths, and seconds of processor time."""
    start = time.process_time()
    found = generate(
        net, crops, triples, TARGET, ROWS, COLS, longest=LONGEST, samples=PATHS,
        generator=torch.Generator().manual_seed(1), decoding=decoding,
    )  # fmt: skip
    return found, time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    for name, (shape, size) in SIZES.items():
        torch.manual_seed(0)
        half = shape.width // 2
        net = OAT(shape, LearnedPositions(torch.randn(ROWS + COLS + 4, table_width(half)), half))
        objects = ROWS * COLS
        crops = torch.rand(objects, *size, 3)
        cells = torch.cartesian_prod(torch.arange(ROWS), torch.arange(COLS))
        triples = torch.cat((cells, torch.zeros(objects, 1, dtype=torch.int64)), 1)
        crops = torch.cat((crops, crops[TARGET : TARGET + 1]))
        triples = torch.cat((triples, triples[TARGET : TARGET + 1] + torch.tensor([[0, 0, 1]])))

        scene = (net, crops, triples)
        found = timed(*scene, "cached")[0]
        assert found == timed(*scene, "literal")[0], "both ways must draw the same paths"
        seconds = [(timed(*scene, "literal")[1], timed(*scene, "cached")[1]) for _ in range(ROUNDS)]
        ratios = [literal / cached for literal, cached in seconds]
        length = statistics.fmean(map(len, found))
        print(
            f"{name}: literal {statistics.median(s[0] for s in seconds):.3f} s, cached "
            f"{statistics.median(s[1] for s in seconds):.3f} s, ratio {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}); {PATHS} paths, mean length {length:.1f}"
        )


if __name__ == "__main__":
    main()
