"""Does the JSD ranking of heads predict cumulative pruning better than other measures? On shapes-vit, drawn pictures.

    python tests/benchmarks/probe_vit.py 100

Importance is measured on pictures of one seed, the curves on pictures of another. Markdown on stdout; counted FLOPs of
the restart against whole passes; prints what it finds, whatever that is.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from attn.core.models.load import load_model
from attn.core.probe.vit.curve import Pruning, curves_of
from attn.core.probe.vit.importance import agreement, gate_gradients, importance
from attn.core.probe.vit.restart import HeadSite
from attn.core.prune.shapes.labelled import labelled_set

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 100
POINTS, ORDERS = 8, 10
MODEL = sys.argv[2] if len(sys.argv) > 2 else "shapes-vit"


def pixels_of(loaded: object, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepared pictures and their classes."""
    scenes, images = labelled_set(COUNT, seed=seed), loaded.processor.images  # type: ignore[attr-defined]
    made = [images(picture.transpose(2, 0, 1).astype(np.float32) / 255) for picture in scenes.pictures]
    return torch.stack(made), torch.from_numpy(scenes.label)


def main() -> None:
    loaded = load_model(MODEL, "classifier")
    site = HeadSite(loaded.model)
    pixels, labels = pixels_of(loaded, 31)
    with torch.inference_mode(), FlopCounterMode(display=False) as ours:
        importance(site, pixels[:1])
    with torch.inference_mode(), FlopCounterMode(display=False) as one:
        site.says(pixels[:1])
    passes = 1 + site.depth * (site.heads + 1)
    print(
        f"{MODEL}: {site.depth} layers, {site.heads} heads; {passes} whole passes cost "
        f"{passes * one.get_total_flops() / ours.get_total_flops():.2f} times the counted FLOPs of the restart\n"
    )
    since = time.process_time()
    for target, given in (("pred", None), ("label", labels)):
        parts, gates = [], []
        for start in range(0, COUNT, 16):
            with torch.inference_mode():
                own = None if given is None else given[start : start + 16]
                part = importance(site, pixels[start : start + 16], labels=own)
            parts.append(part.heads)
            gates.append(gate_gradients(site, pixels[start : start + 16], part.target.clone()))
        means = {name: np.concatenate([part[name] for part in parts], -1).mean(-1) for name in parts[0]}
        means["gradient"] = np.concatenate(gates, -1).mean(-1)
        if target == "pred":
            del means["acc"]  # that of the predicted class is flip
        held, truth = pixels_of(loaded, 32)
        curves = curves_of(Pruning(site, held, truth, points=POINTS), means, seed=0, orders=ORDERS)
        print(f"target {target}; importance on {COUNT} pictures, curves on {COUNT} others, against their labels\n")
        rows = curves.rows()
        print("| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()) + " |")
        low, high = curves.random_area["accuracy"].min(), curves.random_area["accuracy"].max()
        print(f"\nrandom orders, area under accuracy: {low:.3f} to {high:.3f}")
        print("tau with jsd: " + ", ".join(f"{row['metric']} {row['jsd']:.2f}" for row in agreement(means)) + "\n")
    print(f"{time.process_time() - since:.0f} s of CPU time")


if __name__ == "__main__":
    main()
