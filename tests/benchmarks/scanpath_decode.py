"""Decoding of OAT's paths with caches, against the literal loop that runs the whole network at every step.

Usage: python tests/benchmarks/scanpath_decode.py. One thread; random weights, 100 sampled paths of one scene. Every
round times both ways by processor time, in turn, on the same draws; the paths are compared first.
"""

from __future__ import annotations

import statistics
import time

import torch

from attn.core.nets.oat import OAT, Decoding, LearnedPositions, OATShape, generate, table_width

PATHS, LONGEST, ROUNDS = 100, 16, 5
SIZES = {
    "of the paper (width 512, 4 + 4 layers, crops 150 x 93)": (OATShape(), (150, 93)),
    "of attn train oat (width 96, 2 + 2 layers, crops 32 x 24)": (
        OATShape(width=96, layers=2, feed_forward=96, head_width=96), (32, 24),
    ),
}  # fmt: skip
ROWS, COLS = 3, 9


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
        target = 5
        crops = torch.cat((crops, crops[target : target + 1]))
        triples = torch.cat((triples, triples[target : target + 1] + torch.tensor([[0, 0, 1]])))

        def paths(decoding: Decoding) -> tuple[list[list[int]], float]:
            start = time.process_time()
            found = generate(
                net, crops, triples, target, ROWS, COLS, longest=LONGEST, samples=PATHS,
                generator=torch.Generator().manual_seed(1), decoding=decoding,
            )  # fmt: skip
            return found, time.process_time() - start

        assert paths("cached")[0] == paths("literal")[0], "both ways must draw the same paths"
        seconds = [(paths("literal")[1], paths("cached")[1]) for _ in range(ROUNDS)]
        ratios = [literal / cached for literal, cached in seconds]
        length = statistics.fmean(map(len, paths("cached")[0]))
        print(
            f"{name}: literal {statistics.median(s[0] for s in seconds):.3f} s, cached "
            f"{statistics.median(s[1] for s in seconds):.3f} s, ratio {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}); {PATHS} paths, mean length {length:.1f}"
        )


if __name__ == "__main__":
    main()
