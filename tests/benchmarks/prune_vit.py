"""Tokens of the packaged ViT on photos: class-token cosine and counted cost of tome and as-vit against random.

``python tests/benchmarks/prune_vit.py DATA/photos/images [PHOTOS]`` prints a table in Markdown. as-vit is not trained:
its thresholds are quantiles of the scores of every second photo; the others are measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from attn.core.models.pictures import read_picture
from attn.core.prune.methods.base import Keep
from attn.core.prune.vit.as_vit import AsViT
from attn.core.prune.vit.base import VitPruner
from attn.core.prune.vit.ranked import ClassAttention, RandomPatches
from attn.core.prune.vit.site import image_site
from attn.core.prune.vit.tome import ToMe
from attn.core.prune.vit.trained import load_image_model

KEEPS = (0.75, 0.5, 0.35)
SEEDS = 3


def main(folder: Path, count: int) -> None:
    """Print the table."""
    loaded = load_image_model("vit")
    files = sorted(folder.glob("*.jpg"))
    files = files[:: max(1, len(files) // (2 * count))][: 2 * count]
    prepare = loaded.processor.images
    assert prepare is not None
    ready = [prepare.prepared(read_picture(file).pixels) for file in files]
    fitted, measured = ready[::2], ready[1::2]
    batches = torch.stack([one.pixels for one in fitted]).split(16)  # type: ignore[no-untyped-call]
    site = image_site(loaded.model)
    print("| method | keep counted | cost share | class-token cosine | kept, deviation between photos |")
    print("|---|---|---|---|---|")
    for share in KEEPS:
        keep = Keep(share=share)
        with torch.inference_mode():
            calibrated, _ = AsViT().fitted(site, batches, keep)
        methods: list[tuple[str, list[VitPruner]]] = [
            ("random", [RandomPatches(seed=seed) for seed in range(SEEDS)]),
            ("class-attention", [ClassAttention()]), ("as-vit, quantiles", [calibrated]), ("tome", [ToMe()]),
        ]  # fmt: skip
        for name, pruners in methods:
            runs = [pruner.run_prepared(loaded.model, measured, keep, batch=16) for pruner in pruners]
            results = [result for run in runs for result in run.results]
            cosine = sum(r.cosine for r in results) / len(results)
            cost = sum(r.multiply_adds / r.multiply_adds_before for r in results) / len(results)
            kept = torch.tensor([r.retention for r in results]).std(correction=0)
            counted = sum(run.keep for run in runs) / len(runs)
            print(f"| {name} | {counted:.3f} | {cost:.3f} | {cosine:.4f} | {kept:.3f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60)
