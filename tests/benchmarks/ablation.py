"""The paper's ablation and its claim about trunks, at one small budget each: same photos, crops, steps and seeds.

``python tests/benchmarks/ablation.py DATA/fundus/DRIVE OUT [--steps 300] [--crop 128] [--seeds 1,2,3]`` trains every
variant once per seed (runs in OUT that are finished are read, not repeated) and prints a Markdown table: F1 and AUC on
the four held-out training photos at the best threshold, mean and standard deviation over the seeds. The test half of
DRIVE plays no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from attn.core.bundles import Compute
from attn.core.train.fsgnet.options import FSGNetOptions
from attn.core.train.fsgnet.run import train_fsgnet

VARIANTS = {
    "FSG-Net": dict(),
    "no attention (`--no-attention`)": dict(attention=False),
    "no guided block (`--no-guided`)": dict(guided=False),
    "U-Net trunk (`--trunk unet`)": dict(trunk="unet"),
    "U-Net trunk, no guided block": dict(trunk="unet", guided=False),
    "BiFormer trunk (`--trunk biformer`)": dict(trunk="biformer"),
    "HaloNet trunk (`--trunk halo`)": dict(trunk="halo"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the variants to train now, from 0")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for seed in (int(part) for part in arguments.seeds.split(",")):
        for index, (name, changes) in enumerate(VARIANTS.items()):
            folder = arguments.output / f"{index}-{seed}"
            options = FSGNetOptions(
                folder, data=str(arguments.data), steps=arguments.steps, warmup=30, crop=arguments.crop,
                evaluate_every=arguments.steps, compute=Compute(seed=seed, threads=arguments.threads), **changes,
            )  # fmt: skip
            done = folder / "report.json"
            if not done.exists() and arguments.only is not None and index not in arguments.only:
                continue
            if not done.exists():
                report = train_fsgnet(options)
                done.write_text(json.dumps(dict(report.items[0].metrics) | {"seconds": report.seconds}))
            found[name].append(json.loads(done.read_text()))
    print("| variant | parameters | seeds | F1 | AUC |\n|---|---|---|---|---|")
    for name, changes in VARIANTS.items():
        if not found[name]:
            continue
        architecture = FSGNetOptions(arguments.output, **changes).architecture()
        parameters = sum(p.numel() for p in architecture.build().parameters())
        cells = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v) if len(v) > 1 else 0:.4f}"
                 for v in ([row[key] for row in found[name]] for key in ("f1", "auc"))]  # fmt: skip
        print(f"| {name} | {parameters:,} | {len(found[name])} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
