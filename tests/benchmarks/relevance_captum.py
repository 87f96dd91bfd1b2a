"""Relevance against captum's LRP of the same model: largest difference, time, and what deletion says of both.

    python tests/benchmarks/relevance_captum.py [--pictures 20] [--model shapes-cnn]

captum is no dependency of attn: without it, this says so and stops. Times are CPU seconds of one process; rule by rule
the two are run in turns on the same pictures. captum has no rule for AdaptiveAvgPool2d and none for a Flatten of a
functional call: it is given the chain of modules.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from attn.core.models.load import load_model
from attn.core.probe.relevance.chain import chain_of, walked
from attn.core.probe.relevance.composites import rules_of
from attn.core.probe.relevance.look import Looker
from attn.core.probe.relevance.propagate import propagate
from attn.core.prune.shapes.labelled import labelled_set


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def main() -> None:
    try:
        from captum.attr import LRP
        from captum.attr._utils.lrp_rules import EpsilonRule
    except ImportError:
        sys.exit("captum is not installed: nothing is compared (pip install captum, in an environment of its own)")
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--model", default="shapes-cnn")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(given.model, "classifier")
    looker, images = Looker(loaded), loaded.processor.images
    assert images is not None
    links = chain_of(loaded.model)
    # an average onto the grid that is there already changes nothing, and captum knows no rule for it
    modules = [one.module for one in walked(links) if not isinstance(one.module, nn.AdaptiveAvgPool2d)]
    chain = nn.Sequential(*modules)

    def captums(x: Tensor, target: int) -> Tensor:
        for module in modules:  # captum takes the rules away when it is done
            if isinstance(module, nn.Conv2d | nn.Linear | nn.MaxPool2d | nn.Flatten):
                module.rule = EpsilonRule(epsilon=1e-9)  # type: ignore[assignment]
        out: Tensor = LRP(chain).attribute(x, target=target)[0].detach()
        return out

    rules, stable = rules_of("epsilon", epsilon=1e-9), rules_of("stable")
    worst, ours, theirs = [], [], []
    areas: dict[str, list[tuple[float, float]]] = {"captum": [], "epsilon": [], "stable": []}
    for picture in labelled_set(given.pictures).pictures:
        pixels = images(picture.transpose(2, 0, 1).astype(np.float32) / 255)
        x = looker.batch(pixels)
        own, own_seconds = timed(lambda x=x: propagate(links, rules, x).pixels)  # type: ignore[misc]
        target = int(loaded.model(x).argmax())
        peer, peer_seconds = timed(lambda x=x, t=target: captums(x, t))  # type: ignore[misc]
        worst.append(float((own - peer).abs().max() / peer.abs().max()))
        ours.append(own_seconds)
        theirs.append(peer_seconds)
        maps = {"captum": peer, "epsilon": own, "stable": propagate(links, stable, x, target).pixels}
        for name, found in maps.items():
            gone = looker.removal(links, pixels, found.sum(0).numpy(), target)
            areas[name].append((gone.deletion, gone.insertion))
    print(f"{given.model}, {given.pictures} pictures, epsilon rules of both")
    print(f"largest difference over the largest relevance: {max(worst):.2e} (median {statistics.median(worst):.2e})")
    mine, peer_ms = (1000 * statistics.median(seconds) for seconds in (ours, theirs))
    print(f"CPU ms per picture: attn {mine:.1f}, captum {peer_ms:.1f}, ratio {peer_ms / mine:.2f}")
    for name, values in areas.items():
        deletion, insertion = np.mean(values, 0)
        print(f"{name}: deletion AUC {deletion:.4f}, insertion AUC {insertion:.4f}")


if __name__ == "__main__":
    main()
