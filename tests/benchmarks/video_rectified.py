"""Videos by dense, block-sparse and rectified attention from the same noise: how far they are from the dense ones.

    python tests/benchmarks/video_rectified.py [--tokens 4k,16k] [--steps 20] [--seeds 0,1,2] [--picture DIR]

prints a table in Markdown for each length. The model is the one that ships as moving-shapes (made by `attn train
moving-shapes`), or the folder of another (--model). Specification: methods/rectified-spaattn.md, sections 3.6 and 6.
Seconds are CPU time of this process, on one thread, so that other work on the machine shows less.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from attn.core.models.video import load_video_model, shipped_video_model
from attn.core.train.moving_shapes.compare import compared, kinds
from attn.core.train.moving_shapes.run import draw
from attn.core.train.moving_shapes.sampling import Sparsity

GRIDS = {"2k": (8, 16, 16), "4k": (16, 16, 16), "8k": (16, 16, 32), "16k": (16, 32, 32)}
"""Frames, rows and columns of tokens."""


def main() -> None:
    """Print the tables."""
    usual = Sparsity()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=shipped_video_model())
    parser.add_argument("--tokens", default="4k,16k", help=f"of {', '.join(GRIDS)}")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", default="0,1,2", help="of the noise")
    parser.add_argument("--drop-rate", type=float, default=usual.drop_rate)
    parser.add_argument("--tau-p", type=float, default=usual.tau_p)
    parser.add_argument("--block-size", type=int, default=usual.block_size)
    parser.add_argument("--picture", type=Path, help="folder for frames of the first seed, as PNG")
    given = parser.parse_args()
    torch.set_num_threads(1)
    net = load_video_model(given.model)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    sparsity = Sparsity(drop_rate=given.drop_rate, tau_p=given.tau_p, block_size=given.block_size)
    for length in given.tokens.split(","):
        print(f"\n{length} tokens {GRIDS[length]}, {given.steps} steps, seeds {given.seeds}, {sparsity}\n")
        print("| attention | pairs attended | s | × dense | PSNR to dense, dB | least | most |")
        print("|---|---|---|---|---|---|---|", flush=True)
        videos, ground, attentions = {}, float("nan"), kinds(given.steps, sparsity)
        for row, video in compared(net, GRIDS[length], given.steps, seeds, attentions, torch.device("cpu")):
            videos[row["attention"]] = video
            ground = row.get("psnr_ground", ground)
            quality = [f"{row[name]:.2f}" if name in row else "–" for name in ("psnr", "psnr_least", "psnr_most")]
            cells = [f"{row['density']:.3f}", f"{row['seconds']:.1f}", f"{row['speedup']:.2f}", *quality]
            print(f"| {row['attention']} | {' | '.join(cells)} |", flush=True)
        print(f"\nThe dense videos' ground alone, without shapes: {ground:.2f} dB.", flush=True)
        if given.picture:
            given.picture.mkdir(parents=True, exist_ok=True)
            draw(videos, given.picture / f"videos_{length}.png")


if __name__ == "__main__":
    main()
