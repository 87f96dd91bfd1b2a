"""Does dual masking help on captions with planted errors? Synthetic people, equal numbers of steps, several seeds.

    python tests/benchmarks/ga_dms_synthetic.py [--seeds 3] [--epochs 20] [--only none,both]

For every variant and seed it trains from scratch on captions of which a fifth of the attribute words is wrong, and
measures R@1 of correct captions on people never seen. Then GASS of all training captions: mean over wrong and right
attribute words, how often a wrong word scores below a right one of the same caption (0.5: chance), and how many of
each kind would be hidden from the contrastive loss. ``sample`` stretches scores over each caption instead of the
batch; ``random`` masks as often as the scores would at their middle, without looking. All variants train on ``sdm`` +
``itc``; equal steps are not equal time, which is listed, too. One core; a run takes about a minute of it.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from attn.core.bundles import Compute
from attn.core.fit.loop import fit
from attn.core.retrieve.gadms.masking import noise_probability
from attn.core.train.ga_dms.data import synthetic
from attn.core.train.ga_dms.options import GADMSOptions
from attn.core.train.ga_dms.recipe import score_captions
from attn.core.train.ga_dms.run import prepare_run

CONTRASTIVE = ("sdm", "itc")
VARIANTS = {
    "none": dict(losses=CONTRASTIVE, noise=False),
    "noise": dict(losses=CONTRASTIVE, noise=True),
    "words": dict(losses=(*CONTRASTIVE, "mlm"), noise=False),
    "both": dict(losses=(*CONTRASTIVE, "mlm"), noise=True),
    "sample": dict(losses=(*CONTRASTIVE, "mlm"), noise=True, gass_scale="sample"),
    "random": dict(losses=(*CONTRASTIVE, "mlm"), noise=True, scores="uniform"),
}


def measure(variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    start = time.process_time()
    options = GADMSOptions(
        Path("run"), **VARIANTS[variant], epochs=arguments.epochs, warmup=1, batch=arguments.batch,
        evaluate_every=arguments.epochs, compute=Compute(seed=seed),
    )  # fmt: skip
    data = synthetic(seed, arguments.persons)
    run = prepare_run(data, options, torch.device("cpu"))
    with TemporaryDirectory() as folder:
        outcome = fit(run.recipe, run.plan, Path(folder), identity={})
    seconds = time.process_time() - start
    net = run.recipe.trainee.net.eval()
    scores = score_captions(net, data.training, run.recipe.batches.ids, run.gass, "cpu").numpy()
    return {"r1": outcome.best["r1"], "map": outcome.best["map"], "cpu_seconds": seconds, **words(scores, data)}


def words(scores: np.ndarray, data) -> dict[str, float]:
    """What the scores say of wrong and right attribute words."""
    wrong, right, below = [], [], []
    for row, bad, good in zip(scores, data.wrong, data.right, strict=True):
        low, high = [row[1 + i] for i in sorted(bad)], [row[1 + i] for i in sorted(good)]
        wrong += low
        right += high
        below += [float(a < b) + 0.5 * float(a == b) for a in low for b in high]
    hidden = [float(np.mean([noise_probability(float(s)) for s in group])) for group in (wrong, right)]
    means = {"gass_wrong": wrong, "gass_right": right, "wrong_below_right": below}
    return {name: float(np.mean(values)) for name, values in means.items()} | {
        "hidden_wrong": hidden[0], "hidden_right": hidden[1]
    }  # fmt: skip


def rows(arguments: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, float]]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only.split(",")}
    for seed in range(arguments.seeds):  # all variants of a seed first, so that a run cut short is still a comparison
        for name in found:
            found[name].append(measure(name, seed, arguments))
            print(f"{name} seed {seed}: {found[name][-1]}", file=sys.stderr, flush=True)
    yield from found.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seeds", 3), ("epochs", 20), ("persons", 300), ("batch", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default=",".join(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments}, torch {torch.__version__}")
    for name, runs in rows(arguments):
        cells = []
        for metric in runs[0]:
            values = [run[metric] for run in runs]
            cells.append(f"{metric} {np.mean(values):.3f} ± {np.std(values, ddof=min(1, len(values) - 1)):.3f}")
        print(f"{name:>6}: " + ", ".join(cells))


if __name__ == "__main__":
    main()
